"""Where objects get lost: hand-made scenes, one for each cause, and sums that must come out."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from efpn.errors import UserError
from efpn.evaluation.table import funnel_markdown
from efpn.metrics.causes import FALSE_ALARMS, MISSES
from efpn.metrics.funnel import Proposals, StageRecord, loss_funnel
from efpn.metrics.matching import Objects
from efpn.metrics.score import score
from efpn.runs.files import plain

LEVELS = ("p2_ext", "p2", "p3")


def truth(*boxes, crowd=()):
    """Annotations of (image, category, x, y, w, h) on images 1 to 3."""
    return {
        "images": [{"id": i} for i in (1, 2, 3)],
        "categories": [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": box, "area": box[2] * box[3], "iscrowd": int(n in crowd)}
            for n, (i, c, *box) in enumerate(boxes, start=1)
        ],
    }


def found(*rows):
    """Detections of (image, category, x, y, w, h, score)."""
    return [{"image_id": i, "category_id": c, "bbox": box, "score": s} for i, c, *box, s in rows]


def record(proposals=None, cut=(), cap=2, depth=4):
    """Proposals xyxy by image; the first ``cap`` are pooled from p2_ext."""
    images = {}
    for image_id in (1, 2, 3):
        boxes = np.array((proposals or {}).get(image_id, []), dtype=float).reshape(-1, 4)
        levels = np.full(min(cap, len(boxes)), "p2_ext")
        images[image_id] = Proposals(boxes, levels)
    filtered = {"proposals": {"nms": 6, "cap": 3, "kept": 9}}
    return StageRecord(cap, depth, 100, LEVELS, images, list(cut), {}, filtered)


def band(funnel, name="all"):
    return funnel.by_band[name]


def happened(counts):
    return {cause: count for cause, count in counts.items() if count}


OBJECT = (1, 1, 10, 10, 20, 20)  # IoU of a box shifted by s pixels along x: (20 - s) / (20 + s)


@pytest.mark.parametrize(
    ("detection", "alarm", "miss"),
    [
        ((1, 2, 10, 10, 20, 20, 0.9), "classification", "classification"),
        ((1, 1, 20, 10, 20, 20, 0.9), "localisation", "localisation"),  # IoU 1/3
        ((1, 2, 20, 10, 20, 20, 0.9), "both", "both"),
        ((1, 1, 28, 10, 20, 20, 0.9), "background", "undetected"),  # IoU 1/19, below 0.1
        ((2, 1, 10, 10, 20, 20, 0.9), "background", "undetected"),  # another image
        ((1, 1, 10, 10, 20, 20, 0.2), None, "low_score"),
        ((1, 2, 10, 10, 20, 20, 0.2), None, "undetected"),  # below the threshold and of the wrong class
    ],
)
def test_one_object_and_one_detection(detection, alarm, miss):
    one = band(loss_funnel(truth(OBJECT), found(detection), score_threshold=0.5))
    assert (one.objects, one.hits) == (1, 0)
    assert happened(one.misses) == {miss: 1}
    assert happened(one.false_alarms) == ({alarm: 1} if alarm else {})


def test_overlap_of_exactly_a_half_is_no_hit():
    """As in the TT100K protocol: 20 x 20 inside 20 x 40 has an IoU of 0.5."""
    one = band(loss_funnel(truth(OBJECT), found((1, 1, 10, 10, 20, 40, 0.9)), score_threshold=0.5))
    assert happened(one.misses) == {"localisation": 1}


def test_a_duplicate_explains_no_miss():
    """The neighbour overlaps by 0.14 with a duplicate on the first object, which is found; nobody looked at it."""
    scene = truth(OBJECT, (1, 1, 25, 10, 20, 20))
    hits = found((1, 1, 10, 10, 20, 20, 0.9), (1, 1, 10, 10, 20, 20, 0.8))
    one = band(loss_funnel(scene, hits, score_threshold=0.5))
    assert (one.hits, happened(one.misses), happened(one.false_alarms)) == (1, {"undetected": 1}, {"duplicate": 1})


def test_the_first_cause_counts():
    """Wrong class in place goes before right class near, and both before a right one of low score."""
    rows = (1, 1, 10, 10, 20, 20, 0.1), (1, 1, 20, 10, 20, 20, 0.9), (1, 2, 10, 10, 20, 20, 0.9)
    causes = [
        happened(band(loss_funnel(truth(OBJECT), found(*rows[:n]), score_threshold=0.5)).misses) for n in (1, 2, 3)
    ]
    assert causes == [{"low_score": 1}, {"localisation": 1}, {"classification": 1}]


@pytest.mark.parametrize(
    ("proposals", "cut", "miss", "recall", "rpn_cap", "detection_cap"),
    [
        ([], [], "never_proposed", (0, 0), 0, 0),
        ([(10, 10, 30, 30)], [], "low_score", (1, 1), 0, 0),
        ([(50, 50, 60, 60)] * 2 + [(10, 10, 30, 30)], [], "rpn_cap", (0, 1), 1, 0),
        ([(50, 50, 60, 60)] * 3, [], "never_proposed", (0, 0), 0, 0),
        ([(10, 10, 30, 30)], [(1, 1, 10, 10, 20, 20, 0.6)], "detection_cap", (1, 1), 0, 1),
        ([(10, 10, 30, 30)], [(1, 1, 10, 10, 20, 20, 0.4)], "low_score", (1, 1), 0, 1),
    ],
)
def test_what_a_record_tells_of_a_miss(monkeypatch, proposals, cut, miss, recall, rpn_cap, detection_cap):
    monkeypatch.setattr("efpn.metrics.funnel.RECALL_AT", (1, 4, 5))
    known = record({1: proposals}, found(*cut))
    one = band(loss_funnel(truth(OBJECT), [], known, score_threshold=0.5))
    assert happened(one.misses) == {miss: 1}
    assert (one.rpn_recall[1], one.rpn_recall[4]) == recall
    assert one.rpn_recall[5] is None  # beyond what was recorded
    assert (one.rpn_cap, one.detection_cap) == (rpn_cap, detection_cap)


def test_what_no_record_tells_is_none():
    one = band(loss_funnel(truth(OBJECT), [], score_threshold=0.5))
    assert {cause for cause, count in one.misses.items() if count is None} == {
        "detection_cap",
        "rpn_cap",
        "never_proposed",
    }
    assert (one.rpn_cap, one.detection_cap, one.rois, one.roi_levels) == (None,) * 4
    assert set(one.rpn_recall.values()) == {None}


def test_a_cap_at_the_depth_of_the_record_hides_its_losses():
    one = band(loss_funnel(truth(OBJECT), [], record(cap=4), score_threshold=0.5))
    assert (one.rpn_cap, one.misses["rpn_cap"], one.misses["never_proposed"]) == (None, None, 1)


def test_rois_by_level_and_band():
    """Two RoIs of 20 px and one of 40 in image 1, one of 40 in image 2; the third of image 1 is not pooled."""
    small, medium = (0, 0, 20, 20), (0, 0, 40, 40)
    known = record({1: [small, medium, small], 2: [medium]})
    known.images[2].levels[:] = "p3"
    funnel = loss_funnel(truth(), [], known, score_threshold=0.5)
    assert [band(funnel, name).rois for name in ("all", "small", "medium", "large")] == [3, 1, 2, 0]
    assert band(funnel, "small").roi_levels == {"p2_ext": 1, "p2": 0, "p3": 0}
    assert band(funnel, "medium").roi_levels == {"p2_ext": 0.5, "p2": 0, "p3": 0.5}
    assert band(funnel, "large").roi_levels is None


def test_crowds_are_no_objects_and_no_background():
    scene = truth((1, 1, 0, 0, 100, 100), crowd=[1])
    rows = found((1, 1, 10, 10, 20, 20, 0.9), (1, 2, 10, 10, 20, 20, 0.9), (1, 1, 95, 10, 20, 20, 0.9))
    one = band(loss_funnel(scene, rows, score_threshold=0.5))
    assert (one.objects, happened(one.false_alarms)) == (0, {"crowd": 1, "background": 2})


def test_nothing_at_all():
    one = band(loss_funnel(truth(), [], record(), score_threshold=0.5))
    assert (one.objects, one.hits, happened(one.misses), happened(one.false_alarms)) == (0, 0, {}, {})
    assert (one.rpn_recall, one.rpn_cap) == ({100: None, 300: None, 1000: None}, None)


def test_an_image_with_objects_must_be_on_record():
    known = record()
    del known.images[1]
    with pytest.raises(UserError, match="1 images with objects are not in it, such as 1; record the split"):
        loss_funnel(truth(OBJECT), [], known, score_threshold=0.5)


def random_scene(seed):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 120, (60, 2))
    boxes = np.hstack([corner, rng.uniform(8, 60, (60, 2))]).tolist()
    where = [(int(rng.integers(1, 4)), int(rng.integers(1, 3))) for _ in boxes]
    rows = [(*w, *box) for w, box in zip(where, boxes, strict=True)]
    scene = truth(*rows[:25], crowd=[3, 7])
    moved = [(i, c, *(np.array(box) + rng.normal(0, 4, 4)).clip(1), rng.random()) for i, c, *box in rows[5:]]
    known = record({i: rng.uniform([0, 0, 60, 60], [60, 60, 120, 120], (4, 4)) for i in (1, 2, 3)}, found(*moved[:5]))
    return scene, found(*moved), known


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("recorded", [True, False])
def test_counts_add_up_and_agree_with_accuracy_and_recall(seed, recorded):
    scene, rows, known = random_scene(seed)
    funnel = loss_funnel(scene, rows, known if recorded else None, score_threshold=0.4)
    metrics = score(scene, rows, score_threshold=0.4)
    for name, tail in (("all", ""), ("small", "_S"), ("medium", "_M"), ("large", "_L")):
        one = band(funnel, name)
        assert tuple(one.misses) == MISSES and tuple(one.false_alarms) == FALSE_ALARMS
        assert one.hits + sum(count or 0 for count in one.misses.values()) == one.objects
        if one.objects:
            detections = one.hits + sum(one.false_alarms.values())
            assert metrics[f"rec{tail}"] == pytest.approx(one.hits / one.objects)
            assert metrics[f"acc{tail}"] == (pytest.approx(one.hits / detections) if detections else None)
        recalls = [value for value in one.rpn_recall.values() if value is not None]
        assert recalls == sorted(recalls)


def test_bands_sum_to_all():
    scene, rows, known = random_scene(3)
    funnel = loss_funnel(scene, rows, known, score_threshold=0.4)
    parts = [band(funnel, name) for name in ("small", "medium", "large")]
    for cause in FALSE_ALARMS:
        assert sum(part.false_alarms[cause] for part in parts) == band(funnel).false_alarms[cause]
    assert sum(part.objects for part in parts) == band(funnel).objects == 23


def test_sizes_by_area_are_the_annotations_own():
    scene = truth((1, 1, 10, 10, 40, 40))
    scene["annotations"][0]["area"] = 700
    rows = found((1, 1, 10, 10, 40, 40, 0.9), (2, 1, 10, 10, 40, 40, 0.9))
    rows[1]["area"] = 700  # a result has no area but that of its box
    by_area = Objects.of(rows, [1]).sizes("area")
    assert by_area.tolist() == [40, 40] and Objects.of(scene["annotations"]).sizes("area").tolist() == [700**0.5]
    funnel = loss_funnel(scene, rows, score_threshold=0.5)
    assert (funnel.size_rule, band(funnel, "medium").objects, band(funnel, "small").objects) == ("long_side", 1, 0)
    rates = score(scene, rows, score_threshold=0.5)
    assert (rates["rec_S"], rates["rec_M"], rates["AR_S"], rates["AR_M"]) == (None, 1, 1, None)


def test_only_evaluated_categories_count():
    scene = truth(OBJECT, (1, 2, 60, 60, 20, 20))
    one = band(loss_funnel(scene, found((1, 2, 60, 60, 20, 20, 0.9)), score_threshold=0.5, category_ids=[1]))
    assert (one.objects, one.hits, happened(one.false_alarms)) == (1, 0, {})


def test_a_funnel_can_be_written_as_json():
    funnel = loss_funnel(truth(OBJECT), [], record(), score_threshold=0.5)
    data = json.loads(json.dumps(plain(asdict(funnel)), allow_nan=False))
    assert data["bands"]["large"] == [96, 400]
    assert data["by_band"]["small"]["rpn_recall"] == {"100": None, "300": None, "1000": None}


def test_detections_get_the_level_they_came_from():
    known = record()
    known.sources.update({1: np.array(["p2_ext", "p3"]), 2: np.empty(0, "<U6")})
    rows = found((1, 1, 0, 0, 9, 9, 0.9), (1, 1, 5, 5, 9, 9, 0.8))
    assert known.by_level(rows) == {"p2_ext": rows[:1], "p2": [], "p3": rows[1:]}
    with pytest.raises(UserError, match="others than those of the record"):
        known.by_level(rows[:1])
    with pytest.raises(UserError, match="others than those of the record"):
        known.by_level([*rows, rows[0]])


def test_what_filters_drop_is_told_of_one_image_on_average():
    funnel = loss_funnel(truth(OBJECT), [], record(), score_threshold=0.5)
    assert funnel.filtered == {"proposals": {"nms": 2, "cap": 1, "kept": 3}}
    table = funnel_markdown(funnel).split("## Where proposals are filtered out")[1]
    assert "| 6.0 | 2.0 | 1.0 | 3.0 |" in table and "beyond the cap" in table
    assert "filtered out" not in funnel_markdown(loss_funnel(truth(OBJECT), [], score_threshold=0.5))
