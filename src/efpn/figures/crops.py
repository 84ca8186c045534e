"""Many crops around single objects, each under a line of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from efpn.figures.outcomes import Mark, Window, draw_outcomes, legend

HEAD: Final = 0.62  # inches above the crops, for title and legend
LINES: Final = 0.36  # inches above each crop


@dataclass(frozen=True)
class Crop:
    """One crop of a picture.

    Attributes:
        image: ``(H, W, 3)`` uint8, native pixels.
        drawn: the boxes, native pixels.
        window: the part to show, xyxy native pixels.
        title: up to two short lines above it.
    """

    image: np.ndarray
    drawn: list[Mark]
    window: Window
    title: str


def crop_sheet(crops: Sequence[Crop], *, title: str = "", columns: int = 6, width: float = 11.0) -> Figure:
    """Crops in rows, with a title and a legend.

    Args:
        crops: in order of reading; at least one.
        title: one line above all.
        columns: crops in a row.
        width: inches of the sheet.

    Raises:
        ValueError: no crops.
    """
    if not crops:
        raise ValueError("a sheet needs at least one crop")
    rows, side = -(-len(crops) // columns), width / columns
    height = HEAD + rows * (LINES + 0.95 * side)
    figure = Figure(figsize=(width, height), dpi=130, facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(0.01, 1 - 0.18 / height, title, fontsize=10.5, weight="bold", va="center")
    legend(figure, loc="upper left", bbox_to_anchor=(0.0, 1 - 0.28 / height), fontsize=8.5)
    for place, crop in enumerate(crops):
        row, column = divmod(place, columns)
        bottom = height - HEAD - (row + 1) * (LINES + 0.95 * side) + 0.02 * side
        box = (column / columns + 0.004, bottom / height, 1 / columns - 0.008, 0.93 * side / height)
        view = figure.add_axes(box)
        draw_outcomes(view, crop.image, crop.drawn, window=crop.window)
        view.set_title(crop.title, loc="left", fontsize=7.5, pad=2, parse_math=False)
    return figure
