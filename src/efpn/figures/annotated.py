"""One image with its detections and their names, to be looked at as a file of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from efpn.figures.outcomes import RIM, STYLES, Mark, Window, draw_outcomes

READABLE: Final = 1024  # pixels of the longer side, about which names can be read and small boxes told apart
DPI: Final = 100
POINTS: Final = 8.5  # of a name at READABLE pixels
GAP: Final = 3.0  # pixels between a frame and its name, at READABLE pixels


def annotated_image(image: np.ndarray, drawn: Sequence[Mark]) -> np.ndarray:
    """Draw boxes and their texts on ``image (h, w, 3)`` uint8; the result is ``(f * h, f * w, 3)``.

    A small image is enlarged by a whole factor ``f``, so that they can be read. A text stands beside its box, where it
    hides no other box or text if there is such a place.
    """
    height, width = image.shape[:2]
    factor = max(1, round(READABLE / max(height, width)))
    size = (factor * width, factor * height)
    large = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)) if factor > 1 else image
    figure = Figure(figsize=(size[0] / DPI, size[1] / DPI), dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    grown = [mark.scaled(factor) for mark in drawn]
    strength = max(1.0, max(size) / READABLE) ** 0.5  # half-way between the same pixels and the same share
    draw_outcomes(axes, large, grown, thickness=0.8 * strength)
    _name(axes, grown, strength, size)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _name(axes: Axes, drawn: Sequence[Mark], strength: float, size: tuple[int, int]) -> None:
    """Write the texts, those of small boxes first: they have the fewest places."""
    gap, points = GAP * strength, POINTS * strength
    frame = {"facecolor": RIM, "alpha": 0.85, "edgecolor": "none", "pad": points / 6}
    taken = [_padded(mark.box, gap) for mark in drawn]
    for mark in sorted((mark for mark in drawn if mark.text), key=lambda one: one.size):
        colour = STYLES[mark.kind].colour
        text = axes.text(0, 0, mark.text, color=colour, fontsize=points, va="top", parse_math=False, bbox=frame)
        extent = text.get_window_extent()
        x, y = _place(mark.box, extent.width + 2 * gap, extent.height + 2 * gap, gap, taken, size)
        text.set_position((x + gap, y + gap))
        taken.append((x, y, x + extent.width + 2 * gap, y + extent.height + 2 * gap))


def _place(
    box: Window, width: float, height: float, gap: float, taken: Sequence[Window], size: tuple[int, int]
) -> tuple[float, float]:
    """Upper left corner for a text of that size: above, below, right or left of the box, where it hides least."""
    x1, y1, x2, y2 = _padded(box, gap)
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
