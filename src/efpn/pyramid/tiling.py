"""Which rectangles of P2' are computed: those that small RoIs read, joined and made alike where that saves time.

Lengths are in cells of P3 (8 px of the 1x image) unless they say otherwise. A rectangle is a `Rect`, many are rows
``(n, 4)`` of its numbers.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from torch import Tensor

P2_EXT_PER_P3 = 4  # cells of P2' in one of P3, along each axis
CROWD = 128  # rectangles; the halves of more are joined by themselves first
# cells of P3 whose work takes as long as a call of the layers beside its tiles: weights are read, parts copied, and
# small tiles are slower. 53 to 60 on three sets, ResNet-18 in float32 and ResNet-50 in bf16, one CPU core
# (docs/experiments.md, entry 29); not measured on GPUs
CALL = 55

Price = Callable[[np.ndarray], np.ndarray]  # rectangles (n, 4) to what each costs (n,)
Shape = tuple[int, int]  # height and width


class Rect(NamedTuple):
    """A part of a map, in its cells; ends are exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        """Its cells."""
        return (self.bottom - self.top) * (self.right - self.left)

    def times(self, factor: int) -> Rect:
        """The same part of a map of ``factor`` times the resolution."""
        return Rect(*(side * factor for side in self))

    def grown(self, margin: int, height: int, width: int) -> Rect:
        """With ``margin`` cells around, as far as the map of ``(height, width)`` cells goes."""
        return Rect(
            max(self.top - margin, 0),
            max(self.left - margin, 0),
            min(self.bottom + margin, height),
            min(self.right + margin, width),
        )

    def halved(self) -> Rect:
        """The same part of a map of half the resolution, in whole cells that hold all of it."""
        return Rect(self.top // 2, self.left // 2, -(-self.bottom // 2), -(-self.right // 2))

    def halved_alike(self, height: int, width: int) -> Rect:
        """As `halved`, of one size wherever this begins; the map of half the resolution has ``(height, width)``."""
        tall, wide = (self.bottom - self.top) // 2 + 1, (self.right - self.left) // 2 + 1
        top, left = max(min(self.top // 2, height - tall), 0), max(min(self.left // 2, width - wide), 0)
        return Rect(top, left, min(top + tall, height), min(left + wide, width))

    def of(self, maps: Tensor) -> Tensor:
        """This part of ``(..., h, w)``."""
        return maps[..., self.top : self.bottom, self.left : self.right]

    def seen_from(self, other: Rect) -> Rect:
        """Where this lies if ``other`` begins at 0, 0."""
        return Rect(self.top - other.top, self.left - other.left, self.bottom - other.top, self.right - other.left)

    def within(self, part: Tensor, around: Rect) -> Tensor:
        """This part of a map, given the ``part`` of it that is ``around`` it."""
        return self.seen_from(around).of(part)


def cells_under(boxes: Tensor, size: tuple[int, int], grid: int) -> np.ndarray:
    """What RoIAlign reads for each of ``boxes``, in cells of P3 rounded outwards to a grid: `Rect` rows ``(n, 4)``.

    Args:
        boxes: ``(n, 4)`` xyxy in cells of P2'.
        size: of P3.
        grid: its step.
    """
    xyxy = boxes.detach().double().cpu().numpy()
    # a RoI is at least one cell of P2' wide, and bilinear sampling reads the cell after the last
    first, last = xyxy[:, :2], np.maximum(xyxy[:, 2:], xyxy[:, :2] + 1) + 1
    limit = -(-np.array(size[::-1]) // grid) - 1
    steps = [np.clip(ends // (P2_EXT_PER_P3 * grid), 0, limit).astype(np.int64) for ends in (first, last)]
    ends = np.minimum((steps[1] + 1) * grid, size[::-1])
    return np.hstack([(steps[0] * grid)[:, ::-1], ends[:, ::-1]])


def tile_of(cells: np.ndarray, tiles: np.ndarray) -> np.ndarray:
    """Number ``(n,)`` of the first tile that holds each of ``cells (n, 4)``; every one is held by one."""
    inside = (tiles[None, :, :2] <= cells[:, None, :2]) & (tiles[None, :, 2:] >= cells[:, None, 2:])
    return inside.all(axis=2).argmax(axis=1) if len(tiles) else np.zeros(len(cells), np.int64)


def joined(rects: np.ndarray, price: Price) -> np.ndarray:
    """Join pairs of rectangles ``(n, 4)``, the pair that saves most first, as long as one is no dearer than the two."""
    if len(rects) > CROWD:  # neighbours are near each other in the order of np.unique
        half = len(rects) // 2
        rects = np.vstack([joined(rects[:half], price), joined(rects[half:], price)])
    rects, prices, count = rects.copy(), price(rects), len(rects)
    pairs = price(united(rects[:, None], rects[None]).reshape(-1, 4)).reshape(count, count)
    gains = np.where(np.tri(count, k=-1, dtype=bool), prices[:, None] + prices - pairs, -np.inf)
    alive = np.ones(count, bool)
    while count and gains.max() >= 0:
        kept, gone = np.unravel_index(gains.argmax(), gains.shape)
        rects[kept] = united(rects[kept], rects[gone])
        prices[kept] += prices[gone] - gains[kept, gone]
        alive[gone] = False
        gains[gone], gains[:, gone] = -np.inf, -np.inf
        both = prices[kept] + prices - price(united(rects[kept], rects))
        both[~alive] = -np.inf
        gains[kept, :kept], gains[kept + 1 :, kept] = both[:kept], both[kept + 1 :]
    return rects[alive]


def alike(tiles: Sequence[np.ndarray], price: Price, size: Shape) -> list[np.ndarray]:
    """The tiles ``(n, 4)`` of each image, some of them larger, so that they have fewer shapes, each of which is a call.

    Two shapes become the smallest that holds both, the pair that saves most first, as long as the call that this saves
    is dearer than what it adds to the tiles.

    Args:
        tiles: of each image.
        price: of rectangles; a call costs as much as `CALL` cells of the whole map.
        size: height and width of P3.
    """

    def price_of_shape(shape: Shape) -> float:
        top, left = ((most - side) // 2 for most, side in zip(size, shape, strict=True))
        return float(price(np.array([[top, left, top + shape[0], left + shape[1]]]))[0])

    counts, call = shapes_of(tiles), price_of_call(price, size)
    costs = {shape: price_of_shape(shape) for shape in counts}
    members = {shape: [shape] for shape in counts}  # by what it has become, each shape that there was
    while len(counts) > 1:
        gains = {}
        for pair in itertools.combinations(counts, 2):
            both = _around(pair)
            if both not in costs:
                costs[both] = price_of_shape(both)
            gains[pair] = call - sum(counts[shape] * (costs[both] - costs[shape]) for shape in pair)
        pair, gain = max(gains.items(), key=itemgetter(1))
        if gain < 0:
            break
        both = _around(pair)
        for shape in pair:
            many, before = counts.pop(shape), members.pop(shape)
            counts[both] += many
            members[both] = [*members.get(both, []), *before]
    become = {shape: larger for larger, shapes in members.items() for shape in shapes}
    return [np.array([_enlarged(row, become, size) for row in one.tolist()], int).reshape(-1, 4) for one in tiles]


def cost(tiles: Sequence[np.ndarray], price: Price, size: Shape) -> float:
    """What the tiles ``(n, 4)`` of all images take to compute, with the calls that their shapes ask for."""
    return float(sum(price(one).sum() for one in tiles)) + len(shapes_of(tiles)) * price_of_call(price, size)


def price_of_call(price: Price, size: Shape) -> float:
    """What a call of the layers costs beside its tiles, on a map of ``size``."""
    return CALL * float(price(np.array([[0, 0, *size]]))[0]) / (size[0] * size[1])


def shapes_of(tiles: Sequence[np.ndarray]) -> Counter[Shape]:
    """How many tiles ``(n, 4)`` of all images have each height and width."""
    return Counter((height, width) for one in tiles for height, width in (one[:, 2:] - one[:, :2]).tolist())


def _around(shapes: Sequence[Shape]) -> Shape:
    """The smallest shape that holds all."""
    heights, widths = zip(*shapes, strict=True)
    return max(heights), max(widths)


def _enlarged(tile: list[int], become: Mapping[Shape, Shape], size: Shape) -> list[int]:
    """A tile of the shape that its own has become, inside a map of ``size``."""
    top, left, bottom, right = tile
    height, width = become[bottom - top, right - left]
    top, left = min(top, size[0] - height), min(left, size[1] - width)
    return [top, left, top + height, left + width]


def united(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The smallest rectangles around ``one (..., 4)`` and ``others (..., 4)``, broadcast."""
    return np.concatenate([np.minimum(one, others)[..., :2], np.maximum(one, others)[..., 2:]], axis=-1)


def grown_areas(rects: np.ndarray, margins: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cells ``(n, m)`` of rectangles ``(n, 4)`` with each of ``margins (m,)`` around, inside of a map of ``size``."""
    first = np.maximum(rects[:, None, :2] - margins[:, None], 0)
    return (np.minimum(rects[:, None, 2:] + margins[:, None], size) - first).prod(axis=2)
