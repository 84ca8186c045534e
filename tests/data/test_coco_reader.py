import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from efpn.data.balance import count_matrix
from efpn.data.check import check_index
from efpn.data.coco import CocoJson
from efpn.errors import UserError, raise_problems
from efpn.metrics.score import SplitScorer

SPLITS = {"train": {"images": "train", "annotations": "train.json"}}


def load(root, **arguments):
    return CocoJson(SPLITS, root, **arguments).load("train")


def test_reads_boxes_crowds_sizes_and_scattered_category_ids(coco):
    root = coco()
    index = load(root)
    assert index.categories.names == ("lamp", "car")
    assert index.categories.ids == (90, 4)
    without, annotated = index.records
    assert (without.image_id, annotated.image_id) == (3, 7)
    assert without.size is None
    assert annotated.size == (30, 40)
    np.testing.assert_array_equal(annotated.boxes, [[4, 5, 14, 17], [0, 0, 40, 30]])
    assert annotated.labels.tolist() == [1, 2]
    assert annotated.crowd.tolist() == [False, True]
    assert count_matrix(index).sum(axis=0).tolist() == [1, 0]


def test_files_are_read_once(coco):
    root = coco()
    source = CocoJson(SPLITS, root)
    index = source.load("train")
    (root / "train.json").unlink()
    assert source.load("train") is index
    assert len(source.categories) == 2


def test_export_gives_back_what_was_read(coco):
    root = coco()
    original, exported = json.loads((root / "train.json").read_text()), load(root).to_coco()
    assert exported["annotations"] == original["annotations"]
    assert exported["categories"] == original["categories"]
    assert {"id": 7, "file_name": "train/a.jpg", "width": 40, "height": 30} in exported["images"]


def annotation(number=1, **changes):
    return {"id": number, "image_id": 7, "category_id": 90, "bbox": [4, 5, 10, 12], **changes}


def test_the_annotations_own_area_is_carried(coco):
    given = [annotation(1, area=77.5), annotation(2), annotation(3, area=None), annotation(4, area=0)]
    index, _ = check_index(load(coco(annotations=given)))
    record = index.records[1]
    np.testing.assert_array_equal(record.area, [77.5, np.nan, np.nan, 0])
    np.testing.assert_array_equal(record.keep(np.array([True, False, False, True])).area, [77.5, 0])
    assert [one["area"] for one in index.to_coco()["annotations"]] == [77.5, 120, 120, 0]


@pytest.mark.parametrize("area", ["700", -1, float("nan"), float("inf"), True, 10**400, [7]])
def test_an_area_that_is_none_is_named(coco, area):
    (problem,) = load(coco(annotations=[annotation(5, area=area)])).problems
    assert "train.json: annotation 5 of image 7: area is " in str(problem)
    assert "give the object's area in square pixels, 0 or more, or leave it out" in str(problem)


def test_ap_and_ar_by_size_are_pycocotools_on_a_file_whose_areas_differ(coco, tmp_path):
    random = np.random.default_rng(4)
    truth, found = [], []
    for number in range(1, 121):
        x, y, w, h = random.uniform([0, 0, 8, 8], [350, 350, 140, 140]).tolist()
        image = int(random.integers(1, 13))
        one = {"image_id": image, "category_id": int(random.choice([90, 4])), "bbox": [x, y, w, h]}
        crowd = int(number % 12 == 0)
        truth.append({**one, "id": number, "area": w * h * random.uniform(0.2, 1), "iscrowd": crowd})
        for _ in range(random.integers(0, 4)):
            moved = np.add(one["bbox"], random.normal(0, 4, 4)).clip(1).tolist()
            found.append({**one, "bbox": moved, "score": random.random()})
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 500, "height": 500} for n in range(1, 13)]
    root = coco(images=images, annotations=truth)
    index, _ = check_index(load(root), open_images="none")
    ours = SplitScorer(index.to_coco(), index.categories.evaluated_ids, 0.5)(found, [one["id"] for one in images])

    table = COCO(str(root / "train.json"))
    judge = COCOeval(table, table.loadRes([dict(one) for one in found]), "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    names = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", None, None, "AR", "AR_S", "AR_M", "AR_L")
    for name, expected in zip(names, judge.stats, strict=True):
        assert name is None or ours[name] == pytest.approx(expected, abs=1e-9), name
    exported = index.to_coco()
    for one in exported["annotations"]:
        del one["area"]
    by_box = SplitScorer(exported, index.categories.evaluated_ids, 0.5)(found, [one["id"] for one in images])
    assert by_box["AP_S"] != pytest.approx(ours["AP_S"], abs=0.01)  # the areas matter here


