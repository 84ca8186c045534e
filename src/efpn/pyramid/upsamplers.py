"""What turns P3 into P3' at twice the resolution: FTT (Sec. III-B), and those it is compared with.

All are called as ``upsampler(p3, p2) -> p3_ext`` with p3 ``(N, C, H/8, W/8)``, p2 and p3_ext ``(N, C, H/4, W/4)``.
Where the second pass goes on to stage 4, P4 and P3 take the place of P3 and P2, and P4' that of P3'. That is all that
an upsampler needs; one that is a `TwoStage` can be run on parts of the maps too.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efpn.errors import UserError
from efpn.pyramid.receptive import reach, weights

SLOPE = 0.1


def convolution(inputs: int, outputs: int, kernel: int = 3, groups: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size, He-initialised for (leaky) ReLUs, without bias at the start."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups)
    nn.init.kaiming_normal_(conv.weight, a=SLOPE)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def mixing(width: int, groups: int) -> nn.Module:
    """A 3x3 convolution of ``width`` channels: in one piece, or in ``groups`` that a 1x1 convolution mixes after it.

    As many groups as channels make it depthwise separable.
    """
    if groups == 1:
        return convolution(width, width)
    parts = convolution(width, width, groups=groups), convolution(width, width, kernel=1)
    nn.init.kaiming_normal_(parts[0].weight, nonlinearity="linear")  # no ReLU stands between the two
    return nn.Sequential(*parts)


class ResidualBlock(nn.Module):
    """conv - ReLU - conv + x, without normalisation, ``(N, width, h, w) -> (N, width, h, w)``.

    Args:
        width: channels.
        groups: of its convolutions, see `mixing`.
    """

    def __init__(self, width: int, groups: int = 1) -> None:
        super().__init__()
        self.conv1, self.conv2 = mixing(width, groups), mixing(width, groups)
        # a residual branch that starts small keeps the scale of features over any number of blocks
        last = [m for m in self.conv2.modules() if isinstance(m, nn.Conv2d)][-1]
        nn.init.normal_(last.weight, std=0.1 * (2 / last.weight[0].numel()) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Add the block's correction to x."""
        return x + self.conv2(F.relu(self.conv1(x)))


class Upsampler(nn.Module, abc.ABC):
    """What turns P3 into P3' (see the top of this file)."""

    @abc.abstractmethod
    def forward(self, p3: Tensor, p2: Tensor) -> Tensor:
        """Super-resolve P3 with P2 as reference."""


class TwoStage(Upsampler):
    """An upsampler in two stages that see a known number of cells around, so that it can be run on a part of the maps.

    The first stage works on P3 at its own resolution, the second at that of P3'. What is promised here is tried out
    when a model is built (`efpn.pyramid.tiles.why_whole`).
    """

    reach: tuple[int, int]  # cells that the stages see to each side, of P3 and of P3'
    work: tuple[int, int]  # multiply-adds of the stages for each cell of P3

    @abc.abstractmethod
    def content_of(self, p3: Tensor) -> Tensor:
        """First stage: ``(N, C, H/8, W/8)`` to ``(N, any, H/4, W/4)``."""

    @abc.abstractmethod
    def texture_of(self, p3: Tensor, p2: Tensor, content: Tensor) -> Tensor:
        """Second stage: P3' ``(N, C, H/4, W/4)``."""

    def forward(self, p3: Tensor, p2: Tensor) -> Tensor:
        """Both stages on the whole maps."""
        return self.texture_of(p3, p2, self.content_of(p3))


