from __future__ import annotations

import numpy as np
import pytest

from efpn.metrics.bands import COCO_BANDS, TT100K_BINS, box_sizes, in_band, suffix

BOXES = np.array([[0, 0, 8, 50], [10, 10, 42, 42], [0, 0, 0, 5]], dtype=float)


@pytest.mark.parametrize(("rule", "expected"), [("long_side", [50, 32, 5]), ("area", [20, 32, 0])])
def test_size_rules_by_hand(rule, expected):
    assert box_sizes(BOXES, rule).tolist() == expected


def test_bands_are_half_open():
    sizes = np.array([0, 31.999, 32, 95.999, 96, 400])
    assert in_band(sizes, TT100K_BINS["small"]).tolist() == [True, True, False, False, False, False]
    assert in_band(sizes, TT100K_BINS["medium"]).tolist() == [False, False, True, True, False, False]
    assert in_band(sizes, TT100K_BINS["large"]).tolist() == [False, False, False, False, True, False]


@pytest.mark.parametrize("bands", [COCO_BANDS, TT100K_BINS])
def test_small_medium_large_split_all(bands):
    sizes = np.random.default_rng(0).uniform(0, 399, 1000)
    shares = [in_band(sizes, bands[name]) for name in ("small", "medium", "large")]
    assert (np.sum(shares, axis=0) == in_band(sizes, bands["all"])).all()


def test_suffixes():
    assert [suffix(name) for name in ("all", "small", "tiny")] == ["", "_S", "_T"]