def test_evaluated_names(coco):
    assert load(coco(), evaluated=["car"]).categories.evaluated == (False, True)
    with pytest.raises(UserError, match=r"no category named bus; correct data.source.evaluated"):
        load(coco(), evaluated=["bus"])


def test_only_loaded_splits_have_to_exist(coco):
    splits = SPLITS | {"val": {"images": "nowhere", "annotations": "val.json"}}
    source = CocoJson(splits, coco())
    assert len(source.load("train")) == 2
    with pytest.raises(
        UserError, match=r"nowhere does not exist; give the right one with data.source.splits.val.images="
    ):
        source.load("val")


def test_carla_street(shared_data):
    root = shared_data / "carla_street"
    source = CocoJson(SPLITS | {"test": {"images": "test", "annotations": "test.json"}}, root)
    train, test = source.load("train"), source.load("test")
    assert (len(train), len(test), train.box_count + test.box_count) == (779, 249, 4395)
    assert len(source.categories) == 5
    assert not train.problems and not test.problems


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "category_id",
            5,
            "annotation 9 of image 7: unknown category 5; add it to 'categories' or correct category_id",
        ),
        (
            "bbox",
            [1, 2, 3],
            "of image 7: bbox is [1, 2, 3]; give four finite numbers: x, y, width, height",
        ),
        ("bbox", None, "annotation 9 of image 7: bbox is null"),
        ("bbox", [True, 2, 3, 4], "bbox is [True, 2, 3, 4]; give four finite numbers"),
        ("bbox", [1, 2, 10**400, 4], "bbox is [1, 2, 100000000"),
        ("bbox", [1, 2, float("inf"), 4], "bbox is [1, 2, inf, 4]; give four finite numbers"),
        ("iscrowd", "0", "annotation 9 of image 7: iscrowd is '0'; write the number 0 or 1 as iscrowd"),
        ("iscrowd", 2, "iscrowd is 2; write the number 0 or 1"),
        ("category_id", [4], "category_id is [4]; add it to 'categories' or correct category_id"),
        ("category_id", True, "category_id is true; add it"),
        ("area", "large", "area is 'large'; give the object's area in square pixels"),
        ("image_id", 99, "annotation 9: points to the unknown image 99; add the image to 'images' or remove"),
    ],
)
def test_bad_annotation(coco, key, value, message):
    thing = {"id": 9, "image_id": 7, "category_id": 4, "bbox": [1, 2, 3, 4]} | {key: value}
    (problem,) = load(coco(annotations=[thing])).problems
    assert message in str(problem)
    assert "train.json" in str(problem)


def test_duplicate_ids(coco):
    images = [{"id": 7, "file_name": name} for name in ("a.jpg", "b.jpg")]
    things = [{"id": 1, "image_id": 7, "category_id": 4, "bbox": [1, 2, 3, 4]}] * 2
    index = load(coco(images=images, annotations=things))
    assert [f"{problem.record}: {problem.what}" for problem in index.problems] == [
        "image 7: duplicate id, 2 times",
        "annotation 1: duplicate id, 2 times",
    ]
    assert [record.path.name for record in index.records] == ["a.jpg"]


def test_a_file_that_two_images_share(coco):
    images = [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "a.jpg"}, {"id": 9, "file_name": "b.jpg"}]
    (problem,) = load(coco(images=images, annotations=[])).problems
    assert "train.json: file_name a.jpg: of 2 images; list each file once, with all its annotations" in str(problem)


