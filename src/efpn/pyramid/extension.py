"""The extension of the pyramid by one level below: P3' and P2' (Sec. III-A)."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

import torch
from torch import Tensor, nn

from efpn.errors import UserError
from efpn.pyramid.backbones import Backbone
from efpn.pyramid.detail import Fine
from efpn.pyramid.fpn import FPN, Pyramid, extended_levels
from efpn.pyramid.upsamplers import TwoStage, Upsampler, upsample2x

if TYPE_CHECKING:
    from efpn.pyramid.neck import EFPNBackbone

Source = Literal["inner", "output"]
LAST: Final = 5  # stage of a backbone


class Extension(nn.Module):
    """P2' = post(P3' upsampled + lateral(C2')), eq. 1, with P3' from P3 by an upsampler.

    The paper's form takes P3' from the upsampler alone (FTT, ESPCN or nearest). Where a second pass of the backbone
    goes on to a later stage, the FPN is continued as it is built, by laterals on C3' and so on:
    Pn' = lateral(Cn') + P(n+1)' upsampled. Above the last of them the upsampler stands in for the pyramid of the 2x
    image: what it makes of P3 for P4 of that image, what it makes of P4 for P5. After stage 5 there is nothing above,
    and P2' is that of the whole second pass. Where the upsampler works on parts of a map (`TwoStage`), so does the
    whole extension.

    Args:
        upsampler: ``(p3, p2) -> p3_ext``, or the same of P4 and P3 where stage 4 is the last; None where stage 5 is.
        stage_channels: depths of C2', C3' ... (256, 512 ... in ResNet-50), one for each stage of the second pass; that
            of C2' alone is the paper's form.
        channels: depth C of the pyramid.
        source: which maps of the pyramid feed the upsampler: ``inner`` (before the FPN's output convolution; the
            release) or ``output``.
        post_conv: a 3x3 convolution on P2' as on every other FPN level; False is eq. 1 to the letter.
        margin: on tiles, the most that anything of the extension sees around a tile (each stage of the second pass and
            of the upsampler, the last convolution), in cells of what it reads, a stage that halves the resolution an
            even number; 0 makes a tile of what lies under it alone, None is what its receptive field asks for, which
            is exact.

    Attributes:
        last_stage: of the second pass, 2 to 5.

    Raises:
        UserError: an upsampler that does not give P3' (`check_upsampler`), none where one is needed, or one too many.
    """

    def __init__(
        self,
        upsampler: Upsampler | None,
        stage_channels: Sequence[int],
        channels: int,
        source: Source = "inner",
        post_conv: bool = True,
        margin: int | None = None,
    ) -> None:
        super().__init__()
        if margin is not None and margin < 0:
            raise UserError(f"extension.margin={margin}: must be at least 0, or null for all that is seen")
        self.source, self.margin = source, margin
        self.upsampler = upsampler
        self.laterals = nn.ModuleList(nn.Conv2d(depth, channels, 1) for depth in stage_channels)
        self.last_stage = len(stage_channels) + 1
        self.post = nn.Conv2d(channels, channels, 3, padding=1) if post_conv else nn.Identity()
        self.levels = extended_levels(channels)
        if (upsampler is None) != (self.last_stage == LAST):
            fault = "nothing is above to stand in for" if upsampler else "something must stand in for what is above"
            raise UserError(f"extension.upsampler: with last_stage={self.last_stage} {fault}")
        if upsampler is not None:
            check_upsampler(upsampler, channels)

    @property
    def fed(self) -> int:
        """n of the level Pn of the pyramid that feeds the upsampler."""
        return max(self.last_stage, 3)

    def forward(self, maps: Mapping[str, Tensor], stages: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Build the extended levels.

        Args:
            maps: of the pyramid, see `sources`; P3 is ``(N, C, H/8, W/8)``.
            stages: C2' ``(N, C2, H/2, W/2)``, C3' ``(N, C3, H/4, W/4)`` and so on, as many as laterals.

        Returns:
            P3' ``(N, C, H/4, W/4)`` and P2' ``(N, C, H/2, W/2)``.
        """
        above = self.upsampler(maps[f"p{self.fed}"], maps[f"p{self.fed - 1}"]) if self.upsampler is not None else None
        for number in range(self.last_stage, 2, -1):
            above = self.merged(number, stages[number - 2], above)
            if number > 3:
                above = upsample2x(above)
        assert above is not None, "without an upsampler stage 5 is the last"
        return above, self.merged(2, stages[0], upsample2x(above))

    def merged(self, number: int, stage: Tensor, above: Tensor | None) -> Tensor:
        """Pn' from Cn' and the level above it at its own resolution; P2' of them is eq. 1."""
        lateral = self.laterals[number - 2](stage)
        both = lateral if above is None else lateral + above
        return self.post(both) if number == 2 else both

    def extend(self, backbone: EFPNBackbone, pyramid: Pyramid, fine: Fine) -> tuple[Tensor, Tensor]:
        """Build P3' and P2' whole, from one pass of the backbone."""
        return self(self.sources(pyramid), self.second_pass(backbone.body, fine))

    def second_pass(self, body: Backbone, fine: Fine) -> list[Tensor]:
        """C2', C3' ... of a batch, as far as the laterals read them."""
        stages, x = [], fine.entry(fine.map)
        for stage in body.stages[: self.last_stage - 1]:
            x = stage(x)
            stages.append(x)
        return stages

    def sources(self, pyramid: Pyramid) -> dict[str, Tensor]:
        """The maps that feed the upsampler; P3 of the 2x pass from here is the target of P3'."""
        return getattr(pyramid, self.source)

    def targets(self, pyramid_2x: Pyramid) -> tuple[Tensor, Tensor]:
        """What P3' and P2' should be, read from the same network's pass on the 2x image (eq. 5)."""
        return self.sources(pyramid_2x)["p3"], pyramid_2x.output["p2"]

    def start_from(self, fpn: FPN) -> None:
        """Copy the FPN's own lateral and output convolutions: P2' begins as the FPN continued by one level."""
        for lateral, block in zip(self.laterals, fpn.inner_blocks, strict=False):
            lateral.load_state_dict(block[0].state_dict())
        if isinstance(self.post, nn.Conv2d):
            self.post.load_state_dict(fpn.layer_blocks[0][0].state_dict())


