import json

import numpy as np
import pytest

from efpn.data.balance import count_matrix
from efpn.data.tt100k import CLASSES_45, TT100K
from efpn.errors import UserError, raise_problems


def test_reads_boxes_labels_and_ids(tt100k, tt100k_sign):
    root = tt100k({"train": {12: [tt100k_sign("pl50", (1.5, 2, 30, 20.25)), tt100k_sign("pn")], 5: []}})
    index = TT100K(root).load("train")
    assert index.name == "signs/train"
    assert [record.image_id for record in index.records] == [12, 5]
    first, second = index.records
    np.testing.assert_array_equal(first.boxes, [[1.5, 2, 30, 20.25], [4, 5, 14, 17]])
    assert first.labels.tolist() == [2, 1]
    assert first.path == root / "train/12.jpg"
    assert first.size is None
    assert second.boxes.shape == (0, 4)
    assert count_matrix(index).sum(axis=0).tolist() == [1, 1, 0]
    assert index.problems == ()


def test_reads_the_2021_layout(tt100k, tt100k_sign):
    root = tt100k({"train": {1: [tt100k_sign()]}}, name="annotations_all.json")
    assert TT100K(root).load("train").source.name == "annotations_all.json"


def test_two_releases_in_one_folder_must_be_chosen_between(tt100k, tt100k_sign):
    root = tt100k({"train": {1: [tt100k_sign()]}})
    (root / "annotations_all.json").write_text((root / "annotations.json").read_text())
    with pytest.raises(UserError, match=r"two releases; choose one with data.source.annotations=annotations.json or"):
        TT100K(root)
    assert TT100K(root, annotations="annotations_all.json").annotations.name == "annotations_all.json"


def test_evaluated_by_count_looks_at_the_named_splits_only(tt100k, tt100k_sign):
    splits = {"train": {1: [tt100k_sign("pn")], 2: [tt100k_sign("pl50")]}, "test": {3: [tt100k_sign("pn")]}}
    root = tt100k(splits)
    both = TT100K(root, evaluated={"min_count": 2, "splits": ["train", "test"]}).categories
    assert both.evaluated == (True, False, False)
    assert both.evaluated_labels == (1,)
    assert TT100K(root, evaluated={"min_count": 1, "splits": ["train"]}).categories.evaluated == (True, True, False)


def test_merged_others_become_one_label_that_is_not_evaluated(tt100k, tt100k_sign):
    root = tt100k({"train": {1: [tt100k_sign("w1"), tt100k_sign("pl50"), tt100k_sign("pn")]}})
    source = TT100K(root, evaluated=["pl50"], others="merged")
    assert source.categories.names == ("pl50", "other")
    assert source.categories.evaluated == (True, False)
    assert source.load("train").records[0].labels.tolist() == [2, 1, 2]


def test_the_45_classes(shared_data):
    assert len(CLASSES_45) == len(set(CLASSES_45)) == 45
    counted = TT100K(
        shared_data / "tt100k_labels", evaluated={"min_count": 100, "splits": ["train", "test"]}
    ).categories
    assert {counted.names[label - 1] for label in counted.evaluated_labels} == set(CLASSES_45)
    listed = TT100K(shared_data / "tt100k_mosaic", evaluated="paper45", others="merged").categories
    assert len(listed) == 46
    assert sum(listed.evaluated) == 45


def test_real_labels_have_the_known_counts(shared_data):
    source = TT100K(shared_data / "tt100k_labels")
    train, test = source.load("train"), source.load("test")
    assert (len(train), len(test)) == (6105, 3065)
    assert train.box_count + test.box_count == 24705
    assert not train.problems and not test.problems


def test_coco_export_keeps_native_pixels(tt100k, tt100k_sign):
    root = tt100k({"train": {12: [tt100k_sign("pl50", (1.5, 2, 30, 20))], 5: []}})
    coco = TT100K(root).load("train").to_coco()
    assert coco["images"] == [{"id": 12, "file_name": "train/12.jpg"}, {"id": 5, "file_name": "train/5.jpg"}]
    expected = {"id": 1, "image_id": 12, "category_id": 2, "bbox": [1.5, 2, 28.5, 18], "area": 513.0, "iscrowd": 0}
    assert coco["annotations"] == [expected]
    assert coco["categories"][1] == {"id": 2, "name": "pl50"}
    json.dumps(coco)


def problems(root, split="train"):
    return [str(problem) for problem in TT100K(root).load(split).problems]


def test_missing_root(tmp_path):
    with pytest.raises(
        UserError, match=r"data folder .*nowhere does not exist; give the right one with data.root=FOLDER"
    ):
        TT100K(tmp_path / "nowhere")


def test_root_without_annotations(tmp_path):
    with pytest.raises(UserError, match=r"has no annotations.json or annotations_all.json"):
        TT100K(tmp_path)


def test_cut_off_json_names_file_and_place(tt100k, tt100k_sign):
    root = tt100k({"train": {1: [tt100k_sign()]}})
    text = (root / "annotations.json").read_text()
    (root / "annotations.json").write_text(text[:40])
    with pytest.raises(UserError, match=r"annotations.json: not a JSON file \(line 1, column \d+"):
        TT100K(root).load("train")


def test_json_of_another_format(tt100k):
    root = tt100k({"train": {}})
    (root / "annotations.json").write_text('{"images": []}')
    with pytest.raises(UserError, match="lacks the key 'types', 'imgs'"):
        TT100K(root).load("train")


