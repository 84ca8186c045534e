"""The mistakes that matter most, a crop around each: the surest false alarms, and the misses that were easiest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from efpn.figures.outcomes import Mark, Window, draw_outcomes, legend, outcome_marks, zoom_window
from efpn.metrics.evaluation import Evaluation

WorstKind = Literal["miss", "false_alarm"]
SHARE: Final = 2.5  # of a crop's side to the object's
LEAST: Final = 48.0  # native pixels of a crop's side
WIDTH: Final = 11.0  # inches of the sheet
HEAD: Final = 0.62  # inches above the crops, for title and legend
LINES: Final = 0.36  # inches above each crop


class Mistake(NamedTuple):
    """One miss or false alarm; the greater the weight (size of a miss, score of a false alarm) the worse."""

    image_id: int
    box: Mapping[str, Any]
    weight: float


@dataclass(frozen=True)
class Crop:
    """One crop of an image."""

    image: np.ndarray  # (H, W, 3) uint8, native pixels
    drawn: list[Mark]  # the boxes, native pixels
    window: Window  # the part to show, xyxy native pixels
    title: str  # up to two short lines above it


def worst(evaluation: Evaluation, kind: WorstKind, count: int) -> list[Mistake]:
    """The ``count`` worst mistakes of one kind (misses by their longer side), at most two of an image."""
    mistakes: list[Mistake] = []
    for number, one in evaluation.outcomes.items():
        if kind == "miss":
            missed = [one.objects[i] for i in one.misses]
            mistakes += [Mistake(number, box, max(box["bbox"][2:])) for box in missed]
        else:
            made = [one.detections[i] for i in one.false_alarms]
            mistakes += [Mistake(number, box, box["score"]) for box in made]
    chosen: list[Mistake] = []
    for mistake in sorted(mistakes, key=lambda one: -one.weight):
        if len(chosen) < count and sum(other.image_id == mistake.image_id for other in chosen) < 2:
            chosen.append(mistake)
    return chosen


def worst_sheet(evaluation: Evaluation, kind: WorstKind, count: int = 18, title: str = "") -> Figure | None:
    """A crop around each of the worst mistakes of one kind; None where there is none."""
    assert evaluation.load_image is not None, "a sheet of crops needs a way to load images"
    names, crops = evaluation.class_names, []
    for image_id, box, weight in worst(evaluation, kind, count):
        x, y, width, height = box["bbox"]
        window = zoom_window((x, y, x + width, y + height), context=SHARE, least=LEAST)
        said = f"{weight:.2f}" if kind == "false_alarm" else f"{weight:.0f} px"
        drawn = outcome_marks(evaluation.outcomes[image_id], names)
        words = f"{names[box['category_id']]}, {said}\nimage {image_id}"
        crops.append(Crop(evaluation.load_image(image_id), drawn, window, words))
    return crop_sheet(crops, title=title) if crops else None


def crop_sheet(crops: Sequence[Crop], *, title: str = "", columns: int = 6) -> Figure:
    """Crops in rows, with a one-line title and a legend (raises `ValueError`: there are none)."""
    if not crops:
        raise ValueError("a sheet needs at least one crop")
    rows, side = -(-len(crops) // columns), WIDTH / columns
    height = HEAD + rows * (LINES + 0.95 * side)
    figure = Figure(figsize=(WIDTH, height), dpi=130, facecolor="white")
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
