"""Windows, by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from efpn.prediction.images import Slices


def test_windows_of_an_image_that_they_fit():
    """250 = 100 + 75 + 75 at a stride of 75; 100 is one row."""
    assert Slices(100, 0.25, whole=False).windows(100, 250) == [(0, 0, 100, 100), (75, 0, 175, 100), (150, 0, 250, 100)]


def test_windows_are_spread_evenly_where_they_do_not_fit():
    """Three are needed for 240 pixels; they start at 0, 70 and 140, not at 0, 75 and 140."""
    assert [window[0] for window in Slices(100, 0.25, whole=False).windows(50, 240)] == [0, 70, 140]


def test_rows_come_one_after_the_other():
    assert Slices(10, 0, whole=False).windows(20, 20) == [
        (0, 0, 10, 10),
        (10, 0, 20, 10),
        (0, 10, 10, 20),
        (10, 10, 20, 20),
    ]


def test_a_window_is_no_larger_than_the_image():
    assert Slices(100, 0.25, whole=False).windows(60, 250)[0] == (0, 0, 100, 60)
    assert Slices(100, 0.25, whole=False).windows(60, 80) == [(0, 0, 80, 60)]


@pytest.mark.parametrize("length", [99, 100, 101, 130, 173, 180, 181, 1000, 1234])
@pytest.mark.parametrize("overlap", [0, 0.2, 0.5, 0.9, 0.999])
def test_every_pixel_is_covered_with_the_overlap_asked_for_and_none_besides(length, overlap):
    windows = Slices(100, overlap, whole=False).windows(100, length)
    seen = np.zeros(length, int)
    for x1, _, x2, _ in windows:
        assert 0 <= x1 < x2 <= length and x2 - x1 == min(100, length)
        seen[x1:x2] += 1
    assert seen.min() == 1
    for one, two in itertools.pairwise(windows):
        assert one[2] - two[0] >= min(int(100 * overlap), 99) and one[0] < two[0]


def test_the_whole_image_comes_first_and_alone_where_one_window_holds_it():
    assert Slices(100, 0.0).windows(100, 200) == [(0, 0, 200, 100), (0, 0, 100, 100), (100, 0, 200, 100)]
    assert Slices(100, 0.0, whole=False).windows(100, 200) == [(0, 0, 100, 100), (100, 0, 200, 100)]
    assert Slices(200).windows(100, 200) == [(0, 0, 200, 100)]
