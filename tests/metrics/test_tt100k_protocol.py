"""The TT100K protocol against the official toolkit's recorded answers and against hand-made cases."""

from __future__ import annotations

import json
import time

import pytest

from efpn.data.tt100k import CLASSES_45
from efpn.metrics.bands import TT100K_BINS
from efpn.metrics.matching import Matcher, Objects

CASES = [
    *(f"random_{number:02d}" for number in range(4)),
    *("edge_det_other_bin_than_gt", "edge_greedy_by_iou_not_score", "edge_iou_exactly_half"),
    *("edge_outside_types", "edge_score_equal_minscore", "edge_size_boundaries"),
]


def thing(x1, y1, x2, y2, score=None, category="pn"):
    made = {"category": category, "bbox": {"xmin": x1, "ymin": y1, "xmax": x2, "ymax": y2}}
    return made if score is None else {**made, "score": score}


def table(*things):
    return {"imgs": {"1": {"objects": list(things)}}}


def coco(table, images, numbers):
    """Boxes of the official structure as COCO's, of the given images; ``numbers`` grows with each new class."""
    for place, key in enumerate(images):
        for one in table["imgs"][key].get("objects", ()):
            x1, y1, x2, y2 = (one["bbox"][corner] for corner in ("xmin", "ymin", "xmax", "ymax"))
            number = numbers.setdefault(one["category"], len(numbers))
            made = {"image_id": place, "category_id": number, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            yield made | ({"score": one["score"]} if "score" in one else {})


def matcher(truth, found, types=None, iou=0.5):
    """Of the official structures; the toolkit scores the images of the results."""
    numbers = {}
    sides = [list(coco(one, found["imgs"], numbers)) for one in (truth, found)]
    wanted = None if types is None else {numbers[name] for name in types if name in numbers}
    return Matcher(*(Objects.of(side, wanted) for side in sides), iou=iou)


def counts(truth, found, least=0.0):
    """True positives, detections and ground truths by size."""
    every = matcher(truth, found).count(least)
    return {name: (one.tp, one.detections, one.ground_truths) for name, one in zip(TT100K_BINS, every, strict=True)}


@pytest.mark.shared
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_official_toolkit(protocol, name):
    case = json.loads((protocol / "cases" / f"{name}.json").read_text())
    outputs = [one for one in case["outputs"] if one["params"]["match_same"]]
    assert len(outputs) == 20
    for official in outputs:
        asked = official["params"]
        types = CLASSES_45 if asked["types"] == "type45" else None
        band = (asked["minboxsize"], asked["maxboxsize"])
        (ours,) = matcher(case["gt"], case["results"], types, asked["iou"]).count(asked["minscore"], [band])
        said = [ours.tp, ours.detections, ours.accuracy, ours.recall, ours.ground_truths - ours.tp]
        assert said == [official[key] for key in ("tp", "n_det", "accuracy", "recall", "n_miss")], asked


@pytest.mark.shared
@pytest.mark.parametrize("name", CASES)
def test_curves_agree_with_the_official_toolkit(protocol, name):
    case = json.loads((protocol / "cases" / f"{name}.json").read_text())
    top = max(one["score"] for image in case["results"]["imgs"].values() for one in image["objects"])
    ours = matcher(case["gt"], case["results"], CLASSES_45).curves(top)
    assert {name: {key: curve[key] for key in ("accuracy", "recall")} for name, curve in ours.items()} == case["curves"]


@pytest.mark.shared
def test_every_case_is_listed(protocol):
    index = json.loads((protocol / "index.json").read_text())
    assert sorted(index["cases"]) == sorted(CASES)
    assert sorted(index["type45"]) == sorted(CLASSES_45)


@pytest.mark.shared
def test_published_detections_count_for_count(protocol, published):
    expected = json.loads((protocol / "published_expected.json").read_text())
    assert len(expected) == 12
    whole = matcher(*published, CLASSES_45)
    for row in expected:
        (ours,) = whole.count(row["minscore"], [(row["minboxsize"], row["maxboxsize"])])
        wrong, miss = ours.detections - ours.tp, ours.ground_truths - ours.tp
        assert (ours.tp, wrong, miss) == (row["right"], row["wrong"], row["miss"])
        assert (ours.accuracy, ours.recall) == (row["accuracy"], row["recall"])


@pytest.mark.shared
def test_published_curves_are_fast(published):
    start = time.process_time()
    curves = matcher(*published, CLASSES_45).curves(1000.0)
    assert time.process_time() - start < 3
    for curve in curves.values():
        assert len(curve["accuracy"]) == len(curve["recall"]) == len(curve["threshold"]) == 102
        assert (curve["accuracy"][0], curve["recall"][0]) == (0, 1)
        assert (curve["accuracy"][-1], curve["recall"][-1]) == (1, 0)
        assert curve["accuracy"] == sorted(curve["accuracy"])


def test_curve_points_are_evaluations_at_their_thresholds():
    truth = table(thing(0, 0, 40, 40))
    found = table(thing(0, 0, 40, 40, 990), thing(100, 100, 120, 120, 300))
    curve = matcher(truth, found).curves(990)["all"]
    assert curve["threshold"] == [None, *(pytest.approx(10 * n) for n in range(100)), None]
    assert curve["accuracy"] == [0, *[0.5] * 31, *[1] * 70]
    assert curve["recall"] == [*[1] * 101, 0]


def test_one_to_one_by_iou_with_ties_in_file_order():
    """Three equal detections of one object: one hit, two false alarms."""
    found = table(*[thing(0, 0, 40, 40, s) for s in (1, 2, 3)])
    assert counts(table(thing(0, 0, 40, 40)), found)["medium"] == (1, 3, 1)


def test_greedy_by_iou_may_leave_a_worse_pairing():
    """d1 overlaps both objects, best with g1; d2 only g1. Greedy gives d1 to g1, so that g2 and d2 stay alone."""
    truth = table(thing(0, 0, 40, 40), thing(0, 12, 40, 52))
    found = table(thing(0, 2, 40, 42, 1), thing(0, -9, 40, 31, 9))
    assert counts(truth, found)["all"] == (1, 2, 2)


def test_low_scores_are_dropped_before_matching():
    """The better overlap is below the threshold: it must not take the object from the other."""
    truth, found = table(thing(0, 0, 40, 40)), table(thing(0, 0, 40, 40, 10), thing(0, 0, 40, 30, 50))
    assert counts(truth, found, 50)["all"] == (1, 1, 1)
    assert counts(truth, found, 51)["all"] == (0, 0, 1)
    assert counts(truth, found)["all"] == (1, 2, 1)


def test_a_missing_score_is_never_dropped():
    assert counts(table(thing(0, 0, 40, 40)), table(thing(0, 0, 40, 40)), 1e9)["all"] == (1, 1, 1)


def test_only_one_class_matches():
    assert counts(table(thing(0, 0, 40, 40)), table(thing(0, 0, 40, 40, 1, "p5")))["all"] == (0, 1, 1)


def test_an_image_without_anything_gives_the_official_ones():
    answer = matcher(table(), table()).count(0.0)[0]
    assert (answer.accuracy, answer.recall, answer.tp) == (1, 1, 0)


def test_empty_boxes_overlap_nothing():
    assert counts(table(thing(5, 5, 5, 5)), table(thing(5, 5, 5, 5, 1)))["small"] == (0, 1, 1)