def test_splits_with_other_categories(coco):
    root = coco()
    content = json.loads((root / "train.json").read_text()) | {"categories": [{"id": 90, "name": "bulb"}]}
    (root / "val.json").write_text(json.dumps(content))
    source = CocoJson(SPLITS | {"val": {"images": "train", "annotations": "val.json"}}, root)
    with pytest.raises(UserError, match=r"val.json: its categories differ from those of .*train.json"):
        source.load("val")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"categories": []}, "'categories': is empty; list each class with id and name"),
        ({"categories": [{"id": 1}]}, r"categories\[0\]: lacks name; each needs a text as name"),
        (
            {"categories": [{"id": "1", "name": "x"}]},
            r"categories\[0\]: id is '1'; each needs a whole number of at most 2",
        ),
        ({"annotations": None}, "'annotations': is null, not a list; make it a list of objects"),
        ({"images": ["a.jpg"]}, r"images\[0\]: is 'a.jpg', not an object; remove it"),
        ({"images": [{"id": 7}]}, r"images\[0\]: lacks file_name; each needs a text as file_name"),
        (
            {"images": [{"id": 7, "file_name": "a.jpg", "width": "40", "height": 30}]},
            r"images\[0\]: width is '40'; give",
        ),
        (
            {"annotations": [{"id": 1, "image_id": "7", "category_id": 90, "bbox": [1, 2, 3, 4]}]},
            r"annotations\[0\]: image_id is '7'; each needs a whole number of at most 2",
        ),
        (
            {"categories": [{"id": 1, "name": "x"}, {"id": 1, "name": "y"}]},
            r"train\.json: categories: id given more than once: 1",
        ),
        ({"images": [{"id": True, "file_name": "a.jpg"}]}, r"images\[0\]: id is true; each needs a whole number of at"),
        ({"images": [{"id": 2**60, "file_name": "a.jpg"}]}, r"images\[0\]: id is 1152921504606846976; each needs"),
        ({"images": [{"id": 10**60, "file_name": "a.jpg"}]}, r"id is a number of more than 40 digits; each needs"),
        ({"images": [{"id": 7, "file_name": "a.jpg", "width": 10**400}]}, r"width is a number of more than 40 digits"),
        (
            {"annotations": [{"id": 1, "image_id": [7], "category_id": 90, "bbox": [1, 2, 3, 4]}]},
            r"annotations\[0\]: image_id is \[7\]; each needs",
        ),
        (
            {"images": [{"id": "x", "file_name": "a.jpg"}]},
            r"images\[0\]: id is 'x'; each needs a whole number of at most 2",
        ),
    ],
)
def test_unusable_file(coco, changes, message):
    with pytest.raises(UserError, match=message):
        load(coco(**changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda file: (file.unlink(), file.mkdir()),
            r"annotation file .*: cannot be read \(Is a directory\)",
        ),
        (
            lambda file: file.write_bytes(b'{"images": "\xff"}'),
            r"train\.json: not a JSON file \('utf-8' codec",
        ),
        (lambda file: file.write_text("[" * 100_000), r"train\.json: not a JSON file of ours \(nested too deeply\)"),
        (lambda file: file.write_text("1" * 5000), r"train\.json: not a JSON file \(Exceeds the limit"),
        (
            lambda file: file.write_text('{"images": ['),
            r"train\.json: not a JSON file \(line 1, column 13: .*fetch",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_named(coco, damage, message):
    root = coco()
    damage(root / "train.json")
    with pytest.raises(UserError, match=message):
        load(root)


def test_a_byte_order_mark_is_no_damage(coco):
    root = coco()
    (root / "train.json").write_bytes(b"\xef\xbb\xbf" + (root / "train.json").read_bytes())
    assert len(load(root)) == 2


def test_many_records_with_one_fault_are_one_line(coco):
    things = [{"id": n, "image_id": 7, "category_id": 4, "bbox": [1, 2, 3]} for n in range(50)]
    things.append({"id": 50, "image_id": 7, "category_id": 5, "bbox": [1, 2, 3, 4]})
    with pytest.raises(UserError) as caught:
        index = load(coco(annotations=things))
        raise_problems(index.name, index.problems)
    first, boxes, category = str(caught.value).splitlines()
    assert first == "things/train: 51 problems" and "annotation 50 of image 7: unknown category 5" in category
    examples = ", ".join(f"annotation {n} of image 7: bbox is [1, 2, 3]" for n in range(3))
    assert boxes.endswith(f"train.json: 50 times, such as {examples}; give four finite numbers: x, y, width, height")


def test_all_that_is_misshapen_is_listed_together(coco):
    images = [{"id": "x", "file_name": "a.jpg"}, {"id": 2, "file_name": None}, {"id": 3.5, "file_name": "c.jpg"}]
    with pytest.raises(
        UserError, match=r"(?s)things/train: 4 problems.*\[0\]: id.*\[2\]: id is 3.*\[1\]: file_name is null"
    ):
        load(coco(images=images, annotations={}))


def test_a_null_width_is_a_size_not_known(coco):
    (record,) = load(coco(images=[{"id": 7, "file_name": "a.jpg", "width": None, "height": 30}])).records
    assert record.size is None


def test_missing_pieces(coco, tmp_path):
    with pytest.raises(UserError, match=r"nowhere does not exist; give the right one with data.root=FOLDER"):
        CocoJson(SPLITS, tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"data.source.splits is empty"):
        CocoJson({}, tmp_path)
    root = coco()
    with pytest.raises(UserError, match=r"data.splits names the split 'val', but data.source.splits has only train"):
        CocoJson(SPLITS, root).load("val")
    with pytest.raises(UserError, match=r"annotation file .*gone.json: no such file; check the data set"):
        CocoJson({"train": {"images": "train", "annotations": "gone.json"}}, root).load("train")
    with pytest.raises(UserError, match=r"splits.train is .*; give \{images: DIR, annotations: FILE\}"):
        CocoJson({"train": {"images": "train"}}, root).load("train")
