"""Two detectors on the same crop, side by side (Fig. 8)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure

from efpn.figures.outcomes import Mark, Window, draw_outcomes, legend
from efpn.figures.sheet import caption

HEAD: Final = 0.62  # inches above the pairs, for title and legend
TITLE: Final = 0.42  # inches above each pair
LEGEND: Final = 7.5  # inches that the legend needs in one row


@dataclass(frozen=True)
class Pair:
    """One crop of a picture with the boxes of two runs.

    Attributes:
        image: ``(H, W, 3)`` uint8, native pixels.
        left: boxes of the first run, native pixels.
        right: boxes of the second.
        window: the part to show, xyxy native pixels.
        title: one line above it.
    """

    image: np.ndarray
    left: list[Mark]
    right: list[Mark]
    window: Window
    title: str = ""


def pair_sheet(
    pairs: Sequence[Pair], names: tuple[str, str], *, title: str = "", columns: int = 2, width: float = 11.0
) -> Figure:
    """Pairs of crops in rows, with a title and a legend.

    Args:
        pairs: in order of reading; at least one.
        names: of the two runs, left and right.
        title: above all; of one line or several, wrapped to the width.
        columns: pairs in a row.
        width: inches of the sheet.

    Raises:
        ValueError: no pairs.
    """
    if not pairs:
        raise ValueError("a sheet needs at least one pair")
    columns = min(columns, len(pairs))
    rows = -(-len(pairs) // columns)
    lines = [part for line in title.splitlines() for part in textwrap.wrap(line, int(10.5 * width))]
    head = HEAD + 0.17 * (len(lines) - 1) + (0.0 if width >= LEGEND else 0.25)
    heights = [head, *[TITLE + 0.5 * width / columns] * rows]
    figure = Figure(figsize=(width, sum(heights)), dpi=130, facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=heights, wspace=0, hspace=0)
    top = figure.add_subfigure(grid[0, :])
    top.text(0.01, 0.95, "\n".join(lines), fontsize=10.5, weight="bold", va="top")
    legend(top, ncols=4 if width >= LEGEND else 2, loc="lower left", bbox_to_anchor=(0.0, -0.05), fontsize=8.5)
    for place, pair in enumerate(pairs):
        page = figure.add_subfigure(grid[1 + place // columns, place % columns])
        _draw_pair(page, pair, names, heights[1])
    return figure


def _draw_pair(page: SubFigure, pair: Pair, names: tuple[str, str], height: float) -> None:
    """Both runs on the same window, each under its name."""
    top = 1 - TITLE / height
    page.text(0.015, 1 - 0.3 * TITLE / height, pair.title, fontsize=8.5, va="center")
    grid = page.add_gridspec(1, 2, left=0.015, right=0.985, top=top, bottom=0.02, wspace=0.03)
    for place, (name, drawn) in enumerate(zip(names, (pair.left, pair.right), strict=True)):
        view = page.add_subplot(grid[place])
        draw_outcomes(view, pair.image, drawn, window=pair.window)
        view.set_title(name, loc="left", fontsize=8.5, weight="bold", pad=2, parse_math=False)
        caption(view, drawn, pair.window)
