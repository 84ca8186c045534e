"""Eqs. 5 to 8 by hand-computed values."""

from __future__ import annotations

import pytest
import torch

from efpn.errors import UserError
from efpn.losses import DualLoss, balanced_loss, global_loss, positive_loss, positive_mask
from efpn.types import LevelSpec


def test_positive_mask_snaps_outwards_and_counts_overlaps_once() -> None:
    boxes = [torch.tensor([[4.0, 4.0, 7.9, 8.0], [6.0, 4.0, 9.0, 8.0]]), torch.zeros(0, 4)]
    mask = positive_mask(boxes, stride=4, height=3, width=4)
    assert mask.shape == (2, 1, 3, 4)
    # 4..7.9 covers column 1; 6..9 covers columns 1 and 2; both only row 1
    assert mask[0, 0].int().tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert not mask[1].any()


def test_positive_mask_clips_to_the_map() -> None:
    mask = positive_mask([torch.tensor([[-5.0, -5.0, 100.0, 3.0]])], stride=2, height=3, width=3)
    assert mask[0, 0].int().tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0]]


def test_equation_6_is_a_mean() -> None:
    f, t = torch.zeros(1, 2, 2, 2), torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[-1.0, 0.0], [0.0, 1.0]]]])
    assert global_loss(f, t).item() == pytest.approx(12 / 8)


def test_equation_7_is_a_mean_over_positive_pixels_and_channels() -> None:
    f, t = torch.zeros(1, 2, 2, 2), torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[-1.0, 0.0], [0.0, 1.0]]]])
    mask = torch.tensor([[[[True, False], [False, True]]]])
    # pixels (0,0): (1 + 1) / 2 and (1,1): (4 + 1) / 2; their mean
    assert positive_loss(f, t, mask).item() == pytest.approx((1.0 + 2.5) / 2)


def test_equation_8_weighs_with_lambda() -> None:
    f, t = torch.zeros(1, 1, 1, 2), torch.tensor([[[[2.0, 4.0]]]])
    mask = torch.tensor([[[[False, True]]]])
    terms = balanced_loss(f, t, mask, lambda_pos=0.5)
    assert (terms["glob"].item(), terms["pos"].item(), terms["fbb"].item()) == (3.0, 4.0, 5.0)


def test_an_image_without_boxes_adds_nothing_to_the_positive_loss() -> None:
    f = torch.rand(1, 2, 4, 4, requires_grad=True)
    loss = positive_loss(f, torch.rand(1, 2, 4, 4), torch.zeros(1, 1, 4, 4, dtype=torch.bool))
    assert loss.item() == 0
    loss.backward()
    assert f.grad is not None and not f.grad.any()


LEVELS = (LevelSpec("p3_ext", 4, 3), LevelSpec("p2_ext", 2, 3))


def levels() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(1, 3, 8, 8), torch.rand(1, 3, 16, 16)


def test_a_perfect_copy_costs_nothing() -> None:
    features = levels()
    losses = DualLoss()(features, features, [torch.tensor([[4.0, 4.0, 20.0, 20.0]])], LEVELS)
    assert all(value.item() == 0 for value in losses.values())


def test_equation_5_adds_both_levels() -> None:
    features, targets, boxes = levels(), levels(), [torch.tensor([[4.0, 4.0, 20.0, 20.0]])]
    losses = DualLoss(lambda_pos=2.0)(features, targets, boxes, LEVELS)
    expected = sum(
        balanced_loss(f, t, positive_mask(boxes, stride, *f.shape[-2:]), 2.0)["fbb"]
        for f, t, stride in zip(features, targets, (4, 2), strict=True)
    )
    torch.testing.assert_close(losses["loss"], expected)


def test_strides_are_those_of_the_levels() -> None:
    features, targets, boxes = levels(), levels(), [torch.tensor([[4.0, 4.0, 20.0, 20.0]])]
    finer = (LevelSpec("p3_ext", 2, 3), LevelSpec("p2_ext", 1, 3))  # the same boxes cover more cells
    losses = DualLoss()(features, targets, boxes, finer)
    expected = positive_loss(features[1], targets[1], positive_mask(boxes, 1, *features[1].shape[-2:]))
    torch.testing.assert_close(losses["pos_p2_ext"], expected)


def test_table_4_without_dual_supervision_leaves_p3x_alone() -> None:
    features, targets = levels(), levels()
    losses = DualLoss(lambda_pos=0.0, on_p3_ext=False)(features, targets, [torch.zeros(0, 4)], LEVELS)
    torch.testing.assert_close(losses["loss"], global_loss(features[1], targets[1]))
    assert not any(name.endswith("p3_ext") for name in losses)


def test_is_computed_in_float32_from_bf16_maps() -> None:
    features = tuple(level.bfloat16() for level in levels())
    assert DualLoss()(features, levels(), [torch.zeros(0, 4)], LEVELS)["loss"].dtype == torch.float32


@pytest.mark.parametrize("weight", [-0.5, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(weight) -> None:
    with pytest.raises(UserError, match=r"loss\.lambda_pos=.*: must be a number, 0 or greater"):
        DualLoss(lambda_pos=weight)
