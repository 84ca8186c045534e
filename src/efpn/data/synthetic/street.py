"""Streets without signs: sky, buildings, trees, a road, cars, lamps and posters.

Everything is drawn into a ``(side, side, 3)`` uint8 RGB image, twice as large as it will be used. Lengths are shares
of the side. The random generator decides everything, so equal generators draw equal streets.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Color = tuple[float, float, float]

# at the top and at the bottom
SKIES: tuple[tuple[Color, Color], ...] = (
    ((96, 150, 214), (206, 222, 236)), ((150, 158, 168), (206, 206, 204)),
    ((70, 92, 140), (236, 190, 150)), ((190, 202, 214), (232, 234, 236)),
)  # fmt: skip
WALLS: tuple[Color, ...] = (
    (150, 96, 78), (186, 168, 140), (128, 132, 140), (206, 198, 184), (98, 104, 116), (170, 122, 96),
)  # fmt: skip
PAINTS: tuple[Color, ...] = (
    (176, 24, 30), (30, 60, 140), (226, 226, 224), (36, 38, 42), (120, 124, 130), (216, 170, 40),
)  # fmt: skip


def draw_street(side: int, random: np.random.Generator) -> Pixels:
    """A street image of `side` x `side` pixels."""
    image: Pixels = np.empty((side, side, 3), np.uint8)
    horizon = random.uniform(0.5, 0.66)
    top, bottom = np.array(SKIES[random.integers(len(SKIES))], np.float32)
    share = np.linspace(0, 1.4, side, dtype=np.float32).clip(0, 1)[:, None, None]
    clouds = np.maximum(grain(side, side, side // 5, random) + 0.3 * grain(side, side, side // 16, random), 0)
    image[:] = (top * (1 - share) + bottom * share + 34 * clouds[..., None]).clip(0, 255)
    x = -0.05
    while x < 1:
        width = random.uniform(0.12, 0.34)
        if random.random() < 0.8:
            _building(image, (x, horizon - random.uniform(0.12, 0.48)), (x + width, horizon + 0.02), random)
        x += width + random.choice([0.0, 0.0, random.uniform(0, 0.12)])
    for _ in range(random.integers(1, 5)):
        _tree(image, horizon, random)
    _road(image, horizon, random)
    for _ in range(random.integers(0, 4)):
        _car(image, horizon, random)
    for _ in range(random.integers(0, 3)):
        _lamp(image, horizon, random)
    return image


def grain(height: int, width: int, cell: int, random: np.random.Generator) -> NDArray[np.float32]:
    """Smooth noise in -1 to 1, ``(height, width)``, whose patches are about `cell` pixels wide."""
    shape = (max(2, height // cell), max(2, width // cell))
    coarse = random.uniform(-1, 1, shape).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


def _building(
    image: Pixels, corner: tuple[float, float], opposite: tuple[float, float], random: np.random.Generator
) -> None:
    wall = np.array(WALLS[random.integers(len(WALLS))]) * random.uniform(0.65, 1.1)
    _fill(image, corner, opposite, _tint(wall))
    rows, columns = random.integers(3, 8), random.integers(2, 6)
    glass = np.array([70, 84, 100]) * random.uniform(0.5, 1.9)
    pane = (opposite[0] - corner[0]) / columns, (opposite[1] - corner[1] - 0.03) / rows
    inset = random.uniform(0.18, 0.32)
    for row, column in np.ndindex(int(rows), int(columns)):
        left, top = corner[0] + (column + inset) * pane[0], corner[1] + (row + inset) * pane[1]
        right, bottom = left + (1 - 2 * inset) * pane[0], top + (1 - 2 * inset) * pane[1]
        _fill(image, (left, top), (right, bottom), _tint(glass * random.uniform(0.7, 1.3)))
    if random.random() < 0.5:  # a poster
        left, top = random.uniform(corner[0], opposite[0]), opposite[1] - random.uniform(0.05, 0.14)
        width, height = random.uniform(0.06, 0.16), random.uniform(0.03, 0.07)
        ground, ink = random.permutation(len(PAINTS))[:2]
        _fill(image, (left, top), (left + width, top + height), PAINTS[ground])
        for column in np.arange(0.15, 0.85, random.uniform(0.12, 0.22)):  # strokes that pass for letters
            x = left + column * width
            foot = x + random.uniform(-0.05, 0.05) * width
            ends = _pixel(image, x, top + 0.25 * height), _pixel(image, foot, top + 0.75 * height)
            cv2.line(image, *ends, PAINTS[ink], max(1, len(image) // 220), cv2.LINE_AA)


def _tree(image: Pixels, horizon: float, random: np.random.Generator) -> None:
    side = len(image)
    x, radius = random.uniform(0, 1), random.uniform(0.05, 0.16)
    y = horizon - random.uniform(0.6, 1.4) * radius
    trunk = _pixel(image, x - 0.08 * radius, y), _pixel(image, x + 0.08 * radius, horizon + 0.03)
    cv2.rectangle(image, *trunk, _tint(np.array([74, 58, 46]) * random.uniform(0.7, 1.2)), -1)
    mask = np.zeros((side, side), np.uint8)
    for _ in range(14):
        offset = random.normal(0, 0.45, 2) * radius
        cv2.circle(mask, _pixel(image, x + offset[0], y + offset[1]), round(0.5 * radius * side), 255, -1)
    foliage(image, mask > 0, random)


def foliage(image: Pixels, mask: NDArray[np.bool_], random: np.random.Generator) -> None:
    """Fill `mask` ``(side, side)`` with leaves, lighter at the top."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = mask[window].shape
    leaves = 0.6 * grain(height, width, 5, random) + 0.5 * grain(height, width, 14, random)
    light = np.linspace(1.15, 0.7, height)[:, None] * (1 + 0.45 * leaves)
    green = np.array([66, 98, 44]) * random.uniform(0.7, 1.25, 3)
    image[window][mask[window]] = (green * light[mask[window]][:, None]).clip(0, 255)


