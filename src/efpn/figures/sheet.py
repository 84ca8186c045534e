"""Sheets of images of what a detector found: most misses, the worst mistakes, and where two runs differ (Fig. 8)."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from PIL import Image

from efpn.figures.outcomes import RIM, STYLES, Kind, Mark, Window, draw_outcomes, legend, outcome_marks, zoom_window
from efpn.metrics.bands import TT100K_BINS, in_band
from efpn.metrics.evaluation import Evaluation

WorstKind = Literal["miss", "false_alarm"]
TELLING: Final[tuple[Kind, ...]] = ("miss", "false_alarm", "hit")
VIEWS: Final = 4  # zoomed views beside each image, two by two
LONGEST: Final = 1024  # pixels of an overview; more would only make a slow page
PANEL_WIDTH, PANEL_HEAD, PANEL_TITLE = 6.8, 0.7, 0.32  # inches of a panel, above all and above each
WIDTH, HEAD = 11.0, 0.62  # inches of a sheet of crops or pairs, and above them, for title and legend
CROP_TITLE, PAIR_TITLE = 0.36, 0.42  # inches above each
CROP_SHARE, CROP_LEAST = 2.5, 48.0  # a crop's side around a mistake, in sides of it and in native pixels at least
PAIR_SHARE, PAIR_LEAST = 5.0, 96.0  # the same around small objects that two runs find differently


class Panel(NamedTuple):
    """One image of a sheet."""

    image: np.ndarray  # (H, W, 3) uint8, native pixels
    drawn: list[Mark]  # its boxes, native pixels
    title: str = ""  # one line above it


class Mistake(NamedTuple):
    """One miss or false alarm; the greater the weight (size of a miss, score of a false alarm) the worse."""

    image_id: int
    box: Window  # xyxy, native pixels
    label: int  # category id
    weight: float


@dataclass(frozen=True)
class Difference:
    """What two runs find differently in one image."""

    image_id: int
    gained: np.ndarray  # (g, 4) xyxy, small ground truths that only the second run finds, native pixels
    lost: np.ndarray  # (l, 4) those that only the first finds

    @property
    def gain(self) -> int:
        """Small hits of the second run more than the first's."""
        return len(self.gained) - len(self.lost)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG or PDF, by the ending of ``path``; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


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
    """Panels in rows of two, each an image beside zoomed views of what is small in it, with a title and a legend."""
    shape = float(np.median([panel.image.shape[0] / panel.image.shape[1] for panel in panels]))
    share = 1 / (1 + min(max(shape, 0.75), 1.5))  # of the width for the overview: as high as the views beside it
    height = PANEL_TITLE + (1 - share) * PANEL_WIDTH
    figure, head, pages = _paged(len(panels), min(2, len(panels)) * PANEL_WIDTH, PANEL_HEAD, height, dpi=110)
    head.text(0.01 if len(panels) > 1 else 0.02, 0.93, title, fontsize=13, weight="bold", va="top")
    legend(head, loc="lower left", bbox_to_anchor=(0.0, -0.05), fontsize=9.5)
    top = 1 - PANEL_TITLE / height
    place = {"left": 0.02, "right": 0.98, "top": top, "bottom": 0.02, "wspace": 0.03}
    for page, (image, drawn, text) in zip(pages, panels, strict=True):
        page.text(0.02, (1 + top) / 2, text, fontsize=10, va="center")
        grid = page.add_gridspec(1, 2, **place, width_ratios=[share, 1 - share])
        small, factor = image, min(1.0, LONGEST / max(image.shape[:2]))
        if factor < 1:
            size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
            small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
        overview = page.add_subplot(grid[0])
        draw_outcomes(overview, small, [mark.scaled(factor) for mark in drawn], thickness=0.75)
        overview.set_anchor("N")
        views = grid[1].subgridspec(2, 2, wspace=0.04, hspace=0.04)
        for n, mark in enumerate(telling_marks(drawn)):
            view = page.add_subplot(views[n // 2, n % 2])
            draw_outcomes(view, image, drawn, window=zoom_window(mark.box))
            _caption(view, drawn, zoom_window(mark.box))
    return figure


def telling_marks(drawn: Sequence[Mark], count: int = VIEWS) -> list[Mark]:
    """The marks most worth a closer look: misses, then false alarms, then hits; the smallest first.

    A mark that an earlier view shows already is passed over.
    """
    chosen: list[Mark] = []
    for kind in TELLING:
        for mark in sorted((one for one in drawn if one.kind == kind), key=lambda one: one.size):
            if len(chosen) < count and not any(_inside(mark, zoom_window(one.box)) for one in chosen):
                chosen.append(mark)
    return chosen


def worst(evaluation: Evaluation, kind: WorstKind, count: int) -> list[Mistake]:
    """The ``count`` worst mistakes of one kind (misses by their longer side), at most two of an image."""
    mistakes: list[Mistake] = []
    for number, one in evaluation.outcomes.items():
        if kind == "miss":  # sizes are rounded: objects that differ by float noise alone keep the order of the file
            parts, those = (one.object_boxes, one.object_classes, one.object_sizes.round(6)), one.misses
        else:
            parts, those = (one.detection_boxes, one.detection_classes, one.scores), one.false_alarms
        boxes, labels, weights = (part[those].tolist() for part in parts)
        mistakes += [Mistake(number, tuple(box), *of) for box, *of in zip(boxes, labels, weights, strict=True)]
    chosen: list[Mistake] = []
    for mistake in sorted(mistakes, key=lambda one: -one.weight):
        if len(chosen) < count and sum(other.image_id == mistake.image_id for other in chosen) < 2:
            chosen.append(mistake)
    return chosen


def worst_sheet(evaluation: Evaluation, kind: WorstKind, count: int = 18, title: str = "") -> Figure | None:
    """A crop around each of the worst mistakes of one kind, in rows of six; None where there is none."""
    assert evaluation.load_image is not None, "a sheet of crops needs a way to load images"
    mistakes, names, columns = worst(evaluation, kind, count), evaluation.class_names, 6
    if not mistakes:
        return None
    rows, side = -(-len(mistakes) // columns), WIDTH / columns
    height = HEAD + rows * (CROP_TITLE + 0.95 * side)
    figure = Figure(figsize=(WIDTH, height), dpi=130, facecolor="white")
    figure.text(0.01, 1 - 0.18 / height, title, fontsize=10.5, weight="bold", va="center")
    legend(figure, loc="upper left", bbox_to_anchor=(0.0, 1 - 0.28 / height), fontsize=8.5)
    for place, (image_id, box, label, weight) in enumerate(mistakes):
        row, column = divmod(place, columns)
        bottom = height - HEAD - (row + 1) * (CROP_TITLE + 0.95 * side) + 0.02 * side
        view = figure.add_axes((column / columns + 0.004, bottom / height, 1 / columns - 0.008, 0.93 * side / height))
        window = zoom_window(box, context=CROP_SHARE, least=CROP_LEAST)
        drawn = outcome_marks(evaluation.outcomes[image_id], names)
        draw_outcomes(view, evaluation.load_image(image_id), drawn, window=window)
        said = f"{weight:.2f}" if kind == "false_alarm" else f"{weight:.0f} px"
        text = f"{names[label]}, {said}\nimage {image_id}"
        view.set_title(text, loc="left", fontsize=7.5, pad=2, parse_math=False)
    return figure


def differences(first: Evaluation, second: Evaluation) -> list[Difference]:
    """Every image's small objects that one run finds and the other misses."""
    rows = []
    for number, one in first.outcomes.items():
        small = in_band(one.object_sizes, TT100K_BINS["small"])
        by = [np.isin(np.arange(len(small)), run.outcomes[number].found) for run in (first, second)]
        gained, lost = small & by[1] & ~by[0], small & by[0] & ~by[1]
        rows.append(Difference(number, one.object_boxes[gained], one.object_boxes[lost]))
    return rows


def choose(found: Sequence[Difference], count: int) -> list[Difference]:
    """The images that differ most, better and worse ones in the proportion in which they occur.

    Within either kind those of the greatest difference come first. One worse (better) image is shown at least, where
    there is one and ``count`` is 2 or more. Images in which gains and losses cancel out are not chosen.
    """
    better, worse = (
        sorted((one for one in found if sign * one.gain > 0), key=lambda one: (-abs(one.gain), one.image_id))
        for sign in (1, -1)
    )
    share = round(count * len(worse) / max(len(better) + len(worse), 1))
    least, most = min(len(worse), 1, count // 2), count - min(len(better), 1)
    of_worse = min(max(share, least, count - len(better)), max(most, 0), len(worse))
    return better[: count - of_worse] + worse[:of_worse]


def crop_window(difference: Difference, shape: tuple[int, ...]) -> Window:
    """A square, inside of the image ``shape (H, W, ...)`` where it fits, about the object with most differences near.

    The gains decide, or the losses where there are more of those.
    """
    boxes = difference.gained if difference.gain > 0 else difference.lost
    side = max(PAIR_LEAST, PAIR_SHARE * float((boxes[:, 2:] - boxes[:, :2]).max()))
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    near = np.abs(centres[:, None] - centres[None]).max(axis=2) < side / 2
    middle = centres[near[int(near.sum(axis=1).argmax())]].mean(axis=0)
    room = np.maximum(np.array([shape[1], shape[0]]) - side, 0.0)
    x, y = np.clip(middle - side / 2, 0.0, room).tolist()
    return (x, y, x + side, y + side)


def difference_sheet(first: Evaluation, second: Evaluation, count: int = 8) -> tuple[Figure, dict[str, Any]] | None:
    """Two runs, the baseline on the left, where they differ most on small objects; the title counts all images.

    Returns:
        The figure of at most ``count`` pairs of crops in rows of two, and its data (which images it shows, and every
        image in which the runs differ); None where there is none.
    """
    assert first.load_image is not None, "a sheet of pairs needs a way to load images"
    found, runs = differences(first, second), (first, second)
    chosen = choose(found, count)
    if not chosen:
        return None
    names, thresholds = (first.name, second.name), (first.shown_threshold, second.shown_threshold)
    gained, lost = sum(len(one.gained) for one in found), sum(len(one.lost) for one in found)
    better, worse = sum(one.gain > 0 for one in found), sum(one.gain < 0 for one in found)
    title = (
        f"{names[0]} (left, score >= {thresholds[0]:.2f}) and {names[1]} (right, {thresholds[1]:.2f})\n"
        f"Small objects that only {names[1]} finds: {gained}, only {names[0]}: {lost}; "
        f"{better} images better, {worse} worse, {len(found) - better - worse} as good"
    )
    lines = [part for line in title.splitlines() for part in textwrap.wrap(line, int(10.5 * WIDTH))]
    height = PAIR_TITLE + 0.5 * WIDTH / min(2, len(chosen))
    figure, top, pages = _paged(len(chosen), WIDTH, HEAD + 0.17 * (len(lines) - 1), height, dpi=130)
    top.text(0.01, 0.95, "\n".join(lines), fontsize=10.5, weight="bold", va="top")
    legend(top, loc="lower left", bbox_to_anchor=(0.0, -0.05), fontsize=8.5)
    room = PAIR_TITLE / height
    for page, one in zip(pages, chosen, strict=True):
        image = first.load_image(one.image_id)
        window = crop_window(one, image.shape)
        counts = f"{'better' if one.gain > 0 else 'worse'}, {len(one.gained)} small gained, {len(one.lost)} lost"
        part = f"{window[2] - window[0]:.0f} of {max(image.shape[:2])} px"
        page.text(0.015, 1 - 0.3 * room, f"{one.image_id}: {counts} ({part})", fontsize=8.5, va="center")
        halves = page.add_gridspec(1, 2, left=0.015, right=0.985, top=1 - room, bottom=0.02, wspace=0.03)
        for half, run in enumerate(runs):
            view, drawn = page.add_subplot(halves[half]), outcome_marks(run.outcomes[one.image_id], first.class_names)
            draw_outcomes(view, image, drawn, window=window)
            view.set_title(run.name, loc="left", fontsize=8.5, weight="bold", pad=2, parse_math=False)
            _caption(view, drawn, window)
    rules = {"score_thresholds": thresholds, "small": TT100K_BINS["small"], "size_rule": "long_side"}
    differing = [
        {"image_id": one.image_id, "gained": one.gained.tolist(), "lost": one.lost.tolist()}
        for one in found
        if len(one.gained) + len(one.lost)
    ]
    return figure, {"runs": names, "rules": rules, "shown": [one.image_id for one in chosen], "images": differing}


def _paged(count: int, width: float, head: float, height: float, dpi: int) -> tuple[Figure, SubFigure, list[SubFigure]]:
    """A figure with a head and ``count`` pages below it in rows of two; all sizes in inches."""
    columns = min(2, count)
    heights = [head, *[height] * -(-count // columns)]
    figure = Figure(figsize=(width, sum(heights)), dpi=dpi, facecolor="white")
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights, wspace=0, hspace=0)
    top = figure.add_subfigure(grid[0, :])
    return figure, top, [figure.add_subfigure(grid[1 + n // columns, n % columns]) for n in range(count)]


def _caption(view: Axes, drawn: Sequence[Mark], window: Window) -> None:
    """Name the two marks nearest to the middle of what the view shows, each in the colour of its frame."""
    middle = ((window[0] + window[2]) / 2, (window[1] + window[3]) / 2)
    named = [mark for mark in drawn if mark.text and mark.kind in TELLING and _inside(mark, window)]
    frame = {"facecolor": RIM, "alpha": 0.8, "edgecolor": "none", "pad": 1.2}
    look: dict[str, Any] = {"transform": view.transAxes, "fontsize": 7, "va": "bottom", "clip_on": True, "bbox": frame}
    for line, mark in enumerate(sorted(named, key=lambda mark: math.dist(mark.centre, middle))[:2]):
        style = STYLES[mark.kind]
        view.text(0.02, 0.02 + 0.105 * line, f"{style.short} {mark.text}", color=style.colour, **look)


def _inside(mark: Mark, window: Window) -> bool:
    x, y = mark.centre
    return window[0] <= x <= window[2] and window[1] <= y <= window[3]
