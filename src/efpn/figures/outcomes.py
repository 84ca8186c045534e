"""Ground truth, hits, false alarms and misses on an image.

Each kind has a colour of its own (Okabe and Ito's palette, told apart with any colour vision) *and* a line style of its
own, on a dark rim that keeps it visible on any background. Boxes are xyxy in pixels of the image that is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.patheffects import Normal, Stroke
from PIL import Image

from efpn.metrics.evaluation import Outcomes

Kind = Literal["truth", "hit", "false_alarm", "miss"]
Window = tuple[float, float, float, float]

RIM: Final = "#1a1a1a"
OUTWARDS: Final = np.array([-1, -1, 1, 1])  # what makes an xyxy box larger
CORNERS: Final = np.array([(0, 1), (2, 1), (2, 3), (0, 3)])  # of an xyxy box, in turn
READABLE: Final = 1024  # pixels of the longer side, about which names can be read and small boxes told apart
DPI: Final = 100  # of an annotated image
POINTS: Final = 8.5  # of a name, at READABLE pixels
GAP: Final = 3.0  # pixels between a frame and its name, likewise


@dataclass(frozen=True)
class Style:
    """How boxes of one kind look; ``width`` in points, ``short`` is the name in a caption."""

    name: str
    short: str
    colour: str
    line: Literal["-"] | tuple[float, tuple[float, ...]]
    width: float


STYLES: Final[Mapping[Kind, Style]] = {  # later ones are drawn on top
    "truth": Style("ground truth (found)", "truth", "#ffffff", "-", 0.9),
    "hit": Style("hit (right class, IoU > 0.5)", "hit", "#56b4e9", "-", 1.8),
    "false_alarm": Style("false alarm", "false", "#ff6a13", (0, (4.0, 1.6)), 1.8),
    "miss": Style("missed ground truth", "missed", "#f0e442", (0, (1.2, 1.2)), 2.2),
}


@dataclass(frozen=True)
class Mark:
    """One box to draw."""

    kind: Kind  # what became of it
    box: Window  # x1, y1, x2, y2 in pixels of the image
    text: str = ""  # shown with a zoomed view of it, such as pl80 0.93

    @property
    def size(self) -> float:
        """Longer side, pixels."""
        return max(self.box[2] - self.box[0], self.box[3] - self.box[1])

    @property
    def centre(self) -> tuple[float, float]:
        """Pixels."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2

    def scaled(self, factor: float) -> Mark:
        """The mark on the image resized by ``factor``."""
        x1, y1, x2, y2 = self.box
        return replace(self, box=(x1 * factor, y1 * factor, x2 * factor, y2 * factor))


def marks(kind: Kind, boxes: np.ndarray, texts: list[str] | None = None) -> list[Mark]:
    """Boxes ``(n, 4)`` of one kind as marks."""
    names = texts or [""] * len(boxes)
    return [Mark(kind, (x1, y1, x2, y2), text) for (x1, y1, x2, y2), text in zip(boxes.tolist(), names, strict=True)]


def outcome_marks(outcomes: Outcomes, names: Mapping[int, str]) -> list[Mark]:
    """One image's boxes to draw, native pixels, with class, score and size in words; ``names`` by category id."""
    truth, found = outcomes.object_boxes, outcomes.detection_boxes
    shown = zip(outcomes.detection_classes.tolist(), outcomes.scores.tolist(), strict=True)
    objects = zip(outcomes.object_classes.tolist(), outcomes.object_sizes.tolist(), strict=True)
    said = [f"{names[label]} {score:.2f}" for label, score in shown]
    wanted = [f"{names[label]}, {side:.0f} px" for label, side in objects]
    return [
        *marks("truth", truth[outcomes.found]),
        *marks("hit", found[outcomes.hits], [said[i] for i in outcomes.hits]),
        *marks("false_alarm", found[outcomes.false_alarms], [said[i] for i in outcomes.false_alarms]),
        *marks("miss", truth[outcomes.misses], [wanted[i] for i in outcomes.misses]),
    ]