def _road(image: Pixels, horizon: float, random: np.random.Generator) -> None:
    side = len(image)
    top = round(horizon * side)
    _fill(image, (0, horizon), (1, 1), _tint(np.array([150, 146, 138]) * random.uniform(0.7, 1.05)))
    vanish = random.uniform(0.3, 0.7)
    asphalt = _tint(np.array([84, 86, 90]) * random.uniform(0.7, 1.2))
    edges = [(vanish - 0.03, horizon), (vanish + 0.03, horizon), (1.15, 1.0), (-0.15, 1.0)]
    cv2.fillPoly(image, [np.array([_pixel(image, *edge) for edge in edges], np.int32)], asphalt, cv2.LINE_AA)
    for lane in (0.28, 0.5, 0.72):
        # equal lengths on the ground shrink with distance, which the squares stand for
        stops = horizon + (1 - horizon) * np.linspace(0.12, 1, 13) ** 2
        for start, end in zip(stops[:-1:2], stops[1::2] if lane == 0.5 else stops[2::2], strict=False):
            corners = []
            for y, half in ((start, -0.5), (start, 0.5), (end, 0.5), (end, -0.5)):
                near = (y - horizon) / (1 - horizon)
                corners.append(_pixel(image, vanish + (lane - 0.5) * (0.06 + 1.2 * near) + half * 0.02 * near, y))
            cv2.fillPoly(image, [np.array(corners, np.int32)], (214, 214, 206), cv2.LINE_AA)
    texture = 9 * grain(side - top, side, 3, random) + 7 * grain(side - top, side, 40, random)
    image[top:] = (image[top:] + texture[..., None]).clip(0, 255)


def _car(image: Pixels, horizon: float, random: np.random.Generator) -> None:
    near = random.uniform(0.15, 0.7)
    x, ground, width = random.uniform(0, 1), horizon + (1 - horizon) * near, 0.08 + 0.22 * near
    height = 0.62 * width
    paint = _tint(np.array(PAINTS[random.integers(len(PAINTS))]) * random.uniform(0.6, 1.0))
    cabin = [(-0.36, -0.5), (-0.26, -1), (0.26, -1), (0.36, -0.5)]
    points = np.array([_pixel(image, x + dx * width, ground + dy * height) for dx, dy in cabin], np.int32)
    cv2.fillPoly(image, [points], (44, 54, 64), cv2.LINE_AA)
    _fill(image, (x - 0.5 * width, ground - 0.55 * height), (x + 0.5 * width, ground - 0.1 * height), paint)
    for end in (-1, 1):
        tyre = x + end * 0.36 * width
        _fill(image, (tyre - 0.07 * width, ground - 0.16 * height), (tyre + 0.07 * width, ground), (24, 24, 26))
        center = _pixel(image, x + end * 0.42 * width, ground - 0.42 * height)
        lamp = (206, 36, 30) if random.random() < 0.6 else (246, 240, 206)
        cv2.circle(image, center, max(2, round(0.05 * width * len(image))), lamp, -1, cv2.LINE_AA)


def _lamp(image: Pixels, horizon: float, random: np.random.Generator) -> None:
    x, top = random.uniform(0.03, 0.97), horizon - random.uniform(0.25, 0.45)
    thick = max(2, len(image) // 130)
    reach = random.choice([-1, 1]) * 0.06
    for start, end in (((x, horizon + 0.05), (x, top)), ((x, top), (x + reach, top - 0.01))):
        cv2.line(image, _pixel(image, *start), _pixel(image, *end), (92, 94, 98), thick, cv2.LINE_AA)
    cv2.circle(image, _pixel(image, x + reach, top), 2 * thick, (250, 240, 206), -1, cv2.LINE_AA)


def _fill(image: Pixels, corner: tuple[float, float], opposite: tuple[float, float], color: Color) -> None:
    cv2.rectangle(image, _pixel(image, *corner), _pixel(image, *opposite), color, -1)


def _pixel(image: Pixels, x: float, y: float) -> tuple[int, int]:
    return round(x * len(image)), round(y * len(image))


def _tint(color: NDArray[np.floating]) -> Color:
    red, green, blue = color.clip(0, 255).tolist()
    return red, green, blue
