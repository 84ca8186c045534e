"""The extension of the pyramid by one level below: P3' and P2' (Sec. III-A)."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from efpn.errors import UserError
from efpn.pyramid.detail import Fine
from efpn.pyramid.fpn import FPN, Pyramid, extended_levels
from efpn.pyramid.upsamplers import TwoStage, Upsampler, upsample2x

if TYPE_CHECKING:
    from efpn.pyramid.neck import EFPNBackbone

Source = Literal["inner", "output"]


class Extension(nn.Module):
    """P2' = post(P3' upsampled + lateral(C2')), eq. 1, with P3' from P3 by an upsampler.

    The paper's form takes P3' from the upsampler alone (FTT, ESPCN or nearest). With ``c3_channels`` the FPN is
    continued as it is built, by a lateral on C3' too: P3' = lateral3(C3') + upsampler(P3, P2), where the upsampler
    stands in for the upsampled P4 of the 2x image. Where the upsampler works on parts of a map (`TwoStage`), so does
    the whole extension.

    Args:
        upsampler: ``(p3, p2) -> p3_ext``.
        c2_channels: depth of C2' (256 in ResNet-50).
        channels: depth C of the pyramid.
        source: which maps of the pyramid feed the upsampler: ``inner`` (before the FPN's output convolution; the
            release) or ``output``.
        post_conv: a 3x3 convolution on P2' as on every other FPN level; False is eq. 1 to the letter.
        c3_channels: depth of C3' (512 in ResNet-50), to be read by a lateral; None for the paper's form.

    Raises:
        UserError: an upsampler that does not give P3' (`check_upsampler`).
    """

    def __init__(
        self,
        upsampler: Upsampler,
        c2_channels: int,
        channels: int,
        source: Source = "inner",
        post_conv: bool = True,
        c3_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.source = source
        self.upsampler = upsampler
        self.lateral = nn.Conv2d(c2_channels, channels, 1)
        self.lateral3 = nn.Conv2d(c3_channels, channels, 1) if c3_channels else None
        self.post = nn.Conv2d(channels, channels, 3, padding=1) if post_conv else nn.Identity()
        self.levels = extended_levels(channels)
        check_upsampler(upsampler, channels)

    def forward(self, p3: Tensor, p2: Tensor, c2_ext: Tensor, c3_ext: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Build the extended levels.

        Args:
            p3: ``(N, C, H/8, W/8)``.
            p2: ``(N, C, H/4, W/4)``.
            c2_ext: C2' ``(N, C2, H/2, W/2)``.
            c3_ext: C3' ``(N, C3, H/4, W/4)``, where a lateral reads it.

        Returns:
            P3' ``(N, C, H/4, W/4)`` and P2' ``(N, C, H/2, W/2)``.
        """
        p3_ext = self.with_c3(self.upsampler(p3, p2), c3_ext)
        return p3_ext, self.merge(upsample2x(p3_ext), c2_ext)

    def with_c3(self, upsampled: Tensor, c3_ext: Tensor | None) -> Tensor:
        """P3' from what the upsampler gives, ``(N, C, H/4, W/4)``, and C3'."""
        return upsampled if self.lateral3 is None else upsampled + self.lateral3(c3_ext)

    def merge(self, upsampled: Tensor, c2_ext: Tensor) -> Tensor:
        """P2' from P3' upsampled, ``(N, C, H/2, W/2)``, and C2' (eq. 1)."""
        return self.post(upsampled + self.lateral(c2_ext))

    def extend(self, backbone: EFPNBackbone, pyramid: Pyramid, fine: Fine) -> tuple[Tensor, Tensor]:
        """Build P3' and P2' whole, from one pass of the backbone."""
        maps = self.sources(pyramid)
        stage2, stage3, *_ = backbone.body.stages
        c2_ext = stage2(fine.entry(fine.map))
        return self(maps["p3"], maps["p2"], c2_ext, stage3(c2_ext) if self.lateral3 else None)

    def sources(self, pyramid: Pyramid) -> dict[str, Tensor]:
        """The maps that feed the upsampler; P3 of the 2x pass from here is the target of P3'."""
        return getattr(pyramid, self.source)

    def targets(self, pyramid_2x: Pyramid) -> tuple[Tensor, Tensor]:
        """What P3' and P2' should be, read from the same network's pass on the 2x image (eq. 5)."""
        return self.sources(pyramid_2x)["p3"], pyramid_2x.output["p2"]

    def start_from(self, fpn: FPN) -> None:
        """Copy the FPN's own lateral and output convolutions: P2' begins as the FPN continued by one level."""
        self.lateral.load_state_dict(fpn.inner_blocks[0][0].state_dict())
        if self.lateral3 is not None:
            self.lateral3.load_state_dict(fpn.inner_blocks[1][0].state_dict())
        if isinstance(self.post, nn.Conv2d):
            self.post.load_state_dict(fpn.layer_blocks[0][0].state_dict())


class WholePass(nn.Module):
    """P2' is P2 of a whole second pass of backbone and FPN: the bound that an extension imitates. Nothing is learned.

    On the 2x image this is FPN-1x + P2-2x of Table III; on the 1x image doubled it is what the 1x pixels allow.

    Args:
        channels: depth of the pyramid; those of C2' and C3', which an `Extension` is built with, are not read.
        c2_channels: see there.
        c3_channels: see there.
    """

    source: Source = "inner"  # which map is given as P3', see `Extension`

    def __init__(self, channels: int, c2_channels: int | None = None, c3_channels: int | None = None) -> None:
        super().__init__()
        self.levels = extended_levels(channels)

    def extend(self, backbone: EFPNBackbone, pyramid: Pyramid, fine: Fine) -> tuple[Tensor, Tensor]:
        """P3 and P2 of the pass on ``fine.map``.

        Raises:
            UserError: that is no image.
        """
        if fine.cells == 1:
            raise UserError("WholePass runs on an image of twice the size: give detail=doubled or image_2x")
        second = backbone.pyramid(fine.map)
        return second.inner["p3"], second.output["p2"]

    def start_from(self, fpn: FPN) -> None:
        """There is nothing to start."""


def make_extension(
    upsampler: Callable[..., Upsampler],
    c2_channels: int,
    c3_channels: int,
    channels: int,
    c3: bool = False,
    **more: Any,
) -> Extension:
    """Build an `Extension` around an upsampler class that takes the pyramid's ``channels``.

    Args:
        upsampler: the class, or a partial of it.
        c2_channels: depth of C2'.
        c3_channels: depth of C3'.
        channels: depth of the pyramid.
        c3: read C3' too.
        more: options of `Extension`.

    Raises:
        UserError: the class does not take ``channels``, or asks for more than it was given.
    """
    try:
        inspect.signature(upsampler).bind(channels=channels)
    except TypeError as error:
        name = getattr(upsampler, "func", upsampler).__name__
        fix = "let its __init__ take channels, the pyramid's depth"
        raise UserError(f"extension.upsampler: {name} is built with channels={channels}, but {error}; {fix}") from None
    return Extension(
        upsampler(channels=channels), c2_channels, channels, c3_channels=c3_channels if c3 else None, **more
    )


@torch.no_grad()
def check_upsampler(upsampler: nn.Module, channels: int) -> None:
    """Try an upsampler on blank maps of ``channels``.

    Raises:
        UserError: what it gives is not of P3's depth and twice its resolution, or a `TwoStage` does not say how far it
            sees.
    """
    name = type(upsampler).__name__
    silent = [one for one in ("reach", "work") if isinstance(upsampler, TwoStage) and not hasattr(upsampler, one)]
    if silent:
        raise UserError(f"extension.upsampler: {name} does not set {' and '.join(silent)}, as a TwoStage has to")
    p3, p2 = torch.zeros(1, channels, 8, 8), torch.zeros(1, channels, 16, 16)
    given_to = f"P3 {(*p3.shape,)} and P2 {(*p2.shape,)}"
    try:
        made = copy.deepcopy(upsampler).eval()(p3, p2)
    except RuntimeError as error:  # torch's, of shapes that do not fit inside
        raise UserError(f"extension.upsampler: {name} fails on {given_to}: {error}") from error
    if not isinstance(made, Tensor) or made.shape != p2.shape:
        said = (*made.shape,) if isinstance(made, Tensor) else type(made).__name__
        raise UserError(
            f"extension.upsampler: {name} makes {said} of {given_to}; P3' has the depth of P3 and twice its "
            f"resolution, {(*p2.shape,)}"
        )
