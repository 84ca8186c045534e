from __future__ import annotations

import math

import numpy as np
import pytest

from efpn.errors import UserError
from efpn.metrics.bands import COCO_BANDS, TT100K_BINS, box_sizes, check_bands, in_band, suffix

BOXES = np.array([[0, 0, 8, 50], [10, 10, 42, 42], [0, 0, 0, 5]], dtype=float)


@pytest.mark.parametrize(("rule", "expected"), [("long_side", [50, 32, 5]), ("area", [20, 32, 0])])
def test_size_rules_by_hand(rule, expected):
    assert box_sizes(BOXES, rule).tolist() == expected


def test_unknown_rule_is_named_with_the_choices():
    with pytest.raises(UserError, match=r"size_rule='short_side' is unknown.*long_side.*area"):
        box_sizes(BOXES, "short_side")


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


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        ({}, "none given"),
        ({"small": (32, 32)}, r"'small': \(32, 32\) is not a range"),
        ({"small": (-1, 32)}, "is not a range"),
        ({"small": (0, math.nan)}, "is not a range"),
        ({"small": (0, 16), "slight": (16, 32)}, "'small' and 'slight' share the column AP_S"),
    ],
)
def test_unusable_bands_are_refused(bands, message):
    with pytest.raises(UserError, match=message):
        check_bands(bands)
