"""The faces of the signs: flat, frontal, large. The scene turns, shrinks and weathers them.

A face is ``(SIDE, SIDE, 4)`` uint8 RGBA with colour multiplied by alpha (as drawing with smooth edges on an empty sheet
leaves it). Drawing coordinates are shares of the side, x to the right and y down. Digits and pictograms are strokes of
our own, so that no font is needed and every machine draws the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

SIDE = 256
_DRAWN = 2 * SIDE  # drawn at twice the size and averaged, for smooth edges
_SHIFT = 4  # OpenCV's fractional bits

Face = NDArray[np.uint8]
Points = NDArray[np.float64]
Color = tuple[int, int, int]

RED: Color = (196, 24, 32)
WHITE: Color = (240, 240, 236)
BLACK: Color = (24, 24, 26)
BLUE: Color = (20, 78, 176)
YELLOW: Color = (246, 196, 24)
GREEN: Color = (20, 150, 70)


@dataclass(frozen=True, eq=False)
class Sign:
    """One kind of sign."""

    face: Face  # ``(SIDE, SIDE, 4)`` uint8 RGBA, premultiplied
    outline: Points  # ``(n, 2)`` corners of its shape, shares of the side; its box is their bounding box after any warp


class _Pen:
    """Draws on a transparent face."""

    def __init__(self) -> None:
        self.face: Face = np.zeros((_DRAWN, _DRAWN, 4), np.uint8)

    def disc(self, radius: float, color: Color, center: tuple[float, float] = (0.5, 0.5)) -> _Pen:
        """A filled disc."""
        scale = _DRAWN * 2**_SHIFT
        x, y = (round(value * scale) for value in center)
        cv2.circle(self.face, (x, y), round(radius * scale), (*color, 255), -1, cv2.LINE_AA, _SHIFT)
        return self

    def shape(self, points: Points, color: Color) -> _Pen:
        """A filled polygon."""
        cv2.fillPoly(self.face, [_fixed(points)], (*color, 255), cv2.LINE_AA, _SHIFT)
        return self

    def stroke(self, points: ArrayLike, width: float, color: Color, closed: bool = False) -> _Pen:
        """A line with round joints, `width` thick."""
        thick = max(1, round(width * _DRAWN))
        cv2.polylines(self.face, [_fixed(points)], closed, (*color, 255), thick, cv2.LINE_AA, _SHIFT)
        return self

    def done(self) -> Face:
        """The face at its final size."""
        return np.asarray(cv2.resize(self.face, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)


@cache
def sign_kinds() -> dict[str, Sign]:
    """The classes by name: they differ in digits, directions, bars and pictograms, not in outline or colour alone."""
    kinds: dict[str, Sign] = {}
    for limit in ("20", "30", "50", "60", "80"):
        pen = _Pen().disc(0.49, RED).disc(0.37, WHITE)
        for digit, left in zip(limit, (0.235, 0.535), strict=True):
            for stroke in _DIGITS[digit]:
                pen.stroke(stroke * [0.23, 0.36] + [left, 0.32], 0.075, BLACK)
        kinds[f"limit{limit}"] = _round(pen)
    for name, degrees in (("left", 180), ("right", 0), ("straight", -90)):
        pen = _Pen().disc(0.49, WHITE).disc(0.46, BLUE)
        kinds[f"go_{name}"] = _round(pen.shape(_turned(_ARROW, degrees), WHITE))
    for name, bars in (("parking", (45,)), ("stopping", (45, -45))):
        pen = _Pen().disc(0.49, RED).disc(0.4, BLUE)
        for degrees in bars:
            pen.stroke(_turned([(0.1, 0.5), (0.9, 0.5)], degrees), 0.085, RED)
        kinds[f"no_{name}"] = _round(pen)
    for name, draw in _PICTOGRAMS.items():
        kinds[f"warn_{name}"] = _warning(draw)
    return kinds


@cache
def distractors() -> tuple[Sign, ...]:
    """What looks like a sign from afar and is none: blank plates, discs and triangles in the same colours."""
    rings = [_Pen().disc(0.49, RED).disc(0.36, WHITE), _Pen().disc(0.49, WHITE).disc(0.46, BLUE)]
    discs = [_Pen().disc(0.48, color) for color in (RED, YELLOW, GREEN, (150, 150, 150))]
    barred = _Pen().disc(0.49, RED).shape(_box(0.2, 0.42, 0.8, 0.58), WHITE)
    edge = _box(0.05, 0.2, 0.95, 0.8)
    plate = _Pen().shape(edge, BLUE)
    for y, right in ((0.36, 0.8), (0.5, 0.6), (0.64, 0.72)):
        plate.stroke([(0.16, y), (right, y)], 0.06, WHITE)
    return (*map(_round, (*rings, *discs, barred)), _warning(lambda pen: pen), Sign(plate.done(), edge))


def _round(pen: _Pen) -> Sign:
    return Sign(pen.done(), _arc((0.5, 0.5), 0.49, 0.49, 0, 360, 48))


def _warning(draw: Callable[[_Pen], object]) -> Sign:
    corners = np.array([[0.5, 0.07], [0.96, 0.88], [0.04, 0.88]])
    middle = corners.mean(axis=0)
    pen = _Pen().shape(corners, RED).stroke(corners, 0.05, RED, closed=True)
    pen.shape(middle + 0.68 * (corners - middle), WHITE)
    draw(pen)
    outline = np.concatenate([corner + _arc((0, 0), 0.025, 0.025, 0, 360, 12) for corner in corners])
    return Sign(pen.done(), outline)


def _fixed(points: ArrayLike) -> NDArray[np.int32]:
    return np.asarray(np.round(np.asarray(points) * _DRAWN * 2**_SHIFT), np.int32)


def _box(left: float, top: float, right: float, bottom: float) -> Points:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def _arc(center: Sequence[float], rx: float, ry: float, start: float, end: float, steps: int = 24) -> Points:
    """Points on an ellipse from `start` to `end` degrees, 0 to the right and 90 down."""
    angles = np.radians(np.linspace(start, end, steps))
    return np.asarray(center) + np.stack([rx * np.cos(angles), ry * np.sin(angles)], axis=1)


def _turned(points: ArrayLike, degrees: float) -> Points:
    """`points` turned about the face's centre; positive is clockwise."""
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return (np.asarray(points) - 0.5) @ turn + 0.5


