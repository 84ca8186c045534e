import time
from dataclasses import replace

import numpy as np
import pytest

from efpn.data.check import check_index, log_report
from efpn.data.coco import CocoJson
from efpn.data.records import Record
from efpn.data.tt100k import TT100K
from efpn.errors import UserError


def error_of(index, **options) -> str:
    with pytest.raises(UserError) as caught:
        check_index(index, **options)
    return str(caught.value)


def test_a_sound_set_passes_and_gains_its_sizes(index):
    checked, report = check_index(index([[1, 2, 11, 12], [0, 0, 40, 30]], []))
    assert [record.size for record in checked.records] == [(30, 40), (30, 40)]
    assert str(report) == "set/train: 2 images (1 without a box), 2 boxes"
    assert checked.to_coco()["images"][0]["width"] == 40


def test_overhanging_boxes_are_clipped_counted_and_named(index):
    checked, report = check_index(index([[-3, 2, 11, 12], [30, 20, 44.5, 31]]))
    np.testing.assert_array_equal(checked.records[0].boxes, [[0, 2, 11, 12], [30, 20, 40, 30]])
    assert "2 boxes clipped to the image" in str(report)
    text = (
        "image 0 (0.jpg), box 1 (a, corners -3, 2, 11, 12): hangs over the edge of the image of 40 x 30 pixels; clipped"
    )
    assert text in str(report.clipped[0])


def test_boxes_without_area_are_removed_counted_and_named(index):
    checked, report = check_index(index([[5, 5, 5, 9], [5, 5, 9, 5], [1, 1, 2, 2]]))
    assert checked.records[0].boxes.tolist() == [[1, 1, 2, 2]]
    assert "2 boxes without area removed" in str(report)
    assert "image 0 (0.jpg), box 2 (a, corners 5, 5, 9, 5): has no area; removed" in str(report.zero_area[1])


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (
            [41, 5, 50, 9],
            "box 1 (a, corners 41, 5, 50, 9): lies outside the image of 40 x 30 pixels; correct or remove it",
        ),
        ([5, -9, 9, -2], "lies outside the image"),
        (
            [9, 5, 5, 9],
            "box 1 (a, corners 9, 5, 5, 9): is inverted; give sides above 0 (corners: x1 < x2, y1 <",
        ),
        (
            [float("nan"), 5, 9, 9],
            "box 1 (a, corners nan, 5, 9, 9): is not a number throughout; give four finite numbers",
        ),
        ([0, 5, float("inf"), 9], "is not a number throughout"),
    ],
)
def test_bad_box(index, box, message):
    error = error_of(index([box]))
    assert message in error and error.endswith("data.on_unreadable=skip")
    checked, report = check_index(index([box, [1, 1, 9, 9]]), on_error="skip")
    assert checked.records[0].boxes.tolist() == [[1, 1, 9, 9]]
    assert "1 broken images or boxes left out" in str(report)


def test_label_without_category(index):
    assert "box 2 (label 3, corners 1, 1, 9, 9): has an unknown category" in error_of(
        index([[1, 1, 9, 9]] * 2, labels=[[1, 3]])
    )


def test_missing_image(index):
    broken = index([], [])
    broken.records[1].path.unlink()
    assert "1.jpg: image 1: the file does not exist; restore it or remove it from the split" in error_of(broken)
    checked, report = check_index(broken, on_error="skip")
    assert [record.image_id for record in checked.records] == [0]
    assert "1 broken images or boxes left out" in str(report)


@pytest.mark.parametrize("how", ["header", "all"])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_truncated_image(index, image, how, suffix):
    broken = index([], [])
    path = image(broken.records[0].path.with_suffix(suffix), 200, 200)
    path.write_bytes(path.read_bytes()[:-3000])
    broken = replace(broken, records=(replace(broken.records[0], path=path), broken.records[1]))
    message = error_of(broken, open_images=how)
    assert f"0{suffix}: image 0: cannot be read (" in message and "truncated" in message
    assert len(check_index(broken, open_images=how, on_error="skip")[0]) == 1


def test_a_trailer_after_the_image_is_no_error(index):
    good = index([])
    with good.records[0].path.open("ab") as file:
        file.write(b"camera notes")
    assert len(check_index(good)[0]) == 1


