"""The TT100K protocol against the official toolkit's recorded answers and against hand-made cases."""

from __future__ import annotations

import json
import math
import time

import pytest

from efpn.errors import UserError
from efpn.metrics import TT100K_BINS, tt100k

CASES = [
    *(f"random_{number:02d}" for number in range(4)),
    *("edge_det_other_bin_than_gt", "edge_greedy_by_iou_not_score", "edge_iou_exactly_half"),
    *("edge_outside_types", "edge_score_equal_minscore", "edge_size_boundaries"),
]


def thing(x1, y1, x2, y2, score=None, category="pn"):
    made = {"category": category, "bbox": {"xmin": x1, "ymin": y1, "xmax": x2, "ymax": y2}}
    return made if score is None else {**made, "score": score}


def table(*things, **more):
    return {"imgs": {"1": {"objects": list(things)}, **{key: {"objects": value} for key, value in more.items()}}}


def counts(answer):
    return {name: (bin["tp"], bin["detections"], bin["ground_truths"]) for name, bin in answer.items()}


@pytest.mark.shared
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_official_toolkit(protocol, name):
    case = json.loads((protocol / "cases" / f"{name}.json").read_text())
    assert len(case["outputs"]) == 28
    for official in case["outputs"]:
        asked = official["params"]
        answer = tt100k.evaluate(
            case["gt"],
            case["results"],
            types=tt100k.TYPES45 if asked["types"] == "type45" else None,
            iou=asked["iou"],
            min_score=asked["minscore"],
            bins={official["bin"]: (asked["minboxsize"], asked["maxboxsize"])},
            match_same=asked["match_same"],
            check_type=asked["check_type"],
            missing="skip",
        )[official["bin"]]
        assert [answer[key] for key in ("tp", "detections", "accuracy", "recall")] == [
            official[key] for key in ("tp", "n_det", "accuracy", "recall")
        ], asked
        if asked["match_same"]:  # else a miss is what nothing matched, whatever the class
            assert answer["ground_truths"] - answer["tp"] == official["n_miss"], asked


@pytest.mark.shared
@pytest.mark.parametrize("name", CASES)
def test_curves_agree_with_the_official_toolkit(protocol, name):
    case = json.loads((protocol / "cases" / f"{name}.json").read_text())
    ours = tt100k.curves(case["gt"], case["results"], types=tt100k.TYPES45, missing="skip")
    assert {name: {key: curve[key] for key in ("accuracy", "recall")} for name, curve in ours.items()} == case["curves"]


@pytest.mark.shared
def test_every_case_is_listed(protocol):
    index = json.loads((protocol / "index.json").read_text())
    assert sorted(index["cases"]) == sorted(CASES)
    assert tuple(index["type45"]) == tt100k.TYPES45


@pytest.mark.shared
def test_published_detections_count_for_count(protocol, published):
    expected = json.loads((protocol / "published_expected.json").read_text())
    assert len(expected) == 12
    scored = {
        least: tt100k.evaluate(*published, types=tt100k.TYPES45, min_score=least)
        for least in {row["minscore"] for row in expected}
    }
    bins = {(low, high): name for name, (low, high) in TT100K_BINS.items()}
    for row in expected:
        ours = scored[row["minscore"]][bins[row["minboxsize"], row["maxboxsize"]]]
        wrong, miss = ours["detections"] - ours["tp"], ours["ground_truths"] - ours["tp"]
        assert (ours["tp"], wrong, miss) == (row["right"], row["wrong"], row["miss"])
        assert (ours["accuracy"], ours["recall"]) == (row["accuracy"], row["recall"])


@pytest.mark.shared
def test_published_curves_are_fast(published):
    start = time.process_time()
    curves = tt100k.curves(*published, types=tt100k.TYPES45)
    assert time.process_time() - start < 3
    for curve in curves.values():
        assert len(curve["accuracy"]) == len(curve["recall"]) == len(curve["threshold"]) == 102
        assert (curve["accuracy"][0], curve["recall"][0]) == (0, 1)
        assert (curve["accuracy"][-1], curve["recall"][-1]) == (1, 0)
        assert curve["accuracy"] == sorted(curve["accuracy"])


def test_curve_points_are_evaluations_at_their_thresholds():
    truth = table(thing(0, 0, 40, 40))
    found = table(thing(0, 0, 40, 40, 900), thing(100, 100, 120, 120, 300))
    curve = tt100k.curves(truth, found, points=4)["all"]
    assert curve["threshold"] == [None, 0, 300, 600, 900, None]
    assert curve["accuracy"] == [0, 0.5, 0.5, 1, 1, 1]
    assert curve["recall"] == [1, 1, 1, 1, 1, 0]


def test_bin_holds_what_the_interface_promises():
    answer = tt100k.evaluate(table(thing(0, 0, 40, 40), thing(60, 60, 80, 80)), table(thing(0, 0, 40, 40, 900)))
    assert answer["all"] == {
        "tp": 1,
        "detections": 1,
        "ground_truths": 2,
        "accuracy": 1.0,
        "recall": 0.5,
        "f1": pytest.approx(2 / 3),
        "size_rule": "long_side",
    }
    assert list(answer) == ["all", "small", "medium", "large"]


