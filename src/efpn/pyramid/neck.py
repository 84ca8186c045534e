"""Backbone, FPN and extension as what torchvision's detectors call a backbone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from efpn.pyramid.backbones import Backbone
from efpn.pyramid.detail import Detail, Fine, Stem, require_stem
from efpn.pyramid.extension import Extension, WholePass
from efpn.pyramid.fpn import FPN, Pyramid
from efpn.pyramid.tiles import TiledLevel, Tiles, why_whole
from efpn.types import LevelSpec

Level = Tensor | TiledLevel


class EFPNBackbone(nn.Module):
    """What torchvision's detectors call a backbone: images in, named levels out.

    Args:
        body: the backbone proper (torchvision's name for it); gives ``c2 .. c5``, and its first stages C2', C3' ...
        channels: depth of every level.
        extension: builds P3' and P2'. None gives a plain FPN.
        detail: where C2' comes from; None is the paper's `Stem`.
        tiles: without gradient, compute P2' under small RoIs alone; None computes the whole map, as an extension that
            cannot be cut does anyway.

    Attributes:
        levels: a `LevelSpec` for every map that `whole` returns, checked against a real pass at construction.
        whole_because: why P2' is not computed on tiles; empty where it is.
    """

    extension: Any  # an `Extension`, a `WholePass`, or None

    def __init__(
        self,
        body: Backbone,
        channels: int,
        extension: Extension | WholePass | None = None,
        detail: Detail | None = None,
        tiles: Tiles | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.fpn = FPN(body.levels, channels)
        self.extension = extension
        self.detail = detail or Stem()
        self.out_channels = channels
        self.levels = self.fpn.levels + (extension.levels if extension else ())
        if extension:
            require_stem(self.detail, body)
        check_levels(self, self.levels)
        self.whole_because = "model.tiles is null, or nothing of the detector reads tiles"
        if extension and tiles:
            self.whole_because = why_whole(extension, body, channels)
        self.tiles = tiles if extension and not self.whole_because else None

    @property
    def reads_2x(self) -> bool:
        """Whether P2' is made of the 2x images, which `forward` then needs."""
        return self.extension is not None and self.detail.reads_2x

    def forward(self, images: Tensor, images_2x: Tensor | None = None) -> dict[str, Level]:
        """Compute ``p2 .. p6`` and, with an extension, ``p3_ext`` and ``p2_ext``.

        With tiles and without gradient there is no ``p3_ext``, and ``p2_ext`` waits for the boxes that read it.

        Args:
            images: normalised 1x images ``(N, 3, H, W)``; H and W are multiples of 32.
            images_2x: the 2x images ``(N, 3, 2H, 2W)``, where ``reads_2x``.
        """
        # frozen parts are in eval mode in training too: the gradient tells whether this is training
        if self.tiles is None or torch.is_grad_enabled():
            return dict(self.whole(images, images_2x))
        assert isinstance(self.extension, Extension), "nothing else is cut"
        pyramid, fine = self.prepare(images, images_2x)
        return {**pyramid.output, "p2_ext": TiledLevel(self.extension, self.body, pyramid, fine, self.tiles)}

    def whole(self, images: Tensor, images_2x: Tensor | None = None) -> dict[str, Tensor]:
        """All levels as maps, with or without tiles."""
        if self.extension is None:
            return dict(self.pyramid(images).output)
        pyramid, fine = self.prepare(images, images_2x)
        p3_ext, p2_ext = self.extension.extend(self, pyramid, fine)
        return {**pyramid.output, "p3_ext": p3_ext, "p2_ext": p2_ext}

    def pyramid(self, images: Tensor) -> Pyramid:
        """Run backbone and FPN alone."""
        return self.fpn(self.body(images))

    def prepare(self, images: Tensor, images_2x: Tensor | None = None) -> tuple[Pyramid, Fine]:
        """Run backbone and FPN, and get ready what C2' is made of."""
        stages = self.body(images, stem=self.detail.reads_stem)
        return self.fpn(stages), self.detail.fine(self.body, images, stages.get("c1"), images_2x)

    def start_extension(self) -> None:
        """Start the extension's own layers from the FPN's (see `Extension.start_from`)."""
        assert self.extension is not None, "a plain FPN has no extension to start"
        self.extension.start_from(self.fpn)


@torch.no_grad()
def check_levels(backbone: EFPNBackbone, levels: Iterable[LevelSpec], size: int = 64) -> None:
    """Run one blank image of ``size`` pixels and compare every map with its `LevelSpec`.

    Raises:
        ValueError: a level is missing, or its stride or depth is not what it says.
    """
    training = backbone.training
    maps = backbone.eval().whole(torch.zeros(1, 3, size, size), torch.zeros(1, 3, 2 * size, 2 * size))
    backbone.train(training)
    for level in levels:
        expected = (1, level.channels, size // level.stride, size // level.stride)
        got = tuple(maps[level.name].shape) if level.name in maps else None
        if got != expected:
            raise ValueError(f"level {level.name}: a {size} px image gives {got}, its spec says {expected}")
