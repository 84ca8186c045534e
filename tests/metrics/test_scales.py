from __future__ import annotations

import math

import pytest

from efpn.metrics.coco import coco_metrics
from efpn.metrics.score import by_scale


@pytest.fixture
def edges(monkeypatch):
    return lambda *edges: monkeypatch.setattr("efpn.metrics.score.EDGES", edges)


def test_each_bin_by_hand(simple, perfect, edges):
    """The small box (20 px) is found, the medium one (50 px) is not; the other bins hold nothing."""
    edges(0, 16, 32, 48, 96, math.inf)
    bins = by_scale(simple, perfect[:1])
    assert [one.name for one in bins] == ["<16", "16-32", "32-48", "48-96", "96+"]
    assert [one.objects for one in bins] == [0, 1, 0, 1, 0]
    assert [one.ap for one in bins] == [None, pytest.approx(1), None, 0, None]
    assert [one.ar for one in bins] == [None, pytest.approx(1), None, 0, None]


def test_one_bin_of_everything_is_ap(simple, perfect, edges):
    edges(0, math.inf)
    (one,) = by_scale(simple, perfect[:1])
    whole = coco_metrics(simple, perfect[:1])
    assert (one.ap, one.ar, one.objects) == (whole["AP"], whole["AR"], 2)


def test_an_object_on_an_edge_is_in_the_upper_bin(simple, perfect, edges):
    edges(10, 20, 30, 50, 60)
    assert [one.objects for one in by_scale(simple, perfect)] == [0, 1, 0, 1]


def test_nothing_found_and_nothing_there(simple):
    assert [one.ap for one in by_scale(simple, [])] == [None, None, None, 0, None, None, 0, None, None, None]
    empty = by_scale({**simple, "annotations": []}, [])
    assert {(one.objects, one.ap, one.ar) for one in empty} == {(0, None, None)}


def test_crowds_do_not_count(simple, perfect):
    simple["annotations"][0]["iscrowd"] = 1
    assert sum(one.objects for one in by_scale(simple, perfect)) == 1
