"""The extended level where it is read: P2' under small RoIs alone, tile by tile.

Nothing but RoI pooling reads P2', and only small RoIs do. C2', C3', the upsampler, the laterals and the last
convolution run on tiles under them, each with the margin that its receptive field asks for; at the image's edge a
tile ends where the map ends, so that zero padding acts there as it does on the whole map. What comes out is the dense
P2' to float noise. That is tried out when a model is built: a layer that sees further than it says, or the whole map
(attention, group-norm), makes P2' be computed whole.

Lengths are in cells of P3 (8 px of the 1x image) unless they say otherwise; P3' has 2 and P2' 4 cells for each.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign, roi_align

from efpn.errors import UserError
from efpn.pyramid.backbones import Backbone
from efpn.pyramid.detail import Fine, entry_on
from efpn.pyramid.extension import Extension
from efpn.pyramid.fpn import Pyramid
from efpn.pyramid.receptive import reach, weights
from efpn.pyramid.upsamplers import TwoStage, upsample2x

log = logging.getLogger(__name__)

P2_EXT_PER_P3 = 4  # cells, along each axis
CROWD = 128  # rectangles; the halves of more are joined by themselves first

Price = Callable[[np.ndarray], np.ndarray]  # rectangles (n, 4) to what each costs (n,)


@dataclass(frozen=True)
class Tiles:
    """How P2' is cut."""

    grid: int = 2  # tiles begin and end at multiples of this, so that they have few different sizes
    # the most that an upsampler sees around a tile in each of its two stages, one after the other; None is what its
    # receptive field asks for, which is exact. The stage at P3''s resolution takes 1 at least.
    margin: int | None = None
    dense_from: float = 0.9  # share of the whole map's work from which the map is computed whole

    def __post_init__(self) -> None:
        """Refuse numbers by which tiles would be wrong and nobody be told."""
        for name, value, least in (("grid", self.grid, 1), ("margin", self.margin, 0)):
            if value is not None and value < least:
                raise UserError(f"model.tiles.{name}={value}: must be at least {least}")


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

    def over(self, divisor: int) -> Rect:
        """The same part of a map of a lower resolution; it has to begin and end at whole cells there."""
        assert not any(side % divisor for side in self), f"{self} is no part of a map of 1/{divisor}"
        return Rect(*(side // divisor for side in self))

    def of(self, maps: Tensor) -> Tensor:
        """This part of ``(..., h, w)``."""
        return maps[..., self.top : self.bottom, self.left : self.right]

    def within(self, part: Tensor, around: Rect) -> Tensor:
        """This part of a map, given the ``part`` of it that is ``around`` it."""
        return Rect(
            self.top - around.top, self.left - around.left, self.bottom - around.top, self.right - around.left
        ).of(part)


class TiledLevel:
    """P2' of a batch, not yet computed.

    Args:
        extension: makes it.
        backbone: its stages 2 and 3 make C2' and C3'.
        pyramid: of the batch.
        fine: what C2' of the batch is made of.
        settings: how it is cut.
    """

    def __init__(self, extension: Extension, backbone: Backbone, pyramid: Pyramid, fine: Fine, settings: Tiles) -> None:
        assert isinstance(extension.upsampler, TwoStage), "nothing else is cut, see why_whole"
        self.extension, self.upsampler = extension, extension.upsampler
        self.stage2, self.stage3 = backbone.stages[:2]
        self.fine, self.settings = fine, settings
        self.level = extension.levels[1]
        maps = extension.sources(pyramid)
        self.p3, self.p2 = maps["p3"], maps["p2"]
        self.size = (self.p3.shape[-2], self.p3.shape[-1])
        self.post_reach, self.stage2_reach = reach(extension.post), reach(self.stage2)
        # stage 3 halves the resolution: it is cut at even cells
        self.stage3_reach = 2 * math.ceil(reach(self.stage3) / 2) if extension.lateral3 else 0
        self.margins = self._margins()
        self._work = self._priced()

    def pool(self, boxes: Sequence[Tensor], align: MultiScaleRoIAlign) -> Tensor:
        """RoIAlign on P2', ``(R, C, S, S)`` in the order of ``boxes``.

        Args:
            boxes: of each image, ``(n, 4)`` xyxy in 1x pixels.
            align: torchvision's pooler of this level.
        """
        wanted = [cells_under(one / self.level.stride, self.size, self.settings.grid) for one in boxes]
        tiles = [joined(np.unique(one, axis=0), self._price) for one in wanted]
        whole = self._price(np.array([[0, 0, *self.size]]))[0] * len(boxes)
        if sum(self._price(one).sum() for one in tiles) >= self.settings.dense_from * whole:
            return self._pooled(self._whole(), list(boxes), align)
        parts, order = [], []
        first = 0
        for index, (own, cells, cut) in enumerate(zip(boxes, wanted, tiles, strict=True)):
            home = tile_of(cells, cut)
            for number, row in enumerate(cut):
                rows = np.flatnonzero(home == number)
                parts.append(self._pooled_in(index, Rect(*map(int, row)), own[torch.as_tensor(rows)], align))
                order.append(torch.as_tensor(rows + first))
            first += len(own)
        if not parts:
            return self.p3.new_zeros(0, self.level.channels, *align.output_size)
        return torch.cat(parts)[torch.argsort(torch.cat(order)).to(self.p3.device)]

    def _pooled_in(self, index: int, part: Rect, boxes: Tensor, align: MultiScaleRoIAlign) -> Tensor:
        """RoIs that lie in one tile of image ``index``."""
        level = self._computed(slice(index, index + 1), part)
        corner = boxes.new_tensor([part.left, part.top] * 2) * (P2_EXT_PER_P3 * self.level.stride)
        return self._pooled(level, [boxes - corner], align)

    def _pooled(self, level: Tensor, boxes: list[Tensor], align: MultiScaleRoIAlign) -> Tensor:
        return roi_align(level, boxes, align.output_size, 1 / self.level.stride, align.sampling_ratio)

    def _price(self, rects: np.ndarray) -> np.ndarray:
        """Multiply-adds of tiles ``(n, 4)``: each part of the work is done on the tile and a margin of its own."""
        work, margins = self._work
        return np.asarray(grown_areas(rects, margins, self.size) @ work)

    def _margins(self) -> tuple[int, int]:
        """Margins of the upsampler's two stages: that at P3''s resolution around a tile, that at P3's around both."""
        coarse, fine = self.upsampler.reach
        margins = math.ceil((self._rim + fine) / 2), coarse
        most = self.settings.margin
        return margins if most is None else (min(margins[0], max(most, 1)), min(margins[1], most))

    @property
    def _rim(self) -> int:
        """Cells of P3' around a tile that the last convolution asks for."""
        return math.ceil(self.post_reach / 2)

    def _priced(self) -> tuple[np.ndarray, np.ndarray]:
        """Multiply-adds of every part for each cell of P3, and the margin that the part is computed with."""
        near, far = self.margins
        ext = self.extension
        # in cells of C2': what stage 3 sees around P3', or what the last convolution does
        second = (2 * self._rim + self.stage3_reach) if ext.lateral3 else self.post_reach
        first = second + self.stage2_reach
        parts = [
            (self.upsampler.work[0], near + far),
            (self.upsampler.work[1], near),
            (P2_EXT_PER_P3**2 * (weights(ext.lateral) + weights(ext.post)), self.post_reach / P2_EXT_PER_P3),
            (P2_EXT_PER_P3**2 * weights(self.stage2), first / P2_EXT_PER_P3),
            (P2_EXT_PER_P3**2 * self.fine.work, (first + self.fine.reach) / P2_EXT_PER_P3),
        ]
        if ext.lateral3:
            parts += [(4 * weights(self.stage3), second / P2_EXT_PER_P3), (4 * weights(ext.lateral3), self._rim / 2)]
        work, margins = zip(*parts, strict=True)
        return np.array(work, float), np.array(margins, float)

    def _whole(self) -> Tensor:
        """P2' of the batch, dense."""
        c2_ext = self.stage2(self.fine.entry(self.fine.map))
        c3_ext = self.stage3(c2_ext) if self.extension.lateral3 else None
        return self.extension(self.p3, self.p2, c2_ext, c3_ext)[1]

    def _computed(self, one: slice, part: Rect) -> Tensor:
        """P2' of one image in ``part``, ``(1, C, 4 h, 4 w)`` for a part of ``(h, w)`` cells."""
        coarse, fine = ([times * side for side in self.size] for times in (2, P2_EXT_PER_P3))
        wanted = part.times(P2_EXT_PER_P3)
        around = wanted.grown(self.post_reach, *fine)
        p3_part = part.times(2).grown(self._rim, *coarse)  # of P3', and of C3'
        c2_part = p3_part.times(2).grown(self.stage3_reach, *fine) if self.extension.lateral3 else around
        c2_ext = self._c2_ext(one, c2_part, fine)
        p3_ext = self._upsampled(one, part, p3_part)
        if self.extension.lateral3:
            c3_ext = p3_part.within(self.stage3(c2_ext), c2_part.over(2))
            p3_ext = self.extension.with_c3(p3_ext, c3_ext)
        upsampled = around.within(upsample2x(p3_ext), p3_part.times(2))
        return wanted.within(self.extension.merge(upsampled, around.within(c2_ext, c2_part)), around)

    def _upsampled(self, one: slice, part: Rect, wanted: Rect) -> Tensor:
        """What the upsampler gives in ``wanted``, cells of P3' that lie a little around ``part``."""
        near, far = self.margins
        middle = part.grown(near, *self.size)
        outer = middle.grown(far, *self.size)
        content = middle.times(2).within(self.upsampler.content_of(outer.of(self.p3[one])), outer.times(2))
        found = self.upsampler.texture_of(middle.of(self.p3[one]), middle.times(2).of(self.p2[one]), content)
        return wanted.within(found, middle.times(2))

    def _c2_ext(self, one: slice, wanted: Rect, size: Sequence[int]) -> Tensor:
        """C2' in ``wanted``, cells of it."""
        beneath = wanted.grown(self.stage2_reach, *size)
        read = beneath.grown(self.fine.reach, *size)
        entered = beneath.within(self.fine.entry(read.times(self.fine.cells).of(self.fine.map[one])), read)
        return wanted.within(self.stage2(entered), beneath)


@torch.no_grad()
def why_whole(extension: nn.Module, backbone: Backbone, channels: int) -> str:
    """Why an extension's P2' cannot be computed on tiles; empty where these are what the dense map is.

    Only an `Extension` whose upsampler says how far it sees can be cut at all. That is tried out on a copy with random
    weights; on the meta device its word is taken.

    Args:
        extension: as built.
        backbone: whose stages it is used with.
        channels: depth of the pyramid.
    """
    upsampler = getattr(extension, "upsampler", extension)
    if not isinstance(upsampler, TwoStage):
        return f"{type(upsampler).__name__} does not say how far it sees, as an efpn.models.TwoStage does"
    if next(backbone.parameters()).is_meta:
        return ""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tried, trial = copy.deepcopy(extension).eval(), copy.deepcopy(backbone).eval()
        for part in (tried, trial.entry, *trial.stages[:2]):
            for weight in part.parameters():  # a layer that starts at zero would hide what is before it
                nn.init.kaiming_normal_(weight) if weight.ndim > 1 else nn.init.normal_(weight, mean=0.5, std=0.5)
        assert isinstance(tried, Extension)
        side = 2 * (sum(tried.upsampler.reach) + 6)  # type: ignore[arg-type]
        maps = {"p3": torch.rand(1, channels, side, side), "p2": torch.rand(1, channels, 2 * side, 2 * side)}
        image = torch.rand(1, 3, 16 * side, 16 * side)
        level = TiledLevel(tried, trial, Pyramid(maps, maps), entry_on(trial, image), Tiles())
        middle = Rect(side // 2 - 1, side // 2, side // 2 + 1, side // 2 + 2)
        dense, cut = middle.times(P2_EXT_PER_P3).of(level._whole()), level._computed(slice(0, 1), middle)
    if torch.allclose(cut, dense, rtol=1e-3, atol=1e-3 * float(dense.std())):
        return ""
    names = type(upsampler).__name__, type(backbone).__name__
    reason = f"{names[0]} on {names[1]} is not on tiles what it is on the whole map; a layer sees further than told"
    log.warning("P2' is computed whole: %s", reason)
    return reason


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


def united(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The smallest rectangles around ``one (..., 4)`` and ``others (..., 4)``, broadcast."""
    return np.concatenate([np.minimum(one, others)[..., :2], np.maximum(one, others)[..., 2:]], axis=-1)


def grown_areas(rects: np.ndarray, margins: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cells ``(n, m)`` of rectangles ``(n, 4)`` with each of ``margins (m,)`` around, inside of a map of ``size``."""
    first = np.maximum(rects[:, None, :2] - margins[:, None], 0)
    return (np.minimum(rects[:, None, 2:] + margins[:, None], size) - first).prod(axis=2)
