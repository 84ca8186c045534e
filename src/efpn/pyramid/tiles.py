"""The extended level where it is read: P2' under small RoIs alone, tile by tile.

Nothing but RoI pooling reads P2', and only small RoIs do. The second pass (C2', C3' ...), the upsampler, the laterals
and the last convolution run on tiles under them, each with the margin that its receptive field asks for, or with as
much of it as the extension takes (its ``margin``); at the image's edge a tile ends where the map ends, so that zero
padding acts there as it does on the whole map. With the former, what comes out is the dense P2' to float noise. That is
tried out when a model is built: a layer that sees further than it says, or the whole map (attention, group-norm), makes
P2' be computed whole. With a margin of 0 a tile is computed of what lies under it alone, in whole cells of each map.

Lengths are in cells of P3 (8 px of the 1x image) unless they say otherwise; P3' has 2 and P2' 4 cells for each.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Sequence
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
from efpn.pyramid.receptive import macs_per_cell, reach, weights
from efpn.pyramid.tiling import P2_EXT_PER_P3, Rect, alike, cells_under, cost, grown_areas, joined, tile_of
from efpn.pyramid.upsamplers import TwoStage, upsample2x

log = logging.getLogger(__name__)

TOGETHER = 1024  # cells that tiles of one layout may read together, to be computed as a batch

TRIAL_ROOM = 6  # cells around what is told to be seen, in which a layer that sees further shows


@dataclass(frozen=True)
class Tiles:
    """How P2' is cut."""

    grid: int = 1  # tiles begin and end at multiples of this; coarser ones have fewer different sizes and more cells
    dense_from: float = 0.9  # share of what the whole map costs from which the map is computed whole

    def __post_init__(self) -> None:
        """Refuse numbers by which tiles would be wrong and nobody be told."""
        if self.grid < 1:
            raise UserError(f"model.tiles.grid={self.grid}: must be at least 1")


class Cut(NamedTuple):
    """What one tile is computed of: parts of maps, each in the cells of its own."""

    tile: Rect  # of P2'
    levels: dict[int, Rect]  # by n, of Pn'
    stages: dict[int, Rect]  # by n, of Cn'
    entered: Rect  # of C2': what stage 2 reads
    read: Rect  # of C2': what its entry reads
    inputs: tuple[Rect, Rect] | None  # of the map that feeds the upsampler: what its first and its second stage read

    @property
    def layout(self) -> tuple[Rect, ...]:
        """The same for all tiles that can be one batch: its parts around the tile, and the inputs around each other."""
        parts = [part.times(2 ** (n - 2)) for of in (self.levels, self.stages) for n, part in of.items()]
        around = [part.seen_from(self.tile) for part in (*parts, self.tile, self.entered, self.read)]
        if self.inputs:
            outer, middle = self.inputs
            around += [outer.seen_from(outer), middle.seen_from(outer)]
        return tuple(around)


