"""Result files of other detectors: read, and refused with everything wrong in one message."""

from __future__ import annotations

import pytest

from efpn.errors import UserError
from efpn.metrics.coco import coco_metrics
from efpn.metrics.results import read_results
from efpn.runs.files import as_tt100k_results


def test_coco_results_are_read_as_they_are(simple, perfect) -> None:
    assert read_results(perfect, simple, "f.json") == perfect


def test_tt100k_results_give_the_same_detections(simple, perfect) -> None:
    assert read_results(as_tt100k_results(simple, perfect), simple, "f.json") == perfect


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 5}, "detection 1: image_id 5 is no image of the ground truth; score it on the split"),
        ({"image_id": "2"}, "detection 1: image_id is text, '2'; write the number, as in 2"),
        ({"image_id": "x"}, "detection 1: image_id 'x' is no image"),
        ({"category_id": 1}, "detection 1: category_id 1 is no category of the ground truth"),
        ({"score": float("nan")}, "detection 1: score is nan; give a finite number"),
        ({"score": None}, "detection 1: score is null"),
        ({"score": 740}, r"detection 1: score is 740; give it from 0 to 1 \(divide the TT100K toolkit's by 1000\)"),
        ({"bbox": [1, 2, 3]}, r"detection 1: bbox is \[1, 2, 3\]; give four finite numbers: x, y, width, height"),
        ({"bbox": [1, 2, 3, float("inf")]}, r"detection 1: bbox is \[1, 2, 3, inf\]"),
        ({"bbox": [1, 2, 10**400, 4]}, r"detection 1: bbox is \[1, 2, 1000.*; give four finite numbers"),
        ({"bbox": [True, 2, 3, 4]}, r"detection 1: bbox is \[True, 2, 3, 4\]; give four finite numbers"),
        ({"image_id": True}, "detection 1: image_id true is no image"),
        ({"image_id": [1]}, r"detection 1: image_id \[1\] is no image"),
        ({"score": 10**400}, "detection 1: score is a number of more than 40 digits; give a finite number"),
        ({"score": 10**5000}, "detection 1: score is a number of more than 40 digits; give a finite number"),
        ({"bbox": [9, 9, -3, 4]}, "of negative width or height; give x, y, width, height"),
    ],
)
def test_a_wrong_detection_is_named(simple, perfect, change, message) -> None:
    with pytest.raises(UserError, match=rf"(?s)f.json: 1 problem\n.*{message}"):
        read_results([perfect[0], perfect[1] | change], simple, "f.json")


def test_all_that_is_wrong_is_listed_together(simple, perfect) -> None:
    wrong = [{**perfect[0], "image_id": "x", "score": "high"}, "box", *perfect]
    with pytest.raises(UserError) as caught:
        read_results(wrong, simple, "f.json")
    lines = str(caught.value).splitlines()
    assert lines[0] == "f.json: 3 problems" and "is 'box', not an object" in lines[3]


def test_many_detections_with_one_fault_are_one_line(simple, perfect) -> None:
    with pytest.raises(UserError) as caught:
        read_results([{**perfect[0], "score": 740 + n} for n in range(100)], simple, "f.json")
    first, line = str(caught.value).splitlines()
    assert first == "f.json: 100 problems"
    told = "detection 0: score is 740, detection 1: score is 741, detection 2: score is 742; give it from 0 to 1"
    assert f"f.json: 100 times, such as {told}" in line


@pytest.mark.parametrize("content", [{}, {"images": []}, "text", {"imgs": []}])
def test_another_layout_is_refused_with_the_two_that_are_read(simple, content) -> None:
    with pytest.raises(UserError, match=r"f.json: neither COCO results .* nor TT100K results"):
        read_results(content, simple, "f.json")


def test_images_that_tt100k_results_lack_are_an_error_unless_they_count_as_empty(simple, perfect) -> None:
    results = as_tt100k_results(simple, perfect)
    del results["imgs"]["2"]
    with pytest.raises(UserError, match=r"1 of 2 images are missing, such as '2'; .* say missing=empty"):
        read_results(results, simple, "f.json")
    assert read_results(results, simple, "f.json", missing="empty") == perfect


def test_an_unknown_image_and_type_of_tt100k_results_are_named(simple, perfect) -> None:
    results = as_tt100k_results(simple, perfect)
    results["imgs"]["77"] = {"objects": [{**results["imgs"]["1"]["objects"][0], "category": "five"}]}
    with pytest.raises(
        UserError, match=r"(?s)2 problems.*image_id '77' is no image.*category_id 'five' is no category"
    ):
        read_results(results, simple, "f.json")


def test_corners_where_width_and_height_are_due_are_found_out(simple) -> None:
    """[100, 100, 150, 150] is a sound box in an image of 200 px as corners, and as x, y, w, h reaches to 250."""
    corners = [[10, 10, 30, 30], [100, 100, 150, 150]]
    found = [{"image_id": 1, "category_id": 4, "bbox": box, "score": 0.5} for box in corners]
    with pytest.raises(UserError, match=r"1 of 2 boxes reach beyond .* \[100.0, 100.0, 150.0, 150.0\] .* 200 x 200"):
        read_results(found, simple, "f.json")


def test_boxes_that_hang_over_an_edge_are_not_taken_for_corners(simple, perfect) -> None:
    over = [{**perfect[0], "bbox": [150, 150, 60, 60]}, {**perfect[0], "bbox": [190, 5, 20, 20]}]
    assert len(read_results(over, simple, "f.json")) == 2


def test_images_of_unknown_size_prove_nothing(simple, perfect) -> None:
    for image in simple["images"]:
        del image["width"]
    assert len(read_results([{**perfect[0], "bbox": [100, 100, 150, 150]}], simple, "f.json")) == 1


def test_no_detection_and_no_ground_truth_are_zero_and_not_there(simple) -> None:
    assert read_results([], simple, "f.json") == []
    assert coco_metrics(simple, [])["AP"] == 0.0
    nothing = {**simple, "annotations": []}
    assert coco_metrics(nothing, read_results([], nothing, "f.json"))["AP"] is None


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        ("sign", "is 'sign', not an object"),
        ({"category": "four", "score": 0.5, "bbox": None}, "bbox is null; give four finite numbers"),
        ({"category": "four", "score": 0.5, "bbox": [1, 2, 3]}, r"bbox is \[1, 2, 3\]"),
        (
            {"category": "four", "score": 0.5, "bbox": {"xmin": "1", "ymin": 2, "xmax": 3, "ymax": 4}},
            "bbox is {'xmin': '1'",
        ),
    ],
)
def test_a_misshapen_tt100k_object_is_named(simple, thing, message) -> None:
    with pytest.raises(UserError, match=message):
        read_results({"imgs": {"1": {"objects": [thing]}, "2": {"objects": []}}}, simple, "f.json")


@pytest.mark.parametrize("image", [[], None, {"objects": {}}])
def test_a_misshapen_tt100k_image_is_named(simple, image) -> None:
    with pytest.raises(UserError, match="f.json: image '1' is .*; give an object with a list 'objects'"):
        read_results({"imgs": {"1": image, "2": {"objects": []}}}, simple, "f.json")
