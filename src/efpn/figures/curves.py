"""Curves and bars of several runs: accuracy against recall, AP and AR against size, causes of losses.

A run has one colour, line and marker in all figures, by its place among the runs (Okabe and Ito's palette, told apart
with any colour vision). What does not exist (None) is left out or said to be n/a, never drawn as 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

Series = Sequence[float | None]
Curve = Mapping[str, Series]

WIDTH: Final = 9.5  # inches of a figure
LEGEND_ROW: Final = 0.26  # inches of each further row of a legend
TEXT, GRID, BARS, EMPTY = "#222222", "#d9d9d9", "#b8c4cf", "#777777"
MARKER: Final = 4.5  # points
SIZES: Final = {"title": 11.0, "label": 9.5, "tick": 8.5}  # points
DASH: Final = (0.0, (4.0, 1.4))
DOTS: Final = (0.0, (1.2, 1.2))
STYLES: Final[Sequence[dict[str, Any]]] = (  # of runs, in matplotlib's words
    {"color": "#0072b2", "linestyle": "-", "marker": "o"},
    {"color": "#d55e00", "linestyle": "-", "marker": "s"},
    {"color": "#009e73", "linestyle": DASH, "marker": "^"},
    {"color": "#cc79a7", "linestyle": DASH, "marker": "D"},
    {"color": "#333333", "linestyle": DOTS, "marker": "v"},
    {"color": "#e69f00", "linestyle": DOTS, "marker": "P"},
)
CAUSES: Final[Mapping[str, str]] = {
    "classification": "#0072b2",
    "localisation": "#56b4e9",
    "both": "#009e73",
    "detection_cap": "#f0e442",
    "low_score": "#e69f00",
    "rpn_cap": "#cc79a7",
    "never_proposed": "#d55e00",
    "undetected": "#999999",
    "duplicate": "#f0e442",
    "crowd": "#cc79a7",
    "background": "#999999",
}


def accuracy_recall(runs: Mapping[str, Mapping[str, Curve | None]], *, title: str = "") -> Figure:
    """Accuracy against recall, a panel for each size (Fig. 7).

    ``runs`` is name to panel to ``accuracy`` and ``recall`` of equal length, or None where there is no such object. All
    runs have the same panels, drawn in the order of the first.
    """
    styles, panels = dict(zip(runs, STYLES, strict=False)), list(next(iter(runs.values())))
    figure = _figure(WIDTH, 0.75 + 0.95 * min(WIDTH / len(panels), 3.6))
    for place, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), place + 1)
        for name, curves in runs.items():
            if (curve := curves[panel]) is not None:
                _line(axes, curve["recall"], curve["accuracy"], styles[name] | {"marker": ""})
        _style(axes, panel, "recall", "" if place else "accuracy")
        axes.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal")
        if not axes.lines:
            axes.text(0.5, 0.5, "n/a: no such object", ha="center", color=EMPTY, fontsize=SIZES["label"])
    _legend(figure, [Line2D([], [], label=name, **one | {"marker": ""}) for name, one in styles.items()], title)
    return figure


def scale_curves(
    bins: Sequence[str],
    objects: Sequence[int],
    runs: Mapping[str, Mapping[str, Series]],
    *,
    title: str = "",
    width: float = WIDTH,
    xlabel: str = "square root of the area, native pixels",
    bars: str = "objects",
) -> Figure:
    """Metrics against object size, with the number of objects below (Fig. 1b).

    ``runs`` is name (of a run or a pyramid level) to metric to its value in each of the ``bins``, None where there is
    none; ``objects`` are the ground truths in each, or what else ``bars`` says; ``xlabel`` says what the bins measure.
    The metrics stand side by side; ``width`` is in inches.
    """
    styles, metrics = dict(zip(runs, STYLES, strict=False)), list(next(iter(runs.values())))
    places, figure = range(len(bins)), _figure(width, 4.5)
    grid = figure.add_gridspec(2, len(metrics), height_ratios=[2.5, 0.9])
    for column, metric in enumerate(metrics):
        axes = figure.add_subplot(grid[0, column])
        for name, series in runs.items():
            _line(axes, places, series[metric], styles[name])
        _style(axes, metric)
        axes.set(xlim=(-0.6, len(bins) - 0.4), xticks=places, xticklabels=[], ylim=(0, None))
    for column in range(len(metrics)):
        axes = figure.add_subplot(grid[1, column])
        axes.bar(places, objects, color=BARS, width=0.8)
        for place, count in enumerate(objects):
            axes.text(place, count, f"{count}", ha="center", va="bottom", fontsize=SIZES["tick"] - 1.5, color=TEXT)
        _style(axes, "", xlabel, bars)
        axes.grid(False)
        axes.set(xlim=(-0.6, len(bins) - 0.4), ylim=(0, 1.3 * max([*objects, 1])), yticks=[])
        axes.set_xticks(places, bins, rotation=45, ha="right", rotation_mode="anchor")
    _legend(figure, [Line2D([], [], label=name, **one, markersize=MARKER) for name, one in styles.items()], title)
    return figure


def cost_curves(
    runs: Mapping[str, Mapping[str, Sequence[tuple[float | None, float | None]]]], *, title: str = ""
) -> Figure:
    """Metrics against the time of an image, a panel for each metric.

    ``runs`` is name to metric to points of milliseconds and value, in order of time. One point alone is a mark.
    """
    styles, metrics = dict(zip(runs, STYLES, strict=False)), list(next(iter(runs.values())))
    figure = _figure(WIDTH, 3.6)
    for place, metric in enumerate(metrics):
        axes = figure.add_subplot(1, len(metrics), place + 1)
        for name, points in runs.items():
            _line(axes, [at for at, _ in points[metric]], [value for _, value in points[metric]], styles[name])
        _style(axes, metric, "ms an image")
        axes.set_xlim(left=0)
        axes.margins(y=0.15)
    _legend(figure, [Line2D([], [], label=name, **one, markersize=MARKER) for name, one in styles.items()], title)
    return figure


def loss_bars(
    runs: Mapping[str, Mapping[str, Mapping[str, int | None]]], objects: Mapping[str, int], *, title: str = ""
) -> Figure:
    """What becomes lost and why, a panel for each size and a stacked bar for each run.

    ``runs`` is name to size band to cause to number, None where a cause is not known; ``objects`` are the ground truths
    of each band, which the numbers are divided by: a band of 0 is n/a.
    """
    names, places = list(runs), np.arange(len(runs))
    causes = [c for c in CAUSES if any(band.get(c) for run in runs.values() for band in run.values())]
    shares = [sum(run[b].get(c) or 0 for c in causes) / max(objects[b], 1) for run in runs.values() for b in objects]
    figure = _figure(WIDTH, 1.15 + 0.75 + 0.34 * len(runs))
    for place, (band, total) in enumerate(objects.items()):
        axes, left = figure.add_subplot(1, len(objects), place + 1), np.zeros(len(runs))
        for cause in causes:
            counts = [run[band].get(cause) or 0 for run in runs.values()]
            share = np.array([100 * count / total if total else 0.0 for count in counts])
            axes.barh(places, share, left=left, height=0.72, color=CAUSES[cause], edgecolor="white", linewidth=0.6)
            left += share
        for row, end in enumerate(left.tolist()):
            said = f" {end:.0f} %" if total else " n/a"
            axes.text(end, row, said, va="center", fontsize=SIZES["tick"], color=TEXT if total else EMPTY)
        axes.set_yticks(places, names)  # first on top
        _style(axes, f"{band} ({total})")
        axes.grid(False, axis="y")
        axes.tick_params(labelleft=place == 0)
        # room for the number at the end of the longest bar
        axes.set(xlim=(0, max(130 * max(shares, default=0), 1)), ylim=(len(runs) - 0.4, -0.6))
    figure.supxlabel("missed, % of the ground truths", fontsize=SIZES["label"], color=TEXT)
    _legend(figure, [Patch(color=CAUSES[cause], label=cause.replace("_", " ")) for cause in causes], title)
    return figure


def interval_dots(
    rows: Sequence[str],
    columns: Mapping[str, Sequence[tuple[float, float, float]]],
    hollow: Mapping[str, Sequence[bool]],
    *,
    title: str = "",
) -> Figure:
    """Means with their intervals, a panel for each column and a dot for each row, first on top.

    ``columns`` is name to mean, low and high of each row; NaN is left out, and a column of nothing else. ``hollow`` is
    name to which rows have an open dot.
    """
    columns = {name: numbers for name, numbers in columns.items() if np.isfinite(np.array(numbers, float)[:, 0]).any()}
    across = max(1, min(len(columns), int((WIDTH - 2.5) / 1.7)))
    down = -(-len(columns) // across)
    figure = _figure(WIDTH, 0.7 + down * (0.6 + 0.28 * len(rows)))
    figure.suptitle(title, x=0.01, ha="left", fontsize=SIZES["title"], weight="bold", color=TEXT)
    places = np.arange(len(rows))
    for place, (column, numbers) in enumerate(columns.items()):
        axes = figure.add_subplot(down, across, place + 1)
        mean, low, high = np.array(numbers, float).T
        axes.hlines(places, low, high, color=STYLES[0]["color"], linewidth=1.7)
        for row, (at, empty) in enumerate(zip(mean, hollow[column], strict=True)):
            fill = {"markerfacecolor": "white"} if empty else {}
            axes.plot(at, row, **STYLES[0] | {"linestyle": ""} | fill, markersize=MARKER)
        _style(axes, column)
        axes.set_xlim(left=max(axes.get_xlim()[0], 0))
        axes.set_yticks(places, rows if place % across == 0 else [])
        axes.set_ylim(len(rows) - 0.5, -0.5)
    return figure


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=150, facecolor="white", layout="constrained")


def _line(axes: Axes, x: Sequence[Any], y: Sequence[Any], style: Mapping[str, Any]) -> None:
    """A line that breaks where a value is None."""
    axes.plot(np.array(x, float), np.array(y, float), linewidth=1.7, clip_on=False, markersize=MARKER, **style)


def _style(axes: Axes, title: str, xlabel: str = "", ylabel: str = "") -> None:
    axes.set_title(title, loc="left", fontsize=SIZES["label"], weight="bold", color=TEXT)
    axes.set_xlabel(xlabel, fontsize=SIZES["label"], color=TEXT)
    axes.set_ylabel(ylabel, fontsize=SIZES["label"], color=TEXT)
    axes.tick_params(labelsize=SIZES["tick"], colors=TEXT, length=0)
    axes.grid(True, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(EMPTY)


def _legend(figure: Figure, handles: Sequence[Any], title: str) -> None:
    """The title and one legend above the panels, in as many columns as there is room for."""
    longest = max((len(str(handle.get_label())) for handle in handles), default=1)
    room = figure.get_figwidth() / (0.075 * longest + 0.62)
    columns = max(1, min(len(handles), int(room)))
    # the heights of figures are made for a legend of one row
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW * (-(-len(handles) // columns) - 1))
    drawn = figure.legend(
        handles=list(handles),
        loc="outside upper left",
        ncols=columns,
        title=title,
        title_fontproperties={"size": SIZES["title"], "weight": "bold"},
        alignment="left",
        frameon=False,
        fontsize=SIZES["label"],
        labelcolor=TEXT,
        handlelength=2.2,
    )
    drawn.get_title().set_color(TEXT)
