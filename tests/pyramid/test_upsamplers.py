"""FTT (eq. 3), sub-pixel convolution (eq. 4), ESPCN and nearest."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from efpn.errors import UserError
from efpn.models import ESPCN, FTT, Extension, Nearest, TwoStage, Upsampler, make_extension
from efpn.pyramid.upsamplers import weights

UPSAMPLERS = {
    "ftt": lambda: FTT(channels=8, width=12),
    "ftt, grouped": lambda: FTT(channels=8, width=12, groups=3, reduction=1),
    "ftt, separable": lambda: FTT(channels=8, width=12, groups=12),
    "espcn": lambda: ESPCN(channels=8, widths=(6, 4)),
    "nearest": lambda: Nearest(channels=8),
}


@pytest.mark.parametrize("name", UPSAMPLERS)
def test_doubles_the_resolution_of_p3(name: str) -> None:
    p3_ext = UPSAMPLERS[name]()(torch.rand(2, 8, 5, 7), torch.rand(2, 8, 10, 14))
    assert p3_ext.shape == (2, 8, 10, 14)


class Same(Upsampler):
    """P3 as it is, which is no P3'."""

    def forward(self, p3: torch.Tensor, p2: torch.Tensor) -> torch.Tensor:
        return p3


class Silent(TwoStage):
    """Says nothing of how far it sees."""

    def content_of(self, p3: torch.Tensor) -> torch.Tensor:
        return p3

    def texture_of(self, p3: torch.Tensor, p2: torch.Tensor, content: torch.Tensor) -> torch.Tensor:
        return p2


class Shallow(Upsampler):
    """Of another depth than the pyramid."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(4, 4, 1)

    def forward(self, p3: torch.Tensor, p2: torch.Tensor) -> torch.Tensor:
        return self.layer(p2)


@pytest.mark.parametrize(
    "wrong, said",
    [
        (Same, r"Same makes \(1, 8, 8, 8\) of P3 \(1, 8, 8, 8\) and .*twice its resolution, \(1, 8, 16, 16\)"),
        (Shallow, r"Shallow fails on P3 \(1, 8, 8, 8\) and P2 \(1, 8, 16, 16\): .*to have 4 channels"),
        (Silent, "Silent does not set reach and work, as a TwoStage has to"),
    ],
)
def test_one_that_gives_no_p3_ext_is_named(wrong: type[Upsampler], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Extension(wrong(), [16], 8)


@pytest.mark.parametrize("name", UPSAMPLERS)
def test_begins_as_p3_upsampled(name: str) -> None:
    p3 = torch.rand(1, 8, 4, 4)
    torch.testing.assert_close(UPSAMPLERS[name]()(p3, torch.rand(1, 8, 8, 8)), F.interpolate(p3, scale_factor=2.0))


def test_pixel_shuffle_is_equation_4_up_to_the_order_of_channels() -> None:
    r, depth = 2, 3
    f = torch.rand(1, depth * r * r, 4, 5)
    # eq. 4 reads channel C*r*mod(y,r) + C*mod(x,r) + c; torch's shuffle reads c*r*r + r*mod(y,r) + mod(x,r)
    order = [depth * r * dy + depth * dx + c for c in range(depth) for dy in range(r) for dx in range(r)]
    shuffled = nn.PixelShuffle(r)(f[:, order])
    for c in range(depth):
        for y in range(4 * r):
            for x in range(5 * r):
                expected = f[0, depth * r * (y % r) + depth * (x % r) + c, y // r, x // r]
                assert shuffled[0, c, y, x] == expected


def test_equation_3_by_its_parts() -> None:
    ftt = FTT(channels=4, width=4, outer_skip=False, tail=False)
    p3, p2 = torch.rand(1, 4, 3, 3), torch.rand(1, 4, 6, 6)
    content = ftt.subpixel(ftt.content(p3))
    texture = ftt.texture(torch.cat([p2, content], dim=1))
    torch.testing.assert_close(ftt(p3, p2), ftt.output(texture + content))


def test_ftt_reads_its_reference_and_espcn_does_not() -> None:
    p3, one, other = torch.rand(1, 8, 4, 4), torch.rand(1, 8, 8, 8), torch.rand(1, 8, 8, 8)
    ftt, espcn = FTT(channels=8, width=8, outer_skip=False), ESPCN(channels=8, outer_skip=False)
    assert not torch.allclose(ftt(p3, one), ftt(p3, other))
    assert torch.equal(espcn(p3, one), espcn(p3, other))


def test_blocks_is_the_number_of_residual_blocks_in_each_extractor() -> None:
    one, two = (sum(p.numel() for p in FTT(8, 8, blocks=b).parameters()) for b in (1, 2))
    residual_block = 2 * (8 * 8 * 9 + 8)
    assert two - one == 2 * residual_block


def test_cheaper_forms_by_hand() -> None:
    """Multiply-adds for a cell of P3: content and sub-pixel once, the rest on four cells of P3'."""
    head, block, tail, output = 8 * 12 * 9, 2 * 12 * 12 * 9, 12 * 12 * 9, 12 * 8 * 9
    subpixel, reduce = 12 * 48 * 9, (8 + 12) * 12 * 9
    assert FTT(8, 12).work == (head + 2 * block + subpixel, 4 * (reduce + 2 * block + tail + output))
    reduced = FTT(8, 12, reduction=1)
    assert reduced.work[1] == FTT(8, 12).work[1] - 4 * 8 * (8 + 12) * 12
    assert reduced.reach == (6, 6) and FTT(8, 12).reach == (6, 7)
    split = FTT(8, 12, groups=3)
    block, tail = 2 * (12 * 4 * 9 + 12 * 12), 12 * 4 * 9 + 12 * 12
    assert split.work == (head + 2 * block + subpixel, 4 * (reduce + 2 * block + tail + output))
    assert weights(FTT(8, 12, groups=12).tail) == 12 * 9 + 12 * 12
    assert split.reach == FTT(8, 12).reach


