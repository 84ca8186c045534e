"""Two detectors on the same crop, side by side, where they differ most on small objects (Fig. 8)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from efpn.figures.outcomes import Mark, Window, draw_outcomes, legend, outcome_marks
from efpn.figures.sheet import caption
from efpn.metrics.bands import TT100K_BINS, in_band
from efpn.metrics.evaluation import Evaluation

CONTEXT: Final = 5.0  # a crop's side, in sides of the small objects it is about
LEAST: Final = 96.0  # pixels of a crop's side
HEAD: Final = 0.62  # inches above the pairs, for title and legend
TITLE: Final = 0.42  # inches above each pair
LEGEND: Final = 7.5  # inches that the legend needs in one row


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


@dataclass(frozen=True)
class Pair:
    """One crop of an image with the boxes of two runs."""

    image: np.ndarray  # (H, W, 3) uint8, native pixels
    left: list[Mark]  # boxes of the first run, native pixels
    right: list[Mark]  # boxes of the second
    window: Window  # the part to show, xyxy native pixels
    title: str = ""  # one line above it


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
    side = max(LEAST, CONTEXT * float((boxes[:, 2:] - boxes[:, :2]).max()))
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    near = np.abs(centres[:, None] - centres[None]).max(axis=2) < side / 2
    middle = centres[near[int(near.sum(axis=1).argmax())]].mean(axis=0)
    room = np.maximum(np.array([shape[1], shape[0]]) - side, 0.0)
    x, y = np.clip(middle - side / 2, 0.0, room).tolist()
    return (x, y, x + side, y + side)


def difference_sheet(first: Evaluation, second: Evaluation, count: int = 8) -> tuple[Figure, dict[str, Any]] | None:
    """Two runs, the baseline on the left, where they differ most on small objects; the title counts all images.

    Returns:
        The figure of at most ``count`` pairs and its data (which images it shows, and every image in which the runs
        differ); None where there is none.
    """
    assert first.load_image is not None, "a sheet of pairs needs a way to load images"
    found = differences(first, second)
    pairs, names = [], (first.name, second.name)
    thresholds = first.shown_threshold, second.shown_threshold
    for one in choose(found, count):
        image = first.load_image(one.image_id)
        left, right = (outcome_marks(run.outcomes[one.image_id], first.class_names) for run in (first, second))
        window = crop_window(one, image.shape)
        counts = f"{'better' if one.gain > 0 else 'worse'}, {len(one.gained)} small gained, {len(one.lost)} lost"
        part = f"{window[2] - window[0]:.0f} of {max(image.shape[:2])} px"
        pairs.append((one.image_id, Pair(image, left, right, window, f"{one.image_id}: {counts} ({part})")))
    if not pairs:
        return None
    gained, lost = sum(len(one.gained) for one in found), sum(len(one.lost) for one in found)
    better, worse = sum(one.gain > 0 for one in found), sum(one.gain < 0 for one in found)
    title = (
        f"{names[0]} (left, score >= {thresholds[0]:.2f}) and {names[1]} (right, {thresholds[1]:.2f})\n"
        f"Small objects that only {names[1]} finds: {gained}, only {names[0]}: {lost}; "
        f"{better} images better, {worse} worse, {len(found) - better - worse} as good"
    )
    rules = {
        "score_thresholds": thresholds,
        "small": TT100K_BINS["small"],
        "size_rule": "long_side",
    }
    differing = [
        {"image_id": one.image_id, "gained": one.gained.tolist(), "lost": one.lost.tolist()}
        for one in found
        if len(one.gained) + len(one.lost)
    ]
    data = {"runs": names, "rules": rules, "shown": [number for number, _ in pairs], "images": differing}
    return pair_sheet([pair for _, pair in pairs], names, title=title), data


def pair_sheet(pairs: Sequence[Pair], names: tuple[str, str], *, title: str = "", width: float = 11.0) -> Figure:
    """Pairs of crops in rows of two, with a legend and a title, whose lines are wrapped to the width in inches.

    Raises:
        ValueError: no pairs.
    """
    if not pairs:
        raise ValueError("a sheet needs at least one pair")
    columns = min(2, len(pairs))
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
    room = TITLE / heights[1]
    for place, pair in enumerate(pairs):
        page = figure.add_subfigure(grid[1 + place // columns, place % columns])
        page.text(0.015, 1 - 0.3 * room, pair.title, fontsize=8.5, va="center")
        halves = page.add_gridspec(1, 2, left=0.015, right=0.985, top=1 - room, bottom=0.02, wspace=0.03)
        for half, (name, drawn) in enumerate(zip(names, (pair.left, pair.right), strict=True)):
            view = page.add_subplot(halves[half])
            draw_outcomes(view, pair.image, drawn, window=pair.window)
            view.set_title(name, loc="left", fontsize=8.5, weight="bold", pad=2, parse_math=False)
            caption(view, drawn, pair.window)
    return figure