def test_file_that_is_no_image(index):
    broken = index([])
    broken.records[0].path.write_text("<html>404</html>")
    assert "0.jpg: image 0: cannot be read (no image format known)" in error_of(broken)


def test_size_that_disagrees_with_the_annotations(coco):
    root = coco(images=[{"id": 7, "file_name": "a.jpg", "width": 41, "height": 30}], annotations=[])
    source = CocoJson({"train": {"images": "train", "annotations": "train.json"}}, root)
    message = error_of(source.load("train"))
    assert "image 7: a.jpg is 40 x 30 pixels, the annotations say 41 x 30; correct width and height" in message


def test_duplicate_record(index):
    one = index([])
    twice = replace(one, records=one.records * 2)
    assert "image 0: duplicate id, 2 times; make ids unique" in error_of(twice)
    assert len(check_index(twice, on_error="skip")[0]) == 1


def test_empty_split(tt100k):
    empty = TT100K(tt100k({"train": {}})).load("train")
    assert "signs/train: the split is empty; check data.splits and" in error_of(empty)


def test_everything_is_listed_in_one_error(tt100k, tt100k_sign):
    things = {1: [tt100k_sign("zz"), tt100k_sign("pn", (9, 5, 5, 9))], 2: [], 3: [tt100k_sign("pn", (90, 5, 95, 9))]}
    root = tt100k({"train": things}, ids={"train": [1, 2, 2, 3, 4]})
    (root / "train/2.jpg").unlink()
    message = error_of(TT100K(root).load("train"))
    assert message.startswith("signs/train: 6 problems")
    for part in ("unknown category 'zz'", "is inverted", "does not exist", "outside", "listed 2 times", "image 4"):
        assert part in message
    checked, report = check_index(TT100K(root).load("train"), on_error="skip")
    assert [record.image_id for record in checked.records] == [1, 3]
    assert len(report.problems) == 6
    assert not checked.problems


def test_many_faults_of_one_kind_are_one_line(index, caplog):
    boxes = [[9, 5, 5, 9]] * 25
    message = error_of(index(boxes))
    assert message.startswith("set/train: 25 problems") and len(message.splitlines()) == 3
    assert (
        message.count("is inverted") == 3
        and "file.json: 25 times, such as image 0 (0.jpg), box 1 (a, corners 9" in message
    )
    with caplog.at_level("INFO"):
        log_report(check_index(index([[-1, 5, 5, 9]] * 25))[1])
    report, clipped = caplog.messages
    assert "25 boxes clipped" in report and "25 times, such as" in clipped and clipped.endswith("; clipped")


def test_many_missing_images_are_one_line_with_their_paths(index):
    broken = index(*[[]] * 5)
    for record in broken.records:
        record.path.unlink()
    message = error_of(broken)
    assert len(message.splitlines()) == 3 and message.count("does not exist") == 3
    assert all(str(record.path) in message for record in broken.records[:3])


def test_without_opening_images_what_is_known_is_checked(index):
    broken = index([[9, 5, 5, 9]])
    broken.records[0].path.unlink()
    message = error_of(broken, open_images="none")
    assert "is inverted" in message and "does not exist" not in message


@pytest.mark.slow
def test_ten_thousand_images_take_seconds(index):
    one = index([[1, 2, 11, 12]])
    path = one.records[0].path
    records = tuple(Record(number, path, [[1, 2, 11, 12], [2, 3, 50, 20]], [1, 1]) for number in range(10_000))
    start = time.perf_counter()
    _, report = check_index(replace(one, records=records))
    assert time.perf_counter() - start < 15  # about 2 s on a free core
    assert len(report.clipped) == 10_000


def test_corners_where_width_and_height_are_due_are_refused(coco):
    """The sound file of the fixture with its boxes as x1, y1, x2, y2, in images of 40 x 30."""
    boxes = [[4, 5, 14, 17], [20, 10, 40, 30], [10, 10, 35, 25]]
    things = [{"id": n, "image_id": 7, "category_id": 90, "bbox": box} for n, box in enumerate(boxes, 1)]
    root = coco(annotations=things)
    source = CocoJson({"train": {"images": "train", "annotations": "train.json"}}, root)
    with pytest.raises(
        UserError,
        match=r"train.json: 2 of 3 boxes .* \[20.0, 10.0, 40.0, 30.0\] in one of 40 x 30 pixels: they look like",
    ):
        check_index(source.load("train"))