def test_groups_have_to_divide_the_width() -> None:
    with pytest.raises(UserError, match=r"extension\.upsampler\.groups=5: must divide the width, 12"):
        FTT(8, 12, groups=5)


@pytest.mark.parametrize("name", ["ftt", "ftt, grouped", "ftt, separable", "espcn"])
def test_every_parameter_gets_a_gradient_and_moves(name: str) -> None:
    upsampler = UPSAMPLERS[name]()
    before = {key: value.clone() for key, value in upsampler.named_parameters()}
    optimizer = torch.optim.SGD(upsampler.parameters(), lr=0.1)
    for _ in range(3):  # the output convolution starts at zero: the first step reaches it alone
        optimizer.zero_grad()
        p3, p2 = torch.rand(2, 8, 4, 4), torch.rand(2, 8, 8, 8)
        (upsampler(p3, p2) - torch.rand(2, 8, 8, 8)).square().mean().backward()
        optimizer.step()
    for key, value in upsampler.named_parameters():
        assert value.grad is not None and value.grad.abs().sum() > 0, key
        assert not torch.equal(value, before[key]), key


@pytest.mark.parametrize(
    "upsampler, stages, said",
    [
        (None, [8, 8], "with last_stage=3 something must stand in"),
        (Nearest(), [8] * 4, "last_stage=5 nothing is above"),
    ],
)
def test_an_upsampler_too_few_or_too_many_is_named(upsampler: Nearest | None, stages: list[int], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Extension(upsampler, stages, 8)
    with pytest.raises(UserError, match="with last_stage=4 something must stand in"):
        make_extension(None, [8] * 4, 8, last_stage=4)
    with pytest.raises(UserError, match="last_stage=6: a second pass ends after stage 2 to 5"):
        make_extension(Nearest, [8] * 4, 8, last_stage=6)


def test_an_upsampler_that_cannot_be_built_says_why() -> None:
    with pytest.raises(UserError, match=r"upsampler: Shallow is built with channels=8, but .*'channels'"):
        make_extension(Shallow, [8, 8, 8, 8], channels=8)
