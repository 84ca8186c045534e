"""The feature pyramid network, torchvision's, with named levels and its inner maps in view."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from efpn.types import LevelSpec

STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}


class Pyramid(NamedTuple):
    """One pass of trunk and FPN.

    Attributes:
        inner: ``p2 .. p5`` before the 3x3 output convolution (lateral + top-down sum).
        output: ``p2 .. p6``, what a detector reads.
    """

    inner: dict[str, Tensor]
    output: dict[str, Tensor]


class FPN(FeaturePyramidNetwork):
    """torchvision's FPN over C2 to C5 with P6 by max-pooling (Lin et al., 2017); parameters keep torchvision's names.

    Args:
        in_channels: depth of ``c2 .. c5``.
        channels: depth of every level.
    """

    def __init__(self, in_channels: dict[str, int], channels: int) -> None:
        super().__init__([in_channels[c] for c in ("c2", "c3", "c4", "c5")], channels, LastLevelMaxPool())
        self.levels = tuple(LevelSpec(name, stride, channels) for name, stride in STRIDES.items())

    def forward(self, stages: dict[str, Tensor]) -> Pyramid:
        """Merge ``c2 .. c5`` top-down into inner and output maps."""
        inner = {"p5": self.inner_blocks[3](stages["c5"])}
        for index, below in ((2, "p4"), (1, "p3"), (0, "p2")):
            lateral = self.inner_blocks[index](stages[f"c{index + 2}"])
            above = inner[f"p{index + 3}"]
            inner[below] = lateral + F.interpolate(above, size=lateral.shape[-2:], mode="nearest")
        output = {f"p{i + 2}": self.layer_blocks[i](inner[f"p{i + 2}"]) for i in range(4)}
        output["p6"] = F.max_pool2d(output["p5"], kernel_size=1, stride=2)
        return Pyramid(inner, output)
