"""Feature maps side by side on the same crop (Fig. 6), in one common projection onto colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

SPREAD: Final = 2.5  # standard deviations of the target that a colour channel spans on either side


@dataclass(frozen=True)
class FeatureRow:
    """One crop of a picture and what the maps hold there.

    Attributes:
        image: ``(h, w, 3)`` uint8, the crop.
        target: ``(C, a, b)``, what the others should be.
        maps: name to ``(C, a, b)``.
        title: one line.
    """

    image: np.ndarray
    target: np.ndarray
    maps: Mapping[str, np.ndarray]
    title: str = ""


def relative_error(features: np.ndarray, target: np.ndarray) -> float:
    """Mean absolute difference of two maps over the target's mean absolute deviation from its mean (per channel).

    0 for a perfect copy, 1 for a map that only knows each channel's mean; both ``(C, a, b)``.
    """
    spread = np.abs(target - target.mean(axis=(1, 2), keepdims=True)).mean()
    return float(np.abs(features - target).mean() / spread)


def feature_sheet(rows: Sequence[FeatureRow], *, title: str = "", side: float = 2.1) -> Figure:
    """A row for each crop: the picture, the target, then the maps, each with its relative error.

    All maps of a row are projected onto the target's first three principal components as red, green and blue.

    Args:
        rows: all with the same names of maps.
        title: above all.
        side: inches of one panel.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("a sheet of features needs at least one crop")
    heads = ["picture", "target", *rows[0].maps]
    figure = Figure(figsize=(side * len(heads), 0.5 + (side + 0.32) * len(rows)), dpi=130, facecolor="white",
                    layout="constrained")  # fmt: skip
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, weight="bold")
    grid = figure.subplots(len(rows), len(heads), squeeze=False)
    for axes, row in zip(grid, rows, strict=True):
        colours = Projection(row.target)
        shown = [row.image, colours(row.target), *(colours(features) for features in row.maps.values())]
        errors = [relative_error(features, row.target) for features in row.maps.values()]
        heading = [row.title, "target", *(f"{n}, error {e:.2f}" for n, e in zip(row.maps, errors, strict=True))]
        for view, picture, words in zip(axes, shown, heading, strict=True):
            view.imshow(picture, interpolation="nearest")
            view.set_title(words, loc="left", fontsize=8, parse_math=False)
            view.set_axis_off()
    return figure


class Projection:
    """Maps features ``(C, a, b)`` to colours ``(a, b, 3)`` uint8 by the principal components of ``target``."""

    def __init__(self, target: np.ndarray) -> None:
        flat = target.reshape(len(target), -1).astype(np.float64)
        self.mean = flat.mean(axis=1, keepdims=True)
        vectors, values, _ = np.linalg.svd(flat - self.mean, full_matrices=False)
        self.axes = vectors[:, :3].T
        self.scale = SPREAD * np.maximum(values[:3, None] / np.sqrt(flat.shape[1]), 1e-12)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Project; what lies beyond the target's spread is clipped."""
        flat = features.reshape(len(features), -1).astype(np.float64)
        found = self.axes @ (flat - self.mean) / self.scale
        colours = np.zeros((3, flat.shape[1]))
        colours[: len(found)] = found
        return (np.clip(colours.T * 0.5 + 0.5, 0, 1) * 255).astype(np.uint8).reshape(*features.shape[1:], 3)
