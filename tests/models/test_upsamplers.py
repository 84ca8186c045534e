"""FTT (eq. 3), sub-pixel convolution (eq. 4), ESPCN and nearest."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from efpn.models import ESPCN, FTT, Nearest

UPSAMPLERS = {
    "ftt": lambda: FTT(channels=8, width=12),
    "espcn": lambda: ESPCN(channels=8, widths=(6, 4)),
    "nearest": lambda: Nearest(channels=8),
}


@pytest.mark.parametrize("name", UPSAMPLERS)
def test_doubles_the_resolution_of_p3(name: str) -> None:
    p3x = UPSAMPLERS[name]()(torch.rand(2, 8, 5, 7), torch.rand(2, 8, 10, 14))
    assert p3x.shape == (2, 8, 10, 14)


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


@pytest.mark.parametrize("name", ["ftt", "espcn"])
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