def draw_outcomes(
    axes: Axes, image: np.ndarray, drawn: list[Mark], *, window: Window | None = None, thickness: float = 1.0
) -> None:
    """Draw ``image (H, W, 3)`` uint8, or a ``window`` of it (xyxy pixels, may reach beyond it), with its boxes.

    Boxes lie half a line outside of what they frame, so that an object of a few pixels stays visible; misses and false
    alarms are drawn on top. ``thickness`` is a factor on the line widths.
    """
    height, width = image.shape[:2]
    left, top, right, bottom = window or (0, 0, width, height)
    axes.imshow(image, extent=(0, width, height, 0), interpolation="antialiased")
    figure, place = axes.get_figure(root=True), axes.get_window_extent()
    assert figure is not None, "draw_outcomes needs axes that belong to a figure"
    per_inch = max((right - left) / place.width, (bottom - top) / place.height) * figure.dpi  # pixels, at equal aspect
    for kind, style in STYLES.items():
        line = style.width * thickness
        pad = line * per_inch / 72 / 2
        boxes = np.array([mark.box for mark in drawn if mark.kind == kind]).reshape(-1, 4) + pad * OUTWARDS
        seen = boxes[(boxes[:, :2] < (right, bottom)).all(axis=1) & (boxes[:, 2:] > (left, top)).all(axis=1)]
        if len(seen):  # one path for all of a kind: a thousand artists take a second
            frames = Path.make_compound_path_from_polys(seen[:, CORNERS])
            look = {"edgecolor": style.colour, "linestyle": style.line, "linewidth": line, "path_effects": _rim(line)}
            axes.add_patch(PathPatch(frames, fill=False, **look))
    axes.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[], facecolor="#404040")
    for spine in axes.spines.values():
        spine.set_visible(False)


def annotated_image(image: np.ndarray, drawn: Sequence[Mark]) -> np.ndarray:
    """Draw boxes and their texts on ``image (h, w, 3)`` uint8; the result is ``(f * h, f * w, 3)``.

    A small image is enlarged by a whole factor ``f``, so that they can be read. A text stands beside its box, where it
    hides no other box or text if there is such a place.
    """
    factor = max(1, round(READABLE / max(image.shape[:2])))
    size = (factor * image.shape[1], factor * image.shape[0])
    large = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)) if factor > 1 else image
    figure = Figure(figsize=(size[0] / DPI, size[1] / DPI), dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    grown = [mark.scaled(factor) for mark in drawn]
    strength = max(1.0, max(size) / READABLE) ** 0.5  # half-way between the same pixels and the same share
    draw_outcomes(axes, large, grown, thickness=0.8 * strength)
    gap, points = GAP * strength, POINTS * strength
    frame = {"facecolor": RIM, "alpha": 0.85, "edgecolor": "none", "pad": points / 6}
    taken = [_padded(mark.box, gap) for mark in grown]
    for mark in sorted((mark for mark in grown if mark.text), key=lambda one: one.size):  # they have the fewest places
        colour = STYLES[mark.kind].colour
        text = axes.text(0, 0, mark.text, color=colour, fontsize=points, va="top", parse_math=False, bbox=frame)
        extent = text.get_window_extent()
        width, height = extent.width + 2 * gap, extent.height + 2 * gap
        x, y = _place(_padded(mark.box, gap), width, height, taken, size)
        text.set_position((x + gap, y + gap))
        taken.append((x, y, x + width, y + height))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _place(
    box: Window, width: float, height: float, taken: Sequence[Window], size: tuple[int, int]
) -> tuple[float, float]:
    """Upper left corner for a text of that size: above, below, right or left of the box, where it hides least."""
    x1, y1, x2, y2 = box
    right, below, others = x2 - width, y2 - height, np.array(taken).reshape(-1, 4)
    spots = [(x1, y1 - height), (x1, y2), (right, y1 - height), (right, y2), (x2, y1), (x1 - width, y1), (x2, below)]
    inside = [(min(max(x, 0), size[0] - width), min(max(y, 0), size[1] - height)) for x, y in spots]

    def hidden(at: tuple[float, float]) -> float:
        """Area in pixels of what lies under a text there."""
        low, high = np.maximum(others[:, :2], at), np.minimum(others[:, 2:], (at[0] + width, at[1] + height))
        return float((high - low).clip(min=0).prod(axis=1).sum())

    return min(inside, key=hidden)


def _padded(box: Window, by: float) -> Window:
    return (box[0] - by, box[1] - by, box[2] + by, box[3] + by)


def legend(figure: FigureBase, **place: Any) -> None:
    """A legend of the four kinds; ``place`` goes to matplotlib's ``Figure.legend``."""
    handles = [
        Line2D([], [], color=s.colour, linestyle=s.line, linewidth=s.width + 0.6, path_effects=_rim(s.width + 0.6))
        for s in STYLES.values()
    ]
    names = [style.name for style in STYLES.values()]
    figure.legend(handles, names, **{"ncols": len(names), "frameon": False, "handlelength": 3.2, **place})


def zoom_window(box: Window, *, context: float = 3.0, least: float = 32.0) -> Window:
    """A square around a box, ``context`` times its longer side and at least ``least`` pixels wide."""
    side = max(context * max(box[2] - box[0], box[3] - box[1]), least)
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return (x - side / 2, y - side / 2, x + side / 2, y + side / 2)


def _rim(width: float) -> list[Any]:
    return [Stroke(linewidth=width + 1.2, foreground=RIM, alpha=0.75), Normal()]
