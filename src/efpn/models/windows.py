"""The extended level where it is read: P2' under small RoIs alone, window by window.

Nothing but RoI pooling reads P2', and only small RoIs do. C2', the upsampler, the lateral and the last convolution run
on windows under them, each with the margin that its receptive field asks for; at the picture's edge a window ends where
the map ends, so that zero padding acts there as it does on the whole map. What comes out is the dense P2' to float
noise.

Lengths are in cells of P3 (8 px of the 1x picture) unless they say otherwise; P3' has 2 and P2' 4 cells for each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from efpn.models.extension import Extension
from efpn.models.fpn import Pyramid
from efpn.models.upsamplers import upsample2x

P2X_PER_P3 = 4  # cells, along each axis
P2X_STRIDE = 2  # pixels of the 1x picture


@dataclass(frozen=True)
class Windows:
    """How P2' is cut.

    Attributes:
        tile: side of the tiles that windows are made of.
        margin: the most that an upsampler sees around a window in each of its two stages; None is what its receptive
            field asks for, which is exact.
        dense_from: share of the whole map's work from which the map is computed whole.
    """

    tile: int = 2
    margin: int | None = None
    dense_from: float = 0.9


class Rect(NamedTuple):
    """A part of a map, in its cells; ends are exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        """Cells inside."""
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

    def of(self, maps: Tensor) -> Tensor:
        """This part of ``(..., h, w)``."""
        return maps[..., self.top : self.bottom, self.left : self.right]

    def within(self, part: Tensor, around: Rect) -> Tensor:
        """This part of a map, given the ``part`` of it that is ``around`` it."""
        return Rect(
            self.top - around.top, self.left - around.left, self.bottom - around.top, self.right - around.left
        ).of(part)


class WindowedLevel:
    """P2' of a batch, not yet computed.

    Args:
        extension: makes it.
        stage2: the trunk's stage 2, which makes C2' of the stem's map.
        pyramid: of the batch, with the stem's map.
        settings: how it is cut.
    """

    def __init__(self, extension: Extension, stage2: nn.Module, pyramid: Pyramid, settings: Windows) -> None:
        assert pyramid.c1 is not None, "the trunk was run without stem=True"
        self.extension, self.stage2, self.settings = extension, stage2, settings
        self.c1 = pyramid.c1
        maps = extension.sources(pyramid)
        self.p3, self.p2 = maps["p3"], maps["p2"]
        self.post_reach, self.stage2_reach = reach(extension.post), reach(stage2)

    def under(self, boxes: Sequence[Tensor]) -> Tensor:
        """P2' ``(N, C, H/2, W/2)`` as RoIAlign needs it for ``boxes``; elsewhere it is zero.

        Args:
            boxes: of each picture, ``(n, 4)`` xyxy in 1x pixels.
        """
        size = (self.p3.shape[-2], self.p3.shape[-1])
        parts = [self._parts(tiles_under(one, size, self.settings.tile), size) for one in boxes]
        near = self._margins()[0]
        work = sum(part.grown(near, *size).area for of_one in parts for part in of_one)
        if work >= self.settings.dense_from * len(boxes) * size[0] * size[1]:
            return self.extension(self.p3, self.p2, self.stage2(self.c1))[1]
        # float32 in one piece is what RoIAlign works on, and pages of zeros that nobody touches cost no memory
        count, (height, width) = len(self.p3), size
        depth = self.extension.levels[1].channels
        level = self.p3.new_zeros(count, depth, P2X_PER_P3 * height, P2X_PER_P3 * width, dtype=torch.float32)
        for index, of_one in enumerate(parts):
            for part in of_one:
                part.times(P2X_PER_P3).of(level[index]).copy_(self._computed(slice(index, index + 1), part, size)[0])
        return level

    def _parts(self, tiles: Tensor, size: tuple[int, int]) -> list[Rect]:
        """Windows that cover the tiles: those are joined that cost less together than apart."""
        side = self.settings.tile
        rects = [rect.times(side).grown(0, *size) for rect in runs(tiles)]
        return joined(rects, self._margins()[0], size)  # most of the work is the upsampler's finer stage

    def _margins(self) -> tuple[int, int]:
        """Margins of the upsampler's two stages: that at P3''s resolution around a window, that at P3's around both."""
        coarse, fine = self.extension.upsampler.reach
        margins = math.ceil((self.post_reach / 2 + fine) / 2), coarse
        most = self.settings.margin
        return margins if most is None else (min(margins[0], max(most, 1)), min(margins[1], most))

    def _computed(self, one: slice, part: Rect, size: tuple[int, int]) -> Tensor:
        """P2' of one picture in ``part``, ``(1, C, 4 h, 4 w)`` for a part of ``(h, w)`` cells."""
        near, far = self._margins()
        middle = part.grown(near, *size)
        outer = middle.grown(far, *size)
        upsampler = self.extension.upsampler
        content = middle.times(2).within(upsampler.content_of(outer.of(self.p3[one])), outer.times(2))
        p3x = upsampler.texture_of(middle.of(self.p3[one]), middle.times(2).of(self.p2[one]), content)
        fine = (P2X_PER_P3 * size[0], P2X_PER_P3 * size[1])
        wanted = part.times(P2X_PER_P3)
        around = wanted.grown(self.post_reach, *fine)
        beneath = around.grown(self.stage2_reach, *fine)
        c2x = around.within(self.stage2(beneath.of(self.c1[one])), beneath)
        upsampled = around.within(upsample2x(p3x), middle.times(P2X_PER_P3))
        return wanted.within(self.extension.merge(upsampled, c2x), around)