class WholePass(nn.Module):
    """P2' is P2 of a whole second pass of backbone and FPN: the bound that an extension imitates. Nothing is learned.

    On the 2x image this is FPN-1x + P2-2x of Table III; on the 1x image doubled it is what the 1x pixels allow.

    Args:
        channels: depth of the pyramid.
        stage_channels: those of the backbone's stages, which an `Extension` is built with; not read.
    """

    source: Source = "inner"  # which map is given as P3', see `Extension`

    def __init__(self, channels: int, stage_channels: Sequence[int] = ()) -> None:
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
    upsampler: Callable[..., Upsampler] | None,
    stage_channels: Sequence[int],
    channels: int,
    last_stage: int = 2,
    source: Source = "inner",
    post_conv: bool = True,
    margin: int | None = None,
) -> Extension:
    """Build an `Extension` around an upsampler class that takes the pyramid's ``channels``.

    Args:
        upsampler: the class, or a partial of it; not built where stage 5 is the last, as nothing is above it.
        stage_channels: depths of the backbone's stages, C2 first.
        channels: depth of the pyramid.
        last_stage: of the second pass, 2 (the paper's, C2' alone) to 5.
        source, post_conv, margin: see `Extension`; by name, for what a config may say is read from this signature.

    Raises:
        UserError: no such stage, no upsampler where one is needed, or a class that does not take ``channels``, or asks
            for more than it was given.
    """
    if last_stage not in range(2, LAST + 1):
        raise UserError(f"extension.last_stage={last_stage}: a second pass ends after stage 2 to {LAST}")
    read = stage_channels[: last_stage - 1]
    if last_stage == LAST:
        upsampler = None
    build = partial(
        Extension, stage_channels=read, channels=channels, source=source, post_conv=post_conv, margin=margin
    )
    if upsampler is None:
        return build(None)  # which says that something is missing
    try:
        inspect.signature(upsampler).bind(channels=channels)
    except TypeError as error:
        name = getattr(upsampler, "func", upsampler).__name__
        fix = "let its __init__ take channels, the pyramid's depth"
        raise UserError(f"extension.upsampler: {name} is built with channels={channels}, but {error}; {fix}") from None
    return build(upsampler(channels=channels))


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
