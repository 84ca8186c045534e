from __future__ import annotations

import math

import numpy as np
import pytest

from efpn.metrics.counting import objects_by_size, rule_used
from efpn.metrics.outcomes import judge

NOTHING = np.empty((0, 4)), np.empty(0, np.int64)


def boxes(*rows):
    return np.array(rows, dtype=float).reshape(-1, 4)


def indices(outcomes):
    return tuple(
        list(map(int, part)) for part in (outcomes.hits, outcomes.found, outcomes.false_alarms, outcomes.misses)
    )


def test_each_box_has_one_fate():
    """Truth 0 is found by detection 2, truth 1 by none; detection 0 has the wrong class, 1 is a duplicate."""
    truth = boxes((0, 0, 20, 20), (50, 50, 70, 70))
    found = boxes((50, 50, 70, 70), (2, 0, 22, 20), (0, 0, 20, 20))
    labels = np.array([1, 2]), np.array([1, 1, 1])
    outcomes = judge(truth, labels[0], found, labels[1], np.array([0.9, 0.8, 0.7]))
    assert indices(outcomes) == ([2], [0], [0, 1], [1])


def test_low_scores_do_not_exist():
    truth = boxes((0, 0, 20, 20))
    found, one = boxes((0, 0, 20, 20), (60, 60, 70, 70)), np.ones(2, np.int64)
    outcomes = judge(truth, one[:1], found, one, np.array([0.3, 0.2]), min_score=0.5)
    assert indices(outcomes) == ([], [], [], [0])


def test_nothing_at_all():
    assert indices(judge(*NOTHING, *NOTHING, np.empty(0))) == ([], [], [], [])


@pytest.mark.parametrize("seed", range(5))
def test_fates_cover_everything_once(seed):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 60, (30, 2))
    everything = np.hstack([corner, corner + rng.uniform(10, 30, (30, 2))])
    labels = rng.integers(1, 3, 30)
    outcomes = judge(everything[:12], labels[:12], everything[12:], labels[12:], rng.random(18))
    assert sorted([*outcomes.hits, *outcomes.false_alarms]) == list(range(18))
    assert sorted([*outcomes.found, *outcomes.misses]) == list(range(12))
    assert (labels[12:][outcomes.hits] == labels[:12][outcomes.found]).all()


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
    assert rule_used(simple, "area") == "area"  # the annotations' areas are those of the boxes
    simple["annotations"][1]["area"] = 900
    assert rule_used(simple, "area") == "annotation" and rule_used(simple, "area", [4]) == "area"
    assert rule_used(simple, "long_side") == "long_side"
    simple["annotations"][1]["iscrowd"] = 1
    assert rule_used(simple, "area") == "area"
    assert rule_used({**simple, "annotations": []}, "area") == "area"


def test_the_annotations_own_area_decides_where_there_is_one(simple):
    """As in COCOeval: MS COCO's areas are those of the outline, below width times height."""
    simple["annotations"][1]["area"] = 900
    assert objects_by_size(simple, {"small": (0, 32)}, "area") == {"small": 2}
    del simple["annotations"][1]["area"]
    assert objects_by_size(simple, {"small": (0, 32)}, "area") == {"small": 1}
