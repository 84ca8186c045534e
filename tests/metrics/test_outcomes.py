from __future__ import annotations

import math

import numpy as np
import pytest

from efpn.metrics.evaluation import Evaluation
from efpn.metrics.score import objects_by_size, rule_used


def judged(truth, found, threshold=0.0):
    """What became of ``(image, class, xyxy)`` objects and ``(image, class, xyxy, score)`` detections, by image."""

    def coco(image, label, box, **more):
        x1, y1, x2, y2 = map(float, box)
        return {"image_id": image, "category_id": int(label), "bbox": [x1, y1, x2 - x1, y2 - y1], **more}

    content = {
        "images": [{"id": number} for number in (1, 2)],
        "annotations": [coco(*one) for one in truth],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }
    detections = [coco(*one[:3], score=float(one[3])) for one in found]
    outcomes = Evaluation("x", "toy/test", content, detections, threshold, [1, 2], facts={}).outcomes
    return {
        number: tuple([int(i) for i in part] for part in (one.hits, one.found, one.false_alarms, one.misses))
        for number, one in outcomes.items()
    }


NOTHING = ([], [], [], [])


def test_each_box_has_one_fate():
    """Truth 0 is found by detection 2, truth 1 by none; detection 0 has the wrong class, 1 is a duplicate."""
    truth = [(1, 1, (0, 0, 20, 20)), (1, 2, (50, 50, 70, 70))]
    found = [(1, 1, (50, 50, 70, 70), 0.9), (1, 1, (2, 0, 22, 20), 0.8), (1, 1, (0, 0, 20, 20), 0.7)]
    assert judged(truth, found) == {1: ([2], [0], [0, 1], [1]), 2: NOTHING}


def test_low_scores_do_not_exist():
    found = [(1, 1, (0, 0, 20, 20), 0.3), (1, 1, (60, 60, 70, 70), 0.2)]
    assert judged([(1, 1, (0, 0, 20, 20))], found, threshold=0.5)[1] == ([], [], [], [0])


def test_indices_are_those_within_the_image_and_from_the_threshold_on():
    truth = [(2, 1, (0, 0, 20, 20)), (1, 1, (0, 0, 20, 20)), (2, 2, (40, 40, 60, 60))]
    found = [
        (2, 1, (0, 0, 20, 20), 0.1),
        (2, 2, (41, 40, 61, 60), 0.9),
        (1, 2, (0, 0, 20, 20), 0.9),
        (2, 1, (80, 80, 90, 90), 0.6),
    ]
    assert judged(truth, found, threshold=0.5) == {1: ([], [], [0], [0]), 2: ([0], [1], [1], [0])}


def test_nothing_at_all():
    assert judged([], []) == {1: NOTHING, 2: NOTHING}


@pytest.mark.parametrize("seed", range(5))
def test_fates_cover_everything_once(seed):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 60, (30, 2))
    everything = np.hstack([corner, corner + rng.uniform(10, 30, (30, 2))])
    labels = rng.integers(1, 3, 30)
    truth = [(1, label, box) for label, box in zip(labels[:12], everything[:12], strict=True)]
    found = [(1, *one, s) for *one, s in zip(labels[12:], everything[12:], rng.random(18), strict=True)]
    hits, hit, alarms, misses = judged(truth, found)[1]
    assert sorted([*hits, *alarms]) == list(range(18))
    assert sorted([*hit, *misses]) == list(range(12))
    assert (labels[12:][hits] == labels[:12][hit]).all()


def test_objects_by_size(simple):
    bands = {"all": (0, math.inf), "small": (0, 32), "medium": (32, 96)}
    assert objects_by_size(simple, bands, "area") == {"all": 2, "small": 1, "medium": 1}
    assert objects_by_size(simple, bands, "area", [9]) == {"all": 1, "small": 0, "medium": 1}
    simple["annotations"][1]["iscrowd"] = 1
    assert objects_by_size(simple, bands, "area") == {"all": 1, "small": 1, "medium": 0}
    assert objects_by_size({**simple, "annotations": []}, bands, "area") == {"all": 0, "small": 0, "medium": 0}


def test_objects_on_the_edge_count_once_or_twice(simple):
    simple["annotations"][0] |= {"bbox": [0, 0, 32, 32], "area": 1024}
    bands = {"small": (0, 32), "medium": (32, 96)}
    assert objects_by_size(simple, bands, "long_side") == {"small": 0, "medium": 2}
    assert objects_by_size(simple, bands, "area", edges="closed") == {"small": 1, "medium": 2}


def test_whose_area_it_was_is_said(simple):
    assert rule_used(simple) == "area"  # the annotations' areas are those of the boxes
    simple["annotations"][1]["area"] = 900
    assert rule_used(simple) == "annotation" and rule_used(simple, [4]) == "area"
    simple["annotations"][1]["iscrowd"] = 1
    assert rule_used(simple) == "area"
    assert rule_used({**simple, "annotations": []}) == "area"


def test_the_annotations_own_area_decides_where_there_is_one(simple):
    """As in COCOeval: MS COCO's areas are those of the outline, below width times height."""
    simple["annotations"][1]["area"] = 900
    assert objects_by_size(simple, {"small": (0, 32)}, "area") == {"small": 2}
    del simple["annotations"][1]["area"]
    assert objects_by_size(simple, {"small": (0, 32)}, "area") == {"small": 1}
