"""The extension of the pyramid by one level below: P3' and P2' (Sec. III-A)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from efpn.errors import UserError
from efpn.models.fpn import FPN, Pyramid
from efpn.models.upsamplers import Upsampler, upsample2x
from efpn.types import LevelSpec


class Extension(nn.Module):
    """P2' = post(P3' upsampled + lateral(C2')), with P3' from an upsampler (FTT, ESPCN or nearest); eq. 1.

    Purely convolutional: it runs on a whole map or on a window of it.

    Args:
        upsampler: ``(p3, p2) -> p3x``.
        c2_channels: depth of C2' (256 in ResNet-50).
        channels: depth C of the pyramid.
        source: which maps of the pyramid feed the upsampler: ``inner`` (before the FPN's output convolution; the
            release) or ``output``.
        post_conv: a 3x3 convolution on P2' as on every other FPN level; False is eq. 1 to the letter.
    """

    def __init__(
        self,
        upsampler: Upsampler,
        c2_channels: int,
        channels: int,
        source: Literal["inner", "output"] = "inner",
        post_conv: bool = True,
    ) -> None:
        super().__init__()
        if source not in ("inner", "output"):
            raise UserError(f"extension.source={source}: unknown; use inner or output")
        self.source = source
        self.upsampler = upsampler
        self.lateral = nn.Conv2d(c2_channels, channels, 1)
        self.post = nn.Conv2d(channels, channels, 3, padding=1) if post_conv else nn.Identity()
        self.levels = (LevelSpec("p3x", 4, channels), LevelSpec("p2x", 2, channels))

    def forward(self, p3: Tensor, p2: Tensor, c2x: Tensor) -> tuple[Tensor, Tensor]:
        """Build the extended levels.

        Args:
            p3: ``(N, C, H/8, W/8)``.
            p2: ``(N, C, H/4, W/4)``.
            c2x: C2' ``(N, C2, H/2, W/2)``.

        Returns:
            P3' ``(N, C, H/4, W/4)`` and P2' ``(N, C, H/2, W/2)``.
        """
        p3x = self.upsampler(p3, p2)
        return p3x, self.merge(upsample2x(p3x), c2x)

    def merge(self, upsampled: Tensor, c2x: Tensor) -> Tensor:
        """P2' from P3' upsampled, ``(N, C, H/2, W/2)``, and C2' (eq. 1)."""
        return self.post(upsampled + self.lateral(c2x))

    def extend(self, pyramid: Pyramid) -> tuple[Tensor, Tensor]:
        """Read this extension's inputs from a pyramid and build P3' and P2'."""
        maps = self.sources(pyramid)
        assert pyramid.c2x is not None, "the trunk was run without extended=True"
        return self(maps["p3"], maps["p2"], pyramid.c2x)

    def sources(self, pyramid: Pyramid) -> dict[str, Tensor]:
        """The maps that feed the upsampler; P3 of the 2x pass from here is the target of P3'."""
        return pyramid.inner if self.source == "inner" else pyramid.output

    def targets(self, pyramid_2x: Pyramid) -> tuple[Tensor, Tensor]:
        """What P3' and P2' should be, read from the same network's pass on the 2x picture (eq. 5)."""
        return self.sources(pyramid_2x)["p3"], pyramid_2x.output["p2"]

    def start_from(self, fpn: FPN) -> None:
        """Copy the FPN's own level-2 lateral and output convolutions: P2' begins as the FPN continued by one level."""
        self.lateral.load_state_dict(fpn.inner_blocks[0][0].state_dict())
        if isinstance(self.post, nn.Conv2d):
            self.post.load_state_dict(fpn.layer_blocks[0][0].state_dict())