class TiledLevel:
    """P2' of a batch, not yet computed.

    Args:
        extension: makes it.
        backbone: its stages make C2', C3' and so on.
        pyramid: of the batch.
        fine: what C2' of the batch is made of.
        settings: how it is cut.
    """

    def __init__(self, extension: Extension, backbone: Backbone, pyramid: Pyramid, fine: Fine, settings: Tiles) -> None:
        assert isinstance(extension.upsampler, TwoStage | None), "nothing else is cut, see why_whole"
        self.extension, self.upsampler = extension, extension.upsampler
        self.body, self.fine, self.settings = backbone, fine, settings
        self.level = extension.levels[1]
        self.maps = extension.sources(pyramid)
        self.size = (self.maps["p3"].shape[-2], self.maps["p3"].shape[-1])
        self.last = extension.last_stage
        # by n, in cells of Cn-1': what stage n sees to each side; from 3 on it halves the resolution, at even cells
        most = math.inf if extension.margin is None else extension.margin
        seen = {n: min(reach(stage), most) for n, stage in enumerate(backbone.stages[: self.last - 1], start=2)}
        self.reaches = {n: int(cells) if n == 2 else 2 * math.ceil(cells / 2) for n, cells in seen.items()}
        self.entry_reach = int(min(fine.reach, most))  # in cells of C2'
        # by n, in cells of Pn': what the last convolution asks for around a tile
        self.rims = {2: int(min(reach(extension.post), most))}
        for number in range(3, extension.fed + 1):
            self.rims[number] = math.ceil(self.rims[number - 1] / 2)
        self.margins = self._margins()
        self._work = self._priced()

    def pool(self, boxes: Sequence[Tensor], align: MultiScaleRoIAlign) -> Tensor:
        """RoIAlign on P2', ``(R, C, S, S)`` in the order of ``boxes``.

        Args:
            boxes: of each image, ``(n, 4)`` xyxy in 1x pixels.
            align: torchvision's pooler of this level.
        """
        wanted = [cells_under(one / self.level.stride, self.size, self.settings.grid) for one in boxes]
        tiles = alike([joined(np.unique(one, axis=0), self._price) for one in wanted], self._price, self.size)
        whole = [np.array([[0, 0, *self.size]])] * len(boxes)
        share = cost(tiles, self._price, self.size) / cost(whole, self._price, self.size)
        if share >= self.settings.dense_from:
            return self._pooled(self._whole(), list(boxes), align)
        layouts: dict[tuple[Rect, ...], list[tuple[int, Cut, Tensor]]] = {}  # image, tile and its RoIs
        first = 0
        for index, (cells, cuts) in enumerate(zip(wanted, tiles, strict=True)):
            home = tile_of(cells, cuts)
            for number in np.unique(home):  # of two tiles that have become one, the other holds none
                cut = self._cut(Rect(*map(int, cuts[number])))
                inside = torch.as_tensor(np.flatnonzero(home == number) + first)
                layouts.setdefault(cut.layout, []).append((index, cut, inside))
            first += len(cells)
        if not layouts:
            return self.maps["p3"].new_zeros(0, self.level.channels, *align.output_size)
        every, parts, order = torch.cat(list(boxes)), [], []
        for group in layouts.values():
            many = max(TOGETHER * P2_EXT_PER_P3**2 // group[0][1].read.area, 1)
            for start in range(0, len(group), many):
                batch = group[start : start + many]
                level = self._computed([(index, cut) for index, cut, _ in batch])
                corners = [
                    every.new_tensor([cut.tile.left, cut.tile.top] * 2) * self.level.stride for _, cut, _ in batch
                ]
                own = [every[rows] - corner for (_, _, rows), corner in zip(batch, corners, strict=True)]
                parts.append(self._pooled(level, own, align))
                order += [rows for _, _, rows in batch]
        return torch.cat(parts)[torch.argsort(torch.cat(order)).to(self.maps["p3"].device)]

    def _pooled(self, level: Tensor, boxes: list[Tensor], align: MultiScaleRoIAlign) -> Tensor:
        return roi_align(level, boxes, align.output_size, 1 / self.level.stride, align.sampling_ratio)

    def _price(self, rects: np.ndarray) -> np.ndarray:
        """Multiply-adds of tiles ``(n, 4)``: each part of the work is done on the tile and a margin of its own."""
        work, margins = self._work
        return np.asarray(grown_areas(rects, margins, self.size) @ work)

    def _margins(self) -> tuple[int, int]:
        """Margins of the upsampler's stages, in cells of what it reads: the second's, then the first's around that."""
        if self.upsampler is None:
            return 0, 0
        coarse, fine = self.upsampler.reach
        margins = math.ceil((self.rims[self.extension.fed] + fine) / 2), coarse
        most = self.extension.margin
        return margins if most is None else (min(margins[0], most), min(margins[1], most))

    def _priced(self) -> tuple[np.ndarray, np.ndarray]:
        """Multiply-adds of every part for each cell of P3, and the margin that the part is computed with."""
        ext, parts = self.extension, []
        if self.upsampler is not None:
            cell, (near, far) = 2 ** (ext.fed - 3), self.margins  # of what it reads, in cells of P3
            first, second = self.upsampler.work
            more = cell - 1  # at most, see `Rect.halved_alike`
            parts += [(first / cell**2, (near + far) * cell + more), (second / cell**2, near * cell + more)]
        around = self.rims[self.last]  # of Cn', in its cells, as n goes down
        for number in range(self.last, 1, -1):
            cells = 2 ** (4 - number)  # of Cn' and Pn' in one of P3, along each axis
            lateral = weights(ext.laterals[number - 2]) + (weights(ext.post) if number == 2 else 0)
            parts.append((cells**2 * lateral, self.rims[number] / cells))
            shrinks = 1 if number == 2 else 2
            around = shrinks * around + self.reaches[number]  # in cells of what stage n reads
            work = macs_per_cell(self.body.stages[number - 2], shrinks)  # for a cell of Cn'
            parts.append((cells**2 * work, around / (shrinks * cells)))
        parts.append((P2_EXT_PER_P3**2 * self.fine.work, (around + self.entry_reach) / P2_EXT_PER_P3))
        works, margins = zip(*parts, strict=True)
        return np.array(works, float), np.array(margins, float)

    def _whole(self) -> Tensor:
        """P2' of the batch, dense."""
        return self.extension(self.maps, self.extension.second_pass(self.body, self.fine))[1]

    def _cut(self, part: Rect) -> Cut:
        """What a tile is computed of, given as a ``part`` of P3."""
        tile = part.times(P2_EXT_PER_P3)
        levels = {2: tile.grown(self.rims[2], *self._cells(2))}
        for number in range(3, self.extension.fed + 1):
            levels[number] = levels[number - 1].halved()
        stages = {self.last: levels[self.last]}
        for number in range(self.last, 2, -1):
            stages[number - 1] = stages[number].times(2).grown(self.reaches[number], *self._cells(number - 1))
        entered = stages[2].grown(self.reaches[2], *self._cells(2))
        read = entered.grown(self.entry_reach, *self._cells(2))
        return Cut(tile, levels, stages, entered, read, self._inputs(part) if self.upsampler else None)

    def _inputs(self, part: Rect) -> tuple[Rect, Rect]:
        """What the upsampler's stages read for a ``part`` of P3, in cells of the map that feeds it."""
        fed, (near, far) = self.extension.fed, self.margins
        size = self._cells(fed + 1)  # of 1x, where a level has as many as the next one of 2x
        for _ in range(3, fed):
            part = part.halved_alike(*size)
        middle = part.grown(near, *size)
        return middle.grown(far, *size), middle

    def _computed(self, batch: Sequence[tuple[int, Cut]]) -> Tensor:
        """P2' in tiles of one shape, ``(n, C, 4 h, 4 w)`` for such of ``(h, w)`` cells, each given with its image."""
        cut = batch[0][1]
        stages = self._second_pass(batch)
        above = self._stand_in(batch)
        if self.last == 2 and above is not None:
            above = cut.levels[2].within(upsample2x(above), cut.levels[3].times(2))
        for number in range(self.last, 1, -1):
            above = self.extension.merged(number, stages[number], above)
            if number > 2:
                above = cut.levels[number - 1].within(upsample2x(above), cut.levels[number].times(2))
        assert above is not None, "P2' is made of something"
        return cut.tile.within(above, cut.levels[2])

    def _cells(self, number: int) -> tuple[int, int]:
        """Height and width of Cn' and Pn'."""
        height, width = (side * P2_EXT_PER_P3 // 2 ** (number - 2) for side in self.size)
        return height, width

    def _second_pass(self, batch: Sequence[tuple[int, Cut]]) -> dict[int, Tensor]:
        """By n, Cn' in what the level of each tile asks for."""
        cut, cells = batch[0][1], self.fine.cells
        x = self.fine.entry(gathered(self.fine.map, [(image, one.read.times(cells)) for image, one in batch]))
        x, there = cut.entered.within(x, cut.read), cut.entered
        stages = {}
        for number, stage in enumerate(self.body.stages[: self.last - 1], start=2):
            x = cut.stages[number].within(stage(x), there if number == 2 else there.halved())
            there = cut.stages[number]
            stages[number] = cut.levels[number].within(x, there)
        return stages

    def _stand_in(self, batch: Sequence[tuple[int, Cut]]) -> Tensor | None:
        """What the upsampler gives in what the level that it makes asks for."""
        upsampler, fed, cut = self.upsampler, self.extension.fed, batch[0][1]
        if upsampler is None or cut.inputs is None:
            return None
        reads = [(image, *one.inputs) for image, one in batch if one.inputs]
        around = gathered(self.maps[f"p{fed}"], [(image, outer) for image, outer, _ in reads])
        coarse = gathered(self.maps[f"p{fed}"], [(image, middle) for image, _, middle in reads])
        texture = gathered(self.maps[f"p{fed - 1}"], [(image, middle.times(2)) for image, _, middle in reads])
        outer, middle = (part.times(2) for part in cut.inputs)
        content = middle.within(upsampler.content_of(around), outer)
        made = upsampler.texture_of(coarse, texture, content)
        # where a tile begins within a cell of its input differs
        own = [(one.levels[fed], one.inputs[1].times(2)) for _, one in batch if one.inputs]
        return torch.cat([level.within(made[k : k + 1], around) for k, (level, around) in enumerate(own)])


def gathered(maps: Tensor, parts: Sequence[tuple[int, Rect]]) -> Tensor:
    """Parts of one size as a batch ``(n, C, h, w)``, each given with the number of its image in ``maps``."""
    return torch.cat([part.of(maps[image : image + 1]) for image, part in parts])


@torch.no_grad()
def why_whole(extension: nn.Module, backbone: Backbone, channels: int) -> str:
    """Why an extension's P2' cannot be computed on tiles; empty where these, of whole margins, are the dense map.

    Only an `Extension` whose upsampler says how far it sees can be cut at all. That is tried out on a copy with random
    weights; on the meta device its word is taken.

    Args:
        extension: as built.
        backbone: whose stages it is used with.
        channels: depth of the pyramid.
    """
    upsampler = getattr(extension, "upsampler", extension)
    if upsampler is not None and not isinstance(upsampler, TwoStage):
        return f"{type(upsampler).__name__} does not say how far it sees, as an efpn.models.TwoStage does"
    if next(backbone.parameters()).is_meta:
        return ""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tried, trial = copy.deepcopy(extension).eval(), copy.deepcopy(backbone).eval()
        assert isinstance(tried, Extension)
        tried.margin = None  # what is cut short is not to be told from a layer that sees further
        for module in (tried, trial.entry, *trial.stages[: tried.last_stage - 1]):
            for weight in module.parameters():  # a layer that starts at zero would hide what is before it
                nn.init.kaiming_normal_(weight) if weight.ndim > 1 else nn.init.normal_(weight, mean=0.5, std=0.5)
        level = _blank_level(tried, trial, channels, 8)
        level = _blank_level(tried, trial, channels, 4 * math.ceil((level._work[1].max() + TRIAL_ROOM) / 2))
        middle = level.size[0] // 2
        part = Rect(middle - 1, middle, middle + 1, middle + 2)
        dense, cut = part.times(P2_EXT_PER_P3).of(level._whole()), level._computed([(0, level._cut(part))])
    if torch.allclose(cut, dense, rtol=1e-3, atol=1e-3 * float(dense.std())):
        return ""
    names = type(extension if upsampler is None else upsampler).__name__, type(backbone).__name__
    reason = f"{names[0]} on {names[1]} is not on tiles what it is on the whole map; a layer sees further than told"
    log.warning("P2' is computed whole: %s", reason)
    return reason


def _blank_level(extension: Extension, backbone: Backbone, channels: int, side: int) -> TiledLevel:
    """Of one image of noise, whose P3 has ``side x side`` cells."""
    sides = {"p2": 2 * side, "p3": side, "p4": side // 2}
    maps = {name: torch.rand(1, channels, cells, cells) for name, cells in sides.items()}
    fine = entry_on(backbone, torch.rand(1, 3, 16 * side, 16 * side))
    return TiledLevel(extension, backbone, Pyramid(maps, maps), fine, Tiles())