class FTT(TwoStage):
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
        reduction: kernel of the convolution that brings P2 and the content to ``width`` before Et (the release: 3).
        groups: of the convolutions of the residual blocks and the tail, see `mixing`.

    Raises:
        UserError: ``groups`` does not divide ``width``.
    """

    def __init__(
        self,
        channels: int = 256,
        width: int = 128,
        blocks: int = 2,
        outer_skip: bool = True,
        tail: bool = True,
        reduction: int = 3,
        groups: int = 1,
    ) -> None:
        super().__init__()
        if width % groups:
            raise UserError(f"extension.upsampler.groups={groups}: must divide the width, {width}; use 1 or {width}")
        self.outer_skip = outer_skip
        content = [ResidualBlock(width, groups) for _ in range(blocks)]
        texture = [ResidualBlock(width, groups) for _ in range(blocks)]
        reduce = convolution(channels + width, width, reduction)
        self.content = nn.Sequential(convolution(channels, width), nn.LeakyReLU(SLOPE), *content)
        self.subpixel = nn.Sequential(convolution(width, 4 * width), nn.PixelShuffle(2), nn.LeakyReLU(SLOPE))
        self.texture = nn.Sequential(reduce, nn.LeakyReLU(SLOPE), *texture)
        self.tail = nn.Sequential(mixing(width, groups), nn.LeakyReLU(SLOPE)) if tail else nn.Identity()
        self.output = convolution(width, channels)
        coarse, fine = (self.content, self.subpixel), (self.texture, self.tail, self.output)
        self.reach = (sum(map(reach, coarse)), sum(map(reach, fine)))
        self.work = (sum(map(weights, coarse)), 4 * sum(map(weights, fine)))
        if outer_skip:
            nn.init.zeros_(self.output.weight)

    def content_of(self, p3: Tensor) -> Tensor:
        """First stage: Ec(P3) at twice the resolution, ``(N, width, H/4, W/4)``."""
        return self.subpixel(self.content(p3))

    def texture_of(self, p3: Tensor, p2: Tensor, content: Tensor) -> Tensor:
        """Second stage: P3' from the first one's result, P2, and P3 for the outer skip."""
        texture = self.texture(torch.cat([p2, content], dim=1))
        p3_ext = self.output(self.tail(texture + content))  # eq. 3
        return p3_ext + upsample2x(p3) if self.outer_skip else p3_ext


class ESPCN(TwoStage):
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
            nn.Conv2d(channels, first, 5, padding=2), nn.Tanh(), convolution(first, second), nn.Tanh()
        )
        self.output = convolution(second, 4 * channels)
        self.reach, self.work = (reach(self), 0), (weights(self), 0)
        if outer_skip:
            nn.init.zeros_(self.output.weight)

    def content_of(self, p3: Tensor) -> Tensor:
        """First stage, and all of the work: P3' without its outer skip."""
        return F.pixel_shuffle(self.output(self.layers(p3)), 2)

    def texture_of(self, p3: Tensor, p2: Tensor, content: Tensor) -> Tensor:
        """Second stage: the outer skip; P2 is not looked at."""
        return content + upsample2x(p3) if self.outer_skip else content


class Nearest(TwoStage):
    """Nearest-neighbour upsampling: EFPN "w/o FTT" of Table III. No parameters; ``blocks`` above 0 refine P3 first.

    With a few residual blocks it stands in for what is above the last stage of a second pass: P5 of the 2x image is at
    the resolution of P4 where that is stage 4 (P4 at that of P3 where it is stage 3), and holds more context.

    Args:
        channels: depth C of P3 and P3'.
        blocks: residual blocks on the map that it is fed.
    """

    def __init__(self, channels: int = 256, blocks: int = 0) -> None:
        super().__init__()
        self.refine = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))
        self.reach, self.work = (reach(self), 0), (weights(self), 0)

    def content_of(self, p3: Tensor) -> Tensor:
        """First stage, and all of the work: every cell of P3, refined, 2x2 times."""
        return upsample2x(self.refine(p3))

    def texture_of(self, p3: Tensor, p2: Tensor, content: Tensor) -> Tensor:
        """Nothing is left to do."""
        return content


def upsample2x(x: Tensor) -> Tensor:
    """Nearest-neighbour upsampling by two, the arrow of eq. 1."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