def test_size_rule_changes_the_bin():
    """20 x 40: medium by its longer side, small (sqrt(800) = 28.3) by area."""
    long_side = tt100k.evaluate(table(thing(0, 0, 20, 40)), table(thing(0, 0, 20, 40, 1)))
    area = tt100k.evaluate(table(thing(0, 0, 20, 40)), table(thing(0, 0, 20, 40, 1)), size_rule="area")
    assert (counts(long_side)["small"], counts(long_side)["medium"]) == ((0, 0, 0), (1, 1, 1))
    assert (counts(area)["small"], counts(area)["medium"]) == ((1, 1, 1), (0, 0, 0))
    assert area["small"]["size_rule"] == "area"


def test_one_to_one_by_iou_with_ties_in_file_order():
    """Three equal detections of one object: one hit, two false alarms."""
    answer = tt100k.evaluate(table(thing(0, 0, 40, 40)), table(*[thing(0, 0, 40, 40, s) for s in (1, 2, 3)]))
    assert counts(answer)["medium"] == (1, 3, 1)


def test_greedy_by_iou_may_leave_a_worse_pairing():
    """d1 overlaps both objects, best with g1; d2 only g1. Greedy gives d1 to g1, so that g2 and d2 stay alone."""
    truth = table(thing(0, 0, 40, 40), thing(0, 12, 40, 52))
    found = table(thing(0, 2, 40, 42, 1), thing(0, -9, 40, 31, 9))
    assert counts(tt100k.evaluate(truth, found))["all"] == (1, 2, 2)


def test_min_score_is_applied_before_matching():
    """The better overlap is below the threshold: it must not take the object from the other."""
    truth, found = table(thing(0, 0, 40, 40)), table(thing(0, 0, 40, 40, 10), thing(0, 0, 40, 30, 50))
    assert counts(tt100k.evaluate(truth, found, min_score=50))["all"] == (1, 1, 1)
    assert counts(tt100k.evaluate(truth, found, min_score=51))["all"] == (0, 0, 1)
    assert counts(tt100k.evaluate(truth, found, min_score=None))["all"] == (1, 2, 1)


def test_a_missing_score_is_never_dropped():
    answer = tt100k.evaluate(table(thing(0, 0, 40, 40)), table(thing(0, 0, 40, 40)), min_score=1e9)
    assert counts(answer)["all"] == (1, 1, 1)


def test_classes_of_a_match_are_checked_or_not():
    truth, found = table(thing(0, 0, 40, 40)), table(thing(0, 0, 40, 40, 1, "p5"))
    assert counts(tt100k.evaluate(truth, found))["all"] == (0, 1, 1)
    assert counts(tt100k.evaluate(truth, found, match_same=False))["all"] == (0, 1, 1)
    assert counts(tt100k.evaluate(truth, found, match_same=False, check_type=False))["all"] == (1, 1, 1)


def test_an_image_without_anything_gives_the_official_ones():
    answer = tt100k.evaluate(table(), table())["all"]
    assert (answer["accuracy"], answer["recall"], answer["tp"]) == (1, 1, 0)


def test_empty_boxes_overlap_nothing():
    answer = tt100k.evaluate(table(thing(5, 5, 5, 5)), table(thing(5, 5, 5, 5, 1)))
    assert counts(answer)["small"] == (0, 1, 1)


def test_missing_images():
    truth, found = table(thing(0, 0, 40, 40), **{"2": [thing(0, 0, 9, 9)]}), table(thing(0, 0, 40, 40, 1))
    with pytest.raises(UserError, match=r"1 of 2 images are missing, such as '2'.*missing='empty'"):
        tt100k.evaluate(truth, found)
    assert tt100k.evaluate(truth, found, missing="skip")["all"]["recall"] == 1.0
    assert tt100k.evaluate(truth, found, missing="empty")["all"]["recall"] == 0.5
    with pytest.raises(UserError, match="missing='ignore' is unknown"):
        tt100k.evaluate(truth, found, missing="ignore")


def test_whole_numbers_as_image_ids_are_the_same_ids():
    truth = {"imgs": {1: {"objects": [thing(0, 0, 40, 40)]}}}
    assert counts(tt100k.evaluate(truth, table(thing(0, 0, 40, 40, 1))))["all"] == (1, 1, 1)


@pytest.mark.parametrize(
    ("results", "message"),
    [
        (table(**{"77": []}), "1 image ids are not in the ground truth, such as '77'"),
        ({"1": {"objects": []}}, "results: no 'imgs' object at the top"),
        (table(thing(0, 0, 1, 1, math.nan)), "image '1' has a box or score that is not a number"),
        (table(thing(0, math.inf, 1, 1, 1)), "image '1' has a box or score that is not a number"),
        (table({"category": "pn", "bbox": [0, 0, 1, 1], "score": 1}), "image '1' has an unreadable object"),
        (table({"bbox": {}, "score": 1}), "image '1' has an unreadable object"),
    ],
)
def test_bad_results_are_named(results, message):
    with pytest.raises(UserError, match=message):
        tt100k.evaluate(table(thing(0, 0, 40, 40)), results)


def test_types_given_as_one_string_are_refused():
    with pytest.raises(UserError, match="types='pn' is one string; give a list"):
        tt100k.evaluate(table(), table(), types="pn")


def test_a_curve_needs_scores():
    with pytest.raises(UserError, match="no detection with a score"):
        tt100k.curves(table(), table())
