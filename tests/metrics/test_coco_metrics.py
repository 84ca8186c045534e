"""COCO metrics against pycocotools itself and against values worked out by hand."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from efpn.errors import UserError
from efpn.metrics.bands import COCO_BANDS
from efpn.metrics.coco import band_means, class_metrics, coco_metrics, judged, restrict

TWELVE = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "AR1", "AR10", "AR", "AR_S", "AR_M", "AR_L")
NAMES = {"AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "AR", "AR_S", "AR_M", "AR_L"}


def random_scene(seed, images=30, classes=4, per_image=15, whole_pixels=False):
    """Ground truth with crowds, boxes on the bands' edges and empty images; jittered and false detections."""
    rng = np.random.default_rng(seed)
    gt = {"images": [], "annotations": [], "categories": [{"id": 3 * c, "name": str(c)} for c in range(1, classes + 1)]}
    found = []
    for image in range(1, images + 1):
        gt["images"].append({"id": image, "height": 512, "width": 512})
        for _ in range(rng.integers(0, 6)):
            side = rng.choice([32, 96, rng.uniform(5, 150)])
            box = [*rng.uniform(0, 300, 2), side, side * rng.choice([1, 0.5])]
            box = [round(v) for v in box] if whole_pixels else [float(v) for v in box]
            category = int(3 * rng.integers(1, classes + 1))
            crowd = int(rng.random() < 0.1)
            number = len(gt["annotations"]) + 1
            area = box[2] * box[3]
            gt["annotations"].append(
                {
                    "id": number,
                    "image_id": image,
                    "category_id": category,
                    "bbox": box,
                    "area": area,
                    "iscrowd": crowd,
                }
            )
            for _ in range(rng.integers(0, 4)):
                moved = (np.array(box) + rng.normal(0, 3, 4)).clip(1).tolist()
                found.append({"image_id": image, "category_id": category, "bbox": moved, "score": rng.random()})
        for _ in range(per_image):
            box = [*rng.uniform(0, 300, 2), *rng.uniform(5, 150, 2)]
            category = int(3 * rng.integers(1, classes + 1))
            found.append({"image_id": image, "category_id": category, "bbox": box, "score": round(rng.random(), 1)})
    return gt, found


