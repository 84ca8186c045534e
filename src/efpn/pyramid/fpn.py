"""The feature pyramid network, torchvision's, with named levels and its inner maps in view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from efpn.types import LevelSpec


class Pyramid(NamedTuple):
    """One pass of backbone and FPN."""

    inner: dict[str, Tensor]  # ``p2 .. p5`` before the 3x3 output convolution (lateral + top-down sum)
    output: dict[str, Tensor]  # ``p2 .. p6``, what a detector reads


class FPN(FeaturePyramidNetwork):
    """torchvision's FPN over C2 to C5 with P6 by max-pooling (Lin et al., 2017); parameters keep torchvision's names.

    Args:
        stages: the backbone's ``c2 .. c5``.
        channels: depth of every level.
    """

    def __init__(self, stages: Sequence[LevelSpec], channels: int) -> None:
        super().__init__([stage.channels for stage in stages], channels, LastLevelMaxPool())
        strides = [*(stage.stride for stage in stages), 2 * stages[-1].stride]
        self.levels = tuple(LevelSpec(f"p{number}", stride, channels) for number, stride in enumerate(strides, start=2))

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


def extended_levels(channels: int) -> tuple[LevelSpec, LevelSpec]:
    """P3' at the stride of P2, and P2' at half of it."""
    return LevelSpec("p3_ext", 4, channels), LevelSpec("p2_ext", 2, channels)
