"""Interleaving, medians and ratios."""

from __future__ import annotations

import pytest
from helpers import config

from efpn.benchmark.measure import evaluate
from efpn.benchmark.timing import Reading, interleave, spread, summed_up
from efpn.benchmark.training import STEPS


def test_each_turn_runs_each_thing_once_in_rotating_order():
    ran = []
    things = {name: (lambda turn, name=name: ran.append((turn, name)) or (name, turn)) for name in "abc"}
    given = interleave(things, repeats=3, warmup=1)
    turns = [ran[start : start + 3] for start in range(0, 12, 3)]
    assert ["".join(name for _, name in turn) for turn in turns] == ["cab", "abc", "bca", "cab"]
    assert [turn for turn, _ in ran[3:]] == [0] * 3 + [1] * 3 + [2] * 3
    assert given == {name: [(name, 0), (name, 1), (name, 2)] for name in "abc"}


def test_the_warm_up_does_not_count():
    runs = iter(range(100))
    assert interleave({"a": lambda turn: next(runs)}, repeats=2, warmup=3) == {"a": [3, 4]}


def test_spread_is_median_minimum_and_quartiles():
    names = ("median", "least", "lower_quartile", "upper_quartile", "runs")
    assert list(spread([5.0, 1.0, 2.0, 4.0, 3.0]).items()) == list(zip(names, (3.0, 1.0, 2.0, 4.0, 5), strict=True))
    assert spread([5.0]) == dict(zip(names, (5.0, 5.0, 5.0, 5.0, 1), strict=True))


READINGS = [Reading(10.0, {"backbone": 6.0, "rest": 3.0}), Reading(20.0, {"backbone": 10.0, "rest": 10.0, "post": 2.0})]


def test_stages_are_medians_over_the_runs_in_order():
    told = summed_up(READINGS, ("post", "backbone", "fpn"))
    assert list(told["stages"].items()) == [("post", 1), ("backbone", 8), ("rest", 6.5)]
    assert told["seconds"] == spread([10.0, 20.0])


def test_the_share_of_the_stages_is_a_median_that_one_bad_run_does_not_move():
    assert summed_up(READINGS, ())["stage_share"] == pytest.approx(1)  # 0.9 and 1.1
    assert summed_up(READINGS[:1], ())["stage_share"] == pytest.approx(0.9)
    lost_its_core = Reading(10.0, {"backbone": 2.0})
    assert summed_up([READINGS[0], lost_its_core, READINGS[0]], ())["stage_share"] == pytest.approx(0.9)


def test_a_gap_between_stages_and_wall_clock_is_warned_of(caplog):
    summed_up([Reading(1.0, {"rest": 0.99})], (), "good")
    summed_up([Reading(1.0, {"rest": 0.8})], (), "bad")
    assert [record.getMessage() for record in caplog.records] == [
        "bad: its stages add up to 80 % of the wall-clock time of a run"
    ]


def measured(seconds, peak_bytes):
    return {"seconds": {"median": seconds}, "peak_bytes": peak_bytes}


def ratio(name, of, to, what="time", target=None):
    return {"name": name, "of": of, "to": to, "what": what, "target": target}


def test_a_ratio_is_held_against_its_target():
    ratios = [
        ratio("time", "a", "b", target=0.5),
        ratio("memory", "a", "b", "memory", target=0.5),
        ratio("free", "b", "a"),
        ratio("absent", "a", "c"),
    ]
    assert evaluate(ratios, {"a": measured(1.0, 6), "b": measured(2.0, 10)}) == [
        {"name": "time", "value": 0.5, "target": 0.5, "met": True},
        {"name": "memory", "value": 0.6, "target": 0.5, "met": False},
        {"name": "free", "value": 2.0, "target": None, "met": None},
    ]


def test_without_memory_there_is_no_ratio_of_it():
    given = {"a": measured(1.0, None), "b": measured(2.0, 3)}
    assert evaluate([ratio("memory", "a", "b", "memory")], given) == []


def test_the_ratios_of_the_config_are_of_what_can_be_measured():
    for what, known in (("inference", config("benchmark").rows), ("training", STEPS)):
        for one in config("benchmark", f"what={what}").ratios:
            assert {one.of, one.to} <= set(known) and one.what in ("time", "memory")
