"""The extended level where it is read: P2' under small RoIs alone, window by window.

Nothing but RoI pooling reads P2', and only small RoIs do. C2', the upsampler, the lateral and the last convolution run
on windows under them, each with the margin that its receptive field asks for; at the picture's edge a window ends where
the map ends, so that zero padding acts there as it does on the whole map. What comes out is the dense P2' to float
noise.

Lengths are in cells of P3 (8 px of the 1x picture) unless they say otherwise; P3' has 2 and P2' 4 cells for each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign, roi_align

from efpn.errors import UserError, require_count
from efpn.models.extension import Extension
from efpn.models.fpn import Pyramid
from efpn.models.upsamplers import reach, upsample2x, weights

P2X_PER_P3 = 4  # cells, along each axis
P2X_STRIDE = 2  # pixels of the 1x picture
CROWD = 128  # rectangles; the halves of more are joined by themselves first

Price = Callable[[np.ndarray], np.ndarray]  # rectangles (n, 4) to what each costs (n,)


@dataclass(frozen=True)
class Windows:
    """How P2' is cut.

    Attributes:
        tile: windows begin and end at multiples of this, so that they have few different sizes.
        margin: the most that an upsampler sees around a window in each of its two stages, one after the other; None is
            what its receptive field asks for, which is exact. The stage at P3''s resolution takes 1 at least.
        dense_from: share of the whole map's work from which the map is computed whole.
    """

    tile: int = 2
    margin: int | None = None
    dense_from: float = 0.9

    def __post_init__(self) -> None:
        """Refuse numbers that cut nothing."""
        require_count("model.windows.tile", self.tile, least=1)
        if self.margin is not None:
            require_count("model.windows.margin", self.margin, least=0)
        share = self.dense_from
        if isinstance(share, bool) or not isinstance(share, int | float) or not share > 0:
            raise UserError(
                f"model.windows.dense_from={share}: must be a number greater than 0; windows=null: always whole"
            )


class Rect(NamedTuple):
    """A part of a map, in its cells; ends are exclusive."""

    top: int
    left: int
    bottom: int
    right: int

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
        self.size = (self.p3.shape[-2], self.p3.shape[-1])
        self.post_reach, self.stage2_reach = reach(extension.post), reach(stage2)
        self.margins = self._margins()
        merge = P2X_PER_P3**2 * (weights(stage2) + weights(extension.lateral) + weights(extension.post))
        near, far = self.margins
        around = (self.post_reach + self.stage2_reach) / P2X_PER_P3
        self._work = np.array([*extension.upsampler.work, merge], float), np.array([near + far, near, around])

    def pool(self, boxes: Sequence[Tensor], align: MultiScaleRoIAlign) -> Tensor:
        """RoIAlign on P2', ``(R, C, S, S)`` in the order of ``boxes``.

        Args:
            boxes: of each picture, ``(n, 4)`` xyxy in 1x pixels.
            align: torchvision's pooler of this level.
        """
        wanted = [cells_under(one, self.size, self.settings.tile) for one in boxes]
        windows = [joined(np.unique(one, axis=0), self._price) for one in wanted]
        whole = self._price(np.array([[0, 0, *self.size]]))[0] * len(boxes)
        if sum(self._price(one).sum() for one in windows) >= self.settings.dense_from * whole:
            return self._pooled(self.extension(self.p3, self.p2, self.stage2(self.c1))[1], list(boxes), align)
        parts, order = [], []
        first = 0
        for index, (own, cells, cut) in enumerate(zip(boxes, wanted, windows, strict=True)):
            home = window_of(cells, cut)
            for number, row in enumerate(cut):
                rows = np.flatnonzero(home == number)
                parts.append(self._pooled_in(index, Rect(*map(int, row)), own[torch.as_tensor(rows)], align))
                order.append(torch.as_tensor(rows + first))
            first += len(own)
        if not parts:
            return self.p3.new_zeros(0, self.extension.levels[1].channels, *align.output_size)
        return torch.cat(parts)[torch.argsort(torch.cat(order)).to(self.p3.device)]

    def _pooled_in(self, index: int, part: Rect, boxes: Tensor, align: MultiScaleRoIAlign) -> Tensor:
        """RoIs that lie in one window of picture ``index``."""
        level = self._computed(slice(index, index + 1), part)
        corner = boxes.new_tensor([part.left, part.top] * 2) * (P2X_PER_P3 * P2X_STRIDE)
        return self._pooled(level, [boxes - corner], align)

    @staticmethod
    def _pooled(level: Tensor, boxes: list[Tensor], align: MultiScaleRoIAlign) -> Tensor:
        return roi_align(level, boxes, align.output_size, 1 / P2X_STRIDE, align.sampling_ratio)

    def _price(self, rects: np.ndarray) -> np.ndarray:
        """Multiply-adds of windows ``(n, 4)``: each part of the work is done on the window and a margin of its own."""
        work, margins = self._work
        return np.asarray(grown_areas(rects, margins, self.size) @ work)

    def _margins(self) -> tuple[int, int]:
        """Margins of the upsampler's two stages: that at P3''s resolution around a window, that at P3's around both."""
        coarse, fine = self.extension.upsampler.reach
        margins = math.ceil((self.post_reach / 2 + fine) / 2), coarse
        most = self.settings.margin
        return margins if most is None else (min(margins[0], max(most, 1)), min(margins[1], most))

    def _computed(self, one: slice, part: Rect) -> Tensor:
        """P2' of one picture in ``part``, ``(1, C, 4 h, 4 w)`` for a part of ``(h, w)`` cells."""
        near, far = self.margins
        middle = part.grown(near, *self.size)
        outer = middle.grown(far, *self.size)
        upsampler = self.extension.upsampler
        content = middle.times(2).within(upsampler.content_of(outer.of(self.p3[one])), outer.times(2))
        p3x = upsampler.texture_of(middle.of(self.p3[one]), middle.times(2).of(self.p2[one]), content)
        fine = (P2X_PER_P3 * self.size[0], P2X_PER_P3 * self.size[1])
        wanted = part.times(P2X_PER_P3)
        around = wanted.grown(self.post_reach, *fine)
        beneath = around.grown(self.stage2_reach, *fine)
        c2x = around.within(self.stage2(beneath.of(self.c1[one])), beneath)
        upsampled = around.within(upsample2x(p3x), middle.times(P2X_PER_P3))
        return wanted.within(self.extension.merge(upsampled, c2x), around)


