"""What turns P3 into P3' at twice the resolution: FTT (Sec. III-B), and the two it is compared with in Sec. IV-B.

All are called as ``upsampler(p3, p2) -> p3x`` with p3 ``(N, C, H/8, W/8)``, p2 and p3x ``(N, C, H/4, W/4)``. They
work in two stages, the first on P3 at its own resolution, the second at that of P3'; ``reach`` tells how many cells
each sees to each side, of P3 and of P3'.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.1


def conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size, He-initialised for (leaky) ReLUs, without bias at the start."""
    conv = nn.Conv2d(inputs, outputs, 3, padding=1)
    nn.init.kaiming_normal_(conv.weight, a=SLOPE)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


class ResidualBlock(nn.Module):
    """conv - ReLU - conv + x, without normalisation, ``(N, width, h, w) -> (N, width, h, w)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv3x3(width, width), conv3x3(width, width)
        # a residual branch that starts small keeps the scale of features over any number of blocks
        nn.init.normal_(self.conv2.weight, std=0.1 * (2 / (9 * width)) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Add the block's correction to x."""
        return x + self.conv2(F.relu(self.conv1(x)))


class Upsampler(nn.Module, abc.ABC):
    """What turns P3 into P3', in two stages (see the top of this file).

    Attributes:
        reach: cells that the stages see to each side, of P3 and of P3'.
        work: multiply-adds of the stages for each cell of P3.
    """

    reach: tuple[int, int]
    work: tuple[int, int]

    @abc.abstractmethod
    def content_of(self, p3: Tensor) -> Tensor:
        """First stage: ``(N, C, H/8, W/8)`` to ``(N, any, H/4, W/4)``."""

    @abc.abstractmethod
    def texture_of(self, p3: Tensor, p2: Tensor, content: Tensor) -> Tensor:
        """Second stage: P3' ``(N, C, H/4, W/4)``."""

    def forward(self, p3: Tensor, p2: Tensor) -> Tensor:
        """Super-resolve P3 with P2 as reference (shapes at the top of this file)."""
        return self.texture_of(p3, p2, self.content_of(p3))


class FTT(Upsampler):
    """Feature texture transfer, eq. 3: P3' = Et(P2 || Ec(P3)^) + Ec(P3)^, where ^ is sub-pixel convolution (eq. 4).

    The head and the output convolution map between the pyramid's depth and the module's own width (the paper gives
    neither; see the reading notes in the documentation). The output convolution starts at zero under the outer skip,
    so that P3' begins as P3 upsampled.

    Args:
        channels: depth C of P3, P2 and P3'.
        width: depth inside the module.
        blocks: residual blocks in the content extractor Ec and in the texture extractor Et, each (the paper: 2).
        outer_skip: add P3, nearest-upsampled, to the result (the release does; eq. 3 does not).
        tail: one more 3x3 convolution before the output convolution, as in the release.
    """

    def __init__(
        self, channels: int = 256, width: int = 256, blocks: int = 2, outer_skip: bool = True, tail: bool = True
    ) -> None:
        super().__init__()
        self.outer_skip = outer_skip
        self.content = nn.Sequential(conv3x3(channels, width), nn.LeakyReLU(SLOPE), *_blocks(blocks, width))
        self.subpixel = nn.Sequential(conv3x3(width, 4 * width), nn.PixelShuffle(2), nn.LeakyReLU(SLOPE))
        self.texture = nn.Sequential(conv3x3(channels + width, width), nn.LeakyReLU(SLOPE), *_blocks(blocks, width))
        self.tail = nn.Sequential(conv3x3(width, width), nn.LeakyReLU(SLOPE)) if tail else nn.Identity()
        self.output = conv3x3(width, channels)
        self.reach = (1 + 2 * blocks + 1, 1 + 2 * blocks + tail + 1)  # 3x3 convolutions of both stages
        fine = weights(self.texture) + weights(self.tail) + weights(self.output)
        self.work = (weights(self.content) + weights(self.subpixel), 4 * fine)
        if outer_skip:
            nn.init.zeros_(self.output.weight)

    def content_of(self, p3: Tensor) -> Tensor:
        """First stage: Ec(P3) at twice the resolution, ``(N, width, H/4, W/4)``."""
        return self.subpixel(self.content(p3))

    def texture_of(self, p3: Tensor, p2: Tensor, content: Tensor) -> Tensor:
        """Second stage: P3' from the first one's result, P2, and P3 for the outer skip."""
        texture = self.texture(torch.cat([p2, content], dim=1))
        p3x = self.output(self.tail(texture + content))  # eq. 3
        return p3x + upsample2x(p3) if self.outer_skip else p3x


class ESPCN(Upsampler):
    """Three-layer ESPCN (Shi et al., 2016), the single-image super-resolution of Tables II and III; ignores P2.

    Args:
        channels: depth C of P3 and P3'.
        widths: depth of the two hidden layers, 64 and 32 in the original.
        outer_skip: as for FTT; the last layer then starts at zero.
    """

    def __init__(self, channels: int = 256, widths: Sequence[int] = (64, 32), outer_skip: bool = True) -> None:
        super().__init__()
        self.outer_skip = outer_skip
        first, second = widths
        self.layers = nn.Sequential(
            nn.Conv2d(channels, first, 5, padding=2), nn.Tanh(), conv3x3(first, second), nn.Tanh()
        )
        self.output = conv3x3(second, 4 * channels)
        self.reach = (2 + 1 + 1, 0)
        self.work = (weights(self.layers) + weights(self.output), 0)
        if outer_skip:
            nn.init.zeros_(self.output.weight)

    def content_of(self, p3: Tensor) -> Tensor:
        """First stage, and all of the work: P3' without its outer skip."""
        return F.pixel_shuffle(self.output(self.layers(p3)), 2)

    def texture_of(self, p3: Tensor, p2: Tensor, content: Tensor) -> Tensor:
        """Second stage: the outer skip; P2 is not looked at."""
        return content + upsample2x(p3) if self.outer_skip else content


class Nearest(Upsampler):
    """Nearest-neighbour upsampling: EFPN "w/o FTT" of Table III. No parameters."""

    def __init__(self, channels: int = 256) -> None:
        super().__init__()
        self.reach = self.work = (0, 0)

    def content_of(self, p3: Tensor) -> Tensor:
        """First stage, and all of the work: every cell of P3 2x2 times."""
        return upsample2x(p3)

    def texture_of(self, p3: Tensor, p2: Tensor, content: Tensor) -> Tensor:
        """Nothing is left to do."""
        return content


def upsample2x(x: Tensor) -> Tensor:
    """Nearest-neighbour upsampling by two, the arrow of eq. 1."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def weights(module: nn.Module) -> int:
    """Weights of all convolutions in a module: their multiply-adds for each cell."""
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Conv2d))


def _blocks(count: int, width: int) -> list[nn.Module]:
    return [ResidualBlock(width) for _ in range(count)]
