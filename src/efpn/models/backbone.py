"""Trunk, FPN and extension as one torchvision backbone."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from efpn.models.extension import Extension
from efpn.models.fpn import FPN, Pyramid
from efpn.models.trunk import ResNetTrunk
from efpn.models.windows import WindowedLevel, Windows
from efpn.types import LevelSpec

Level = Tensor | WindowedLevel


class EFPNBackbone(nn.Module):
    """What torchvision's detectors call a backbone: pictures in, named levels out.

    Args:
        trunk: gives ``c2 .. c5`` and C2'.
        channels: depth of every level.
        extension: called with ``c2_channels`` and ``channels``; builds P3' and P2'. None gives a plain FPN.
        windows: without gradient, compute P2' under small RoIs alone; None computes the whole map.

    Attributes:
        levels: a `LevelSpec` for every map that `forward` returns, checked against a real pass at construction.
    """

    def __init__(
        self, trunk: ResNetTrunk, channels: int, extension: Extension | None = None, windows: Windows | None = None
    ) -> None:
        super().__init__()
        self.body = trunk
        self.fpn = FPN(trunk.channels, channels)
        self.extension = extension
        self.out_channels = channels
        self.levels = self.fpn.levels + (extension.levels if extension else ())
        self.windows = windows
        check_levels(self, self.levels)

    def forward(self, images: Tensor) -> dict[str, Level]:
        """Compute ``p2 .. p6`` and, with an extension, ``p3x`` and ``p2x`` from normalised pictures ``(N, 3, H, W)``.

        H and W must be multiples of 32. With windows and without gradient there is no ``p3x``, and ``p2x`` waits
        for the boxes under which it is wanted.
        """
        # frozen parts are in eval mode in training too: the gradient tells whether this is training
        if self.extension is None or self.windows is None or torch.is_grad_enabled():
            return dict(self.whole(images))
        pyramid = self.fpn(self.body(images, stem=True))
        return {**pyramid.output, "p2x": WindowedLevel(self.extension, self.body.layer1, pyramid, self.windows)}

    def whole(self, images: Tensor) -> dict[str, Tensor]:
        """All levels as maps, with or without windows."""
        if self.extension is None:
            return dict(self.pyramid(images).output)
        pyramid = self.pyramid(images, extended=True)
        p3x, p2x = self.extension.extend(pyramid)
        return {**pyramid.output, "p3x": p3x, "p2x": p2x}

    def pyramid(self, images: Tensor, extended: bool = False) -> Pyramid:
        """Run trunk and FPN alone; ``extended`` adds C2'."""
        return self.fpn(self.body(images, extended=extended))

    def start_extension(self) -> None:
        """Start the extension's own layers from the FPN's (see `Extension.start_from`)."""
        assert self.extension is not None, "a plain FPN has no extension to start"
        self.extension.start_from(self.fpn)


@torch.no_grad()
def check_levels(backbone: EFPNBackbone, levels: Iterable[LevelSpec], size: int = 64) -> None:
    """Run one blank picture of ``size`` pixels and compare every map with its `LevelSpec`.

    Raises:
        ValueError: a level is missing, or its stride or depth is not what it says.
    """
    training = backbone.training
    maps = backbone.eval().whole(torch.zeros(1, 3, size, size))
    backbone.train(training)
    for level in levels:
        expected = (1, level.channels, size // level.stride, size // level.stride)
        got = tuple(maps[level.name].shape) if level.name in maps else None
        if got != expected:
            raise ValueError(f"level {level.name}: a {size} px picture gives {got}, its spec says {expected}")