def cells_under(boxes: Tensor, size: tuple[int, int], tile: int) -> np.ndarray:
    """What RoIAlign reads for each of ``boxes``, in cells of P3 rounded outwards to tiles: `Rect` rows ``(n, 4)``.

    Args:
        boxes: ``(n, 4)`` xyxy in 1x pixels.
        size: of P3.
        tile: side of a tile.
    """
    xyxy = boxes.detach().double().cpu().numpy() / P2X_STRIDE
    # a RoI is at least one cell of P2' wide, and bilinear sampling reads the cell after the last
    first, last = xyxy[:, :2], np.maximum(xyxy[:, 2:], xyxy[:, :2] + 1) + 1
    limit = -(-np.array(size[::-1]) // tile) - 1
    tiles = [np.clip(ends // (P2X_PER_P3 * tile), 0, limit).astype(np.int64) for ends in (first, last)]
    ends = np.minimum((tiles[1] + 1) * tile, size[::-1])
    return np.hstack([(tiles[0] * tile)[:, ::-1], ends[:, ::-1]])


def window_of(cells: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Number ``(n,)`` of the first window that holds each of ``cells (n, 4)``; every one is held by one."""
    inside = (windows[None, :, :2] <= cells[:, None, :2]) & (windows[None, :, 2:] >= cells[:, None, 2:])
    return inside.all(axis=2).argmax(axis=1) if len(windows) else np.zeros(len(cells), np.int64)


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


def united(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The smallest rectangles around ``one (..., 4)`` and ``others (..., 4)``, broadcast."""
    return np.concatenate([np.minimum(one, others)[..., :2], np.maximum(one, others)[..., 2:]], axis=-1)


def grown_areas(rects: np.ndarray, margins: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cells ``(n, m)`` of rectangles ``(n, 4)`` with each of ``margins (m,)`` around, inside of a map of ``size``."""
    first = np.maximum(rects[:, None, :2] - margins[:, None], 0)
    return (np.minimum(rects[:, None, 2:] + margins[:, None], size) - first).prod(axis=2)
