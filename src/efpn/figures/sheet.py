"""A sheet of images, each beside zoomed views of what is small in it.

Two panels to a row, so that a baseline's panel and EFPN's of the same image stand side by side when given in turn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from PIL import Image

from efpn.figures.outcomes import RIM, STYLES, Kind, Mark, Window, draw_outcomes, legend, outcome_marks, zoom_window
from efpn.metrics.evaluation import Evaluation

VIEWS: Final = 4  # zoomed views beside each image, two by two
WIDTH: Final = 6.8  # inches of one panel
HEAD: Final = 0.7  # inches above the panels, for title and legend
TITLE: Final = 0.32  # inches above each panel's images
LONGEST: Final = 1024  # pixels of an overview; more would only make a slow page
TELLING: Final[tuple[Kind, ...]] = ("miss", "false_alarm", "hit")


@dataclass(frozen=True)
class Panel:
    """One image of a sheet."""

    image: np.ndarray  # (H, W, 3) uint8, native pixels
    drawn: list[Mark]  # its boxes, native pixels
    title: str = ""  # one line above it
    # boxes to zoom on; by default the most telling marks. Give two panels the same to compare them
    focus: list[Window] = field(default_factory=list)


def outcome_sheet(evaluation: Evaluation, images: int = 12, title: str = "") -> Figure | None:
    """Up to ``images`` images with most misses (then most false alarms), what became of each box; None without any."""
    assert evaluation.load_image is not None, "a sheet of images needs a way to load them"
    ranked = sorted(evaluation.outcomes.items(), key=lambda one: (-len(one[1].misses), -len(one[1].false_alarms)))
    panels = []
    for number, fates in ranked[:images]:
        misses, alarms, hits = len(fates.misses), len(fates.false_alarms), len(fates.hits)
        plural = ["" if count == 1 else "s" for count in (alarms, hits)]
        said = f"{misses} missed, {alarms} false alarm{plural[0]}, {hits} hit{plural[1]}"
        drawn = outcome_marks(fates, evaluation.class_names)
        panels.append(Panel(evaluation.load_image(number), drawn, f"{number}: {said}"))
    return contact_sheet(panels, title=title) if panels else None


def contact_sheet(panels: Sequence[Panel], *, title: str = "") -> Figure:
    """Panels in rows of two, with a title and a legend (raises `ValueError`: there are none)."""
    if not panels:
        raise ValueError("a sheet needs at least one panel")
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    shape = float(np.median([panel.image.shape[0] / panel.image.shape[1] for panel in panels]))
    share = 1 / (1 + min(max(shape, 0.75), 1.5))  # of the width for the overview: as high as the views beside it
    heights = [HEAD, *[TITLE + (1 - share) * WIDTH] * rows]
    figure = Figure(figsize=(columns * WIDTH, sum(heights)), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=heights, wspace=0, hspace=0)
    head = figure.add_subfigure(grid[0, :])
    head.text(0.01 if columns > 1 else 0.02, 0.93, title, fontsize=13, weight="bold", va="top")
    legend(head, loc="lower left", bbox_to_anchor=(0.0, -0.05), fontsize=9.5)
    for place, panel in enumerate(panels):
        _draw_panel(figure.add_subfigure(grid[1 + place // columns, place % columns]), panel, share)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG or PDF, by the ending of ``path``; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def telling_marks(drawn: Sequence[Mark], count: int = VIEWS) -> list[Mark]:
    """The marks most worth a closer look: misses, then false alarms, then hits; the smallest first.

    A mark that an earlier view shows already is passed over.
    """
    chosen: list[Mark] = []
    for kind in TELLING:
        for mark in sorted((one for one in drawn if one.kind == kind), key=lambda one: one.size):
            if len(chosen) < count and not any(_inside(_centre(mark.box), zoom_window(one.box)) for one in chosen):
                chosen.append(mark)
    return chosen


def _draw_panel(page: SubFigure, panel: Panel, share: float) -> None:
    """Overview on the left, up to four views on the right."""
    top = 1 - TITLE / (TITLE + (1 - share) * WIDTH)
    page.text(0.02, (1 + top) / 2, panel.title, fontsize=10, va="center")
    grid = page.add_gridspec(
        1, 2, left=0.02, right=0.98, top=top, bottom=0.02, wspace=0.03, width_ratios=[share, 1 - share]
    )
    views = grid[1].subgridspec(2, 2, wspace=0.04, hspace=0.04)
    height, width = panel.image.shape[:2]
    small, factor = panel.image, min(1.0, LONGEST / max(height, width))
    if factor < 1:
        size = (round(width * factor), round(height * factor))
        small = np.asarray(Image.fromarray(panel.image).resize(size, Image.Resampling.BOX))
    overview = page.add_subplot(grid[0])
    draw_outcomes(overview, small, [mark.scaled(factor) for mark in panel.drawn], thickness=0.75)
    overview.set_anchor("N")
    windows = [zoom_window(box) for box in panel.focus] or [zoom_window(m.box) for m in telling_marks(panel.drawn)]
    for place, window in enumerate(windows[:VIEWS]):
        view = page.add_subplot(views[place // 2, place % 2])
        draw_outcomes(view, panel.image, panel.drawn, window=window)
        caption(view, panel.drawn, window)


def caption(view: Axes, drawn: Sequence[Mark], window: Window) -> None:
    """Name what the view shows, nearest to its middle first, each in the colour of its frame."""
    middle = _centre(window)
    named = [mark for mark in drawn if mark.text and mark.kind in TELLING and _inside(_centre(mark.box), window)]
    named.sort(key=lambda mark: math.dist(_centre(mark.box), middle))
    frame = {"facecolor": RIM, "alpha": 0.8, "edgecolor": "none", "pad": 1.2}
    for line, mark in enumerate(named[:2]):
        style = STYLES[mark.kind]
        view.text(
            0.02,
            0.02 + 0.105 * line,
            f"{style.short} {mark.text}",
            transform=view.transAxes,
            color=style.colour,
            fontsize=7,
            va="bottom",
            clip_on=True,
            bbox=frame,
        )


def _centre(box: Window) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _inside(point: tuple[float, float], window: Window) -> bool:
    return window[0] <= point[0] <= window[2] and window[1] <= point[1] <= window[3]