_ARROW = np.array([[0.16, 0.42], [0.5, 0.42], [0.5, 0.24], [0.84, 0.5], [0.5, 0.76], [0.5, 0.58], [0.16, 0.58]])

# Strokes of the digits in a unit box.
_DIGITS: dict[str, list[Points]] = {
    "0": [_arc((0.5, 0.5), 0.46, 0.5, 0, 360, 40)],
    "2": [np.concatenate([_arc((0.5, 0.3), 0.44, 0.3, 190, 380), [[0.04, 1.0], [1.0, 1.0]]])],
    "3": [_arc((0.45, 0.26), 0.42, 0.26, 200, 450), _arc((0.45, 0.74), 0.5, 0.26, 270, 520)],
    "5": [np.concatenate([[[0.9, 0.0], [0.14, 0.0], [0.08, 0.46]], _arc((0.45, 0.68), 0.5, 0.32, 232, 500)])],
    "6": [_arc((0.5, 0.68), 0.46, 0.32, 0, 360, 40), np.array([[0.04, 0.68], [0.12, 0.34], [0.4, 0.08], [0.74, 0.0]])],
    "8": [_arc((0.5, 0.25), 0.38, 0.25, 0, 360, 40), _arc((0.5, 0.74), 0.48, 0.27, 0, 360, 40)],
}
_MARK = np.array([[0.45, 0.36], [0.55, 0.36], [0.525, 0.66], [0.475, 0.66]])
_ROAD = np.array([[0.43, 0.79], [0.43, 0.62], [0.55, 0.55], [0.55, 0.47]])
_HEAD = np.array([[0.46, 0.49], [0.55, 0.35], [0.64, 0.49]])
_PICTOGRAMS: dict[str, Callable[[_Pen], _Pen]] = {
    "danger": lambda pen: pen.shape(_MARK, BLACK).disc(0.042, BLACK, (0.5, 0.74)),
    "crossing": lambda pen: pen.stroke([(0.37, 0.54), (0.63, 0.78)], 0.07, BLACK).stroke(
        [(0.63, 0.54), (0.37, 0.78)], 0.07, BLACK
    ),
    "bend": lambda pen: pen.stroke(_ROAD, 0.065, BLACK).shape(_HEAD, BLACK),
    "lights": lambda pen: (
        pen.shape(_box(0.42, 0.38, 0.58, 0.8), BLACK)
        .disc(0.055, RED, (0.5, 0.45))
        .disc(0.055, YELLOW, (0.5, 0.59))
        .disc(0.055, GREEN, (0.5, 0.73))
    ),
}