def reach(module: nn.Module) -> int:
    """How far, in cells, a chain of convolutions of stride 1 sees to each side; 1x1 shortcuts beside it see nothing."""
    return sum((m.kernel_size[0] - 1) // 2 * m.dilation[0] for m in module.modules() if isinstance(m, nn.Conv2d))


def tiles_under(boxes: Tensor, size: tuple[int, int], tile: int) -> Tensor:
    """Which tiles RoIAlign reads for ``boxes``, bool ``(rows, columns)``.

    Args:
        boxes: ``(n, 4)`` xyxy in 1x pixels.
        size: of P3.
        tile: side of a tile.
    """
    rows, columns = (math.ceil(side / tile) for side in size)
    # a RoI is at least one cell of P2' wide, and bilinear sampling reads the cell after the last
    first = boxes[:, :2] / P2X_STRIDE
    last = torch.maximum(boxes[:, 2:] / P2X_STRIDE, first + 1) + 1
    corners = torch.cat([first, last], dim=1).floor().div(P2X_PER_P3 * tile, rounding_mode="floor").long()
    limits = corners.new_tensor([columns - 1, rows - 1, columns - 1, rows - 1])
    left, top, right, bottom = corners.clamp(min=0).minimum(limits).unbind(1)
    # counts of boxes per tile, from their corners by two cumulative sums
    steps = torch.zeros(rows + 1, columns + 1, dtype=torch.long, device=boxes.device)
    for y, x, step in ((top, left, 1), (top, right + 1, -1), (bottom + 1, left, -1), (bottom + 1, right + 1, 1)):
        steps.index_put_((y, x), steps.new_full((len(boxes),), step), accumulate=True)
    return steps.cumsum(0).cumsum(1)[:rows, :columns] > 0


def runs(tiles: Tensor) -> list[Rect]:
    """The true tiles as rectangles of tiles: runs in each row, those of the same columns in rows below joined."""
    open_runs: dict[tuple[int, int], int] = {}
    found = []
    table = tiles.tolist()
    for y, row in enumerate([*table, [False] * tiles.shape[1]]):
        now = _runs_of(row)
        for (left, right), top in list(open_runs.items()):
            if (left, right) not in now:
                found.append(Rect(top, left, y, right))
                del open_runs[left, right]
        for columns in now:
            open_runs.setdefault(columns, y)
    return found


def _runs_of(row: Sequence[bool]) -> set[tuple[int, int]]:
    edges = [x for x, (a, b) in enumerate(zip([False, *row], [*row, False], strict=True)) if a != b]
    return set(zip(edges[::2], edges[1::2], strict=True))


def joined(rects: Sequence[Rect], margin: int, size: tuple[int, int]) -> list[Rect]:
    """Join pairs of rectangles as long as one is less work than the two; see `grown_area`."""
    waiting = np.array(rects, dtype=np.int64).reshape(-1, 4)
    done = waiting[:0]
    while len(waiting):
        one, waiting = waiting[-1:], waiting[:-1]
        both = np.hstack([np.minimum(done[:, :2], one[:, :2]), np.maximum(done[:, 2:], one[:, 2:])])
        gains = grown_area(done, margin, size) + grown_area(one, margin, size) - grown_area(both, margin, size)
        if len(done) and gains.max() > 0:
            best = int(gains.argmax())
            waiting = np.vstack([waiting, both[best]])  # it may be worth to join it with others now
            done = np.delete(done, best, axis=0)
        else:
            done = np.vstack([done, one])
    return [Rect(*map(int, row)) for row in done]


def grown_area(rects: np.ndarray, margin: int, size: tuple[int, int]) -> np.ndarray:
    """Cells ``(n,)`` of rectangles ``(n, 4)`` with ``margin`` around, inside of a map of ``size``."""
    first = np.maximum(rects[:, :2] - margin, 0)
    return (np.minimum(rects[:, 2:] + margin, size) - first).prod(axis=1)