def test_ids_without_annotation_are_all_listed(tt100k, tt100k_sign):
    root = tt100k({"train": {1: [tt100k_sign()]}}, ids={"train": [1, 8, 9]})
    found = problems(root)
    assert len(found) == 2
    assert found[0].endswith("image 8: listed here but not in annotations.json; remove the id or add its annotation")
    assert "image 9" in found[1] and "ids.txt" in found[1]
    with pytest.raises(UserError, match="signs/train: 2 problems"):
        index = TT100K(root).load("train")
        raise_problems(index.name, index.problems)


def test_duplicate_id_is_read_once_and_reported(tt100k, tt100k_sign):
    root = tt100k({"train": {1: [tt100k_sign()]}}, ids={"train": [1, 1]})
    assert problems(root) == [f"{root / 'train/ids.txt'}: image 1: duplicate id, listed 2 times; list it once"]
    assert len(TT100K(root).load("train")) == 1


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (
            {"category": "zz", "bbox": {}},
            "image 1, object 1: unknown category 'zz'; add it to 'types' or correct the name",
        ),
        ({"category": "pn"}, "image 1, object 1: lacks the field 'bbox'"),
        ({"category": "pn", "bbox": {"xmin": 1, "ymin": 2, "xmax": 3}}, "lacks the field 'ymax'"),
        ({"category": "pn", "bbox": {"xmin": None, "ymin": 2, "xmax": 3, "ymax": 4}}, "object 1: xmin is null; each"),
        ({"category": "pn", "bbox": {"xmin": "1", "ymin": 2, "xmax": 3, "ymax": 4}}, "xmin is '1'; each object needs"),
        (
            {"category": "pn", "bbox": {"xmin": True, "ymin": 2, "xmax": 3, "ymax": 4}},
            "xmin is true; each object",
        ),
        ({"category": "pn", "bbox": [1, 2, 3, 4]}, "bbox is [1, 2, 3, 4]; each object needs"),
        ({"category": ["pn"], "bbox": {}}, "unknown category ['pn']; add it to 'types'"),
        ("sign", "object 1: is 'sign', not an object; each object needs"),
    ],
)
def test_bad_objects_are_reported_and_the_others_kept(tt100k, tt100k_sign, thing, message):
    root = tt100k({"train": {1: [tt100k_sign("pl50"), thing, tt100k_sign("pn")]}})
    (found,) = problems(root)
    assert message in found
    assert TT100K(root).load("train").records[0].labels.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (5, "image 1: is 5, not an object; each image needs a text as path and a list as objects"),
        ({"path": 5, "objects": []}, "image 1: path is 5; each image needs"),
        ({"objects": {}}, "image 1: objects is {}, not a list; each image needs"),
    ],
)
def test_a_misshapen_image_is_named(tt100k, entry, message):
    root = tt100k({"train": {1: []}})
    content = json.loads((root / "annotations.json").read_text())
    (root / "annotations.json").write_text(json.dumps(content | {"imgs": {"1": entry}}))
    (found,) = problems(root)
    assert message in found
    assert TT100K(root).count(["train"]) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"types": {"pn": 1}}, r"annotations\.json: 'types' is \{'pn': 1\}; make it a list of class names"),
        ({"types": ["pn", 5]}, r"'types' is \['pn', 5\]; make it a list"),
        ({"imgs": []}, r"annotations\.json: 'imgs' is \[\]; make it an object of images by id"),
    ],
)
def test_a_misshapen_file_is_named(tt100k, change, message):
    root = tt100k({"train": {1: []}})
    content = json.loads((root / "annotations.json").read_text())
    (root / "annotations.json").write_text(json.dumps(content | change))
    with pytest.raises(UserError, match=message):
        TT100K(root).load("train")


def test_unknown_split_names_the_missing_list(tt100k):
    with pytest.raises(UserError, match=r"split 'val' of .*val/ids.txt does not exist"):
        TT100K(tt100k({"train": {}})).load("val")


@pytest.mark.parametrize("token", ["x1", "-3", "9" * 30])
def test_id_that_is_no_number(tt100k, token):
    with pytest.raises(UserError, match=rf"ids.txt: '{token}' is not an image id"):
        TT100K(tt100k({"train": {}}, ids={"train": [token]})).load("train")


def test_a_list_of_ids_that_is_no_text_is_named(tt100k):
    root = tt100k({"train": {}})
    (root / "train" / "ids.txt").write_bytes(b"\xff\xfe1")
    with pytest.raises(UserError, match=r"ids\.txt: .* is not an image id"):
        TT100K(root).load("train")


@pytest.mark.parametrize(
    ("evaluated", "message"),
    [
        ("paper46", "data.source.evaluated=paper46 is no known list; take paper45"),
        (["pn", "io", "po"], "evaluated classes not among its types: io, po"),
        ({"min_count": 5}, "needs the keys min_count and splits; it has min_count"),
        ({"min_count": 5, "splits": ["train"]}, "no class has 5 instances in train; lower"),
    ],
)
def test_bad_choice_of_evaluated_classes(tt100k, tt100k_sign, evaluated, message):
    source = TT100K(tt100k({"train": {1: [tt100k_sign()]}}), evaluated=evaluated)
    with pytest.raises(UserError, match=message):
        source.load("train")


def test_bad_others(tt100k):
    with pytest.raises(UserError, match=r"data.source.others is 'drop'; it must be 'separate' or 'merged'"):
        TT100K(tt100k({"train": {}}), others="drop")