def plain_pycocotools(gt, found):
    table = COCO()
    table.dataset = gt
    table.createIndex()
    judge = COCOeval(table, table.loadRes([dict(d) for d in found]), "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return dict(zip(TWELVE, judge.stats, strict=True))


@pytest.mark.parametrize("whole_pixels", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_pycocotools_on_its_own_bands(seed, whole_pixels):
    gt, found = random_scene(seed, whole_pixels=whole_pixels)
    expected = plain_pycocotools(gt, found)
    ours = coco_metrics(gt, found)
    assert set(ours) == NAMES
    for name in NAMES:
        assert ours[name] == pytest.approx(expected[name], abs=1e-9), name


def test_cap_agrees_with_pycocotools_where_it_binds(caplog, monkeypatch):
    monkeypatch.setattr("efpn.metrics.coco.MAX_DETS", 100)
    gt, found = random_scene(5, images=4, classes=1, per_image=150)
    with caplog.at_level(logging.WARNING):
        ours = coco_metrics(gt, found)
    expected = plain_pycocotools(gt, found)
    assert {name: ours[name] for name in NAMES} == pytest.approx({name: expected[name] for name in NAMES}, abs=1e-9)
    assert "images with more than max_dets=100 detections of a class: 4;" in caplog.text


def test_a_cap_that_does_not_bind_is_silent(simple, perfect, caplog):
    coco_metrics(simple, perfect)
    assert not caplog.records


def test_cocoeval_is_kept_quiet(simple, perfect, capsys, caplog):
    with caplog.at_level(logging.INFO):
        coco_metrics(simple, perfect)
    assert capsys.readouterr().out == "" and not caplog.records


def test_the_input_is_left_as_it_was():
    gt, found = random_scene(1)
    before = repr((gt, found))
    coco_metrics(gt, found)
    assert repr((gt, found)) == before


def test_perfect_detections_score_one_and_empty_bands_none(simple, perfect):
    ours = coco_metrics(simple, perfect)
    assert ours["AP_L"] is None
    assert ours["AR_L"] is None
    assert {name: value for name, value in ours.items() if value is not None} == pytest.approx(
        dict.fromkeys(NAMES - {"AP_L", "AR_L"}, 1.0)
    )


def test_one_of_two_found_by_hand(simple, perfect):
    """Category 4 is found, category 9 is missed: means over the two categories."""
    ours = coco_metrics(simple, perfect[:1])
    assert (ours["AP"], ours["AP50"], ours["AR"]) == pytest.approx((0.5, 0.5, 0.5))
    assert (ours["AP_S"], ours["AP_M"]) == pytest.approx((1.0, 0.0))


def test_a_false_alarm_above_the_hit_halves_precision(simple, perfect):
    """Precision at every recall point is 1/2 once a better-scored false alarm precedes the only hit."""
    false_alarm = {"image_id": 2, "category_id": 4, "bbox": [0, 0, 20, 20], "score": 0.9}
    ours = coco_metrics(simple, [*perfect, false_alarm], category_ids=[4])
    assert ours["AP"] == pytest.approx(0.5)
    assert ours["AR"] == pytest.approx(1.0)


def test_iou_of_two_thirds_hits_at_four_of_ten_thresholds(simple):
    """10 of 20 columns shifted by 4: IoU = 16/24 = 0.667, above 0.50, 0.55, 0.60 and 0.65 only."""
    shifted = {"image_id": 1, "category_id": 4, "bbox": [14, 10, 20, 20], "score": 0.9}
    ours = coco_metrics(simple, [shifted], category_ids=[4])
    assert ours["AP"] == pytest.approx(0.4)
    assert (ours["AP50"], ours["AP75"]) == pytest.approx((1.0, 0.0))


def test_only_evaluated_categories_are_averaged(simple, perfect):
    assert coco_metrics(simple, perfect[:1], category_ids=[4])["AP"] == pytest.approx(1.0)
    assert coco_metrics(simple, perfect[:1], category_ids=[9])["AP"] == pytest.approx(0.0)


def test_no_detections_at_all(simple):
    ours = coco_metrics(simple, [])
    assert ours["AP"] == ours["AR"] == ours["AP_S"] == 0.0
    assert ours["AP_L"] is None


def test_empty_ground_truth(simple, perfect):
    assert coco_metrics({**simple, "annotations": []}, perfect) == dict.fromkeys(NAMES)


def test_no_images_at_all(simple):
    assert coco_metrics({**simple, "images": [], "annotations": []}, []) == dict.fromkeys(NAMES)


def test_a_crowd_is_neither_missed_nor_a_place_for_false_alarms(simple, perfect):
    simple["annotations"][1]["iscrowd"] = 1
    ours = coco_metrics(simple, perfect)
    assert ours["AP"] == pytest.approx(1.0)
    assert ours["AP_M"] is None


def test_a_box_on_the_edge_counts_in_both_bands_or_once(simple):
    """COCOeval's ranges include both ends; half-open ones put 32 x 32 into medium only."""
    simple["annotations"][0] |= {"bbox": [10, 10, 32, 32], "area": 1024}
    found = [{"image_id": 1, "category_id": 4, "bbox": [10, 10, 32, 32], "score": 0.9}]
    closed = coco_metrics(simple, found, category_ids=[4])
    _, small, medium, _ = band_means(judged(simple, found, COCO_BANDS, [4], "half_open"))
    assert (closed["AP_S"], closed["AP_M"]) == pytest.approx((1.0, 1.0))
    assert small == (None, None)
    assert medium == pytest.approx((1.0, 1.0))


def test_area_is_taken_from_the_box_when_not_given(simple, perfect):
    without = {**simple, "annotations": [{k: v for k, v in a.items() if k != "area"} for a in simple["annotations"]]}
    assert coco_metrics(without, perfect) == coco_metrics(simple, perfect)


def test_order_of_detections_does_not_matter():
    gt, found = random_scene(2)
    for number, detection in enumerate(found):
        detection["score"] = number / len(found)  # no ties
    assert coco_metrics(gt, found[::-1]) == pytest.approx(coco_metrics(gt, found))


def test_restrict_keeps_some_images(simple, perfect):
    part = restrict(simple, [1])
    assert ([image["id"] for image in part["images"]], len(part["annotations"])) == ([1], 2)
    assert restrict(simple, [2])["annotations"] == []
    assert restrict(simple, [2])["categories"] == simple["categories"]
    assert coco_metrics(part, perfect)["AP"] == pytest.approx(1.0)


def test_detections_on_an_unknown_image_are_refused(simple, perfect):
    with pytest.raises(UserError, match="1 image_id not in the ground truth, such as 77; score them against the split"):
        coco_metrics(simple, [*perfect, {**perfect[0], "image_id": 77}])


@pytest.mark.parametrize("change", [{"score": math.nan}, {"bbox": [1, 2, math.inf, 4]}])
def test_scores_and_boxes_must_be_numbers(simple, perfect, change):
    with pytest.raises(UserError, match=r"record 2 \(image_id 1\) has a bbox or score that is not a finite number"):
        coco_metrics(simple, [*perfect, {**perfect[0], **change}])


def test_bands_are_those_of_coco():
    assert dict(COCO_BANDS) == {"all": (0, math.inf), "small": (0, 32), "medium": (32, 96), "large": (96, math.inf)}


def test_each_category_alone_and_their_mean(simple, perfect):
    detections = [perfect[0], {**perfect[1], "bbox": [120, 120, 50, 50]}]
    alone = class_metrics(simple, detections)
    assert alone[4]["AP"] == pytest.approx(1.0) and alone[9]["AP"] == 0.0
    assert (alone[4]["AP_M"], alone[9]["AP_S"]) == (None, None)
    assert coco_metrics(simple, detections)["AP"] == pytest.approx(0.5)
    assert list(class_metrics(simple, detections, category_ids=[9])) == [9]
