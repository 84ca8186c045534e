"""Feature maps in common colours, and how far they are from their target."""

from __future__ import annotations

import numpy as np
import pytest

from efpn.evaluation.features import FeatureRow, feature_sheet, projected, relative_error


def maps(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(6, 8, 8)) * np.arange(1, 7)[:, None, None]


def test_a_copy_has_no_error_and_the_mean_has_one() -> None:
    target = maps()
    flat = np.broadcast_to(target.mean(axis=(1, 2), keepdims=True), target.shape)
    assert relative_error(target, target) == 0.0 and relative_error(flat, target) == pytest.approx(1.0)


def test_the_strongest_direction_of_the_target_is_red() -> None:
    target = np.zeros((3, 1, 4))
    target[1] = [[-3.0, 3.0, -3.0, 3.0]]  # all that varies is channel 1
    colours = projected(target, target).astype(int)
    assert abs(colours[0, 0, 0] - colours[0, 1, 0]) == pytest.approx(255 / 2.5, abs=2)  # two deviations of five
    assert (colours[..., 1:] == colours[0, 0, 1:]).all()


def test_equal_features_have_equal_colours_and_wild_ones_are_clipped() -> None:
    np.testing.assert_array_equal(projected(maps(), maps()), projected(maps(), maps()))
    assert set(np.unique(projected(1e6 * maps(1), maps()))) <= {0, 255}


def test_a_sheet_has_image_target_and_maps_in_each_row() -> None:
    row = FeatureRow(np.zeros((16, 16, 3), np.uint8), maps(), {"FTT": maps(1), "ESPCN": maps(2)}, "image 1")
    figure = feature_sheet([row, row])
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert len(titles) == 8 and titles[:2] == ["image 1", "target"] and titles[2].startswith("FTT, error ")
    with pytest.raises(ValueError, match="at least one crop"):
        feature_sheet([])
