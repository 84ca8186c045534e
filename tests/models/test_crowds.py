"""Crowd regions: the RPN's anchors in them, and how they follow the image."""

from __future__ import annotations

import torch

from efpn.models import PyramidRPN, RPNSettings
from efpn.models.crowds import ResizeWithCrowds, covered, leave_out_crowds

REGION = torch.tensor([[32.0, 32, 96, 96]])


def test_the_share_is_of_the_box_and_of_the_best_region() -> None:
    boxes = torch.tensor([[40.0, 40, 50, 50], [16, 40, 48, 60], [0, 0, 128, 128], [0, 0, 8, 8]])
    regions = torch.cat([REGION, torch.tensor([[0.0, 0, 4, 8]])])
    torch.testing.assert_close(covered(boxes, regions), torch.tensor([1.0, 0.5, 0.25, 0.5]))


def test_only_background_is_left_out() -> None:
    boxes = torch.tensor([[40.0, 40, 50, 50], [40, 40, 50, 50], [0, 0, 8, 8]])
    labels = torch.tensor([0, 2, 0])
    assert leave_out_crowds(labels, boxes, {"ignore_boxes": REGION}).tolist() == [-1, 2, 0]
    assert leave_out_crowds(labels, boxes, {"ignore_boxes": REGION[:0]}) is labels
    assert leave_out_crowds(labels, boxes, {}) is labels


def test_no_anchor_in_a_crowd_region_is_a_negative() -> None:
    rpn = PyramidRPN(4, RPNSettings(anchor_sizes=(8, 16, 32, 64, 128)))
    x, y = torch.meshgrid(torch.arange(0, 120, 8.0), torch.arange(0, 120, 8.0), indexing="ij")
    anchors = torch.stack([x, y, x + 8, y + 8], -1).reshape(-1, 4)
    crowd = {"boxes": torch.tensor([[40.0, 40, 48, 48], [0, 0, 8, 8]]), "ignore_boxes": REGION}
    empty = {"boxes": torch.zeros(0, 4), "ignore_boxes": REGION}
    plain = {"boxes": torch.zeros(0, 4)}
    (first, second, third), _ = rpn.assign_targets_to_anchors([anchors] * 3, [crowd, empty, plain])
    inside = covered(anchors, REGION) >= 0.5
    assert inside.sum() == 64 and not third.any()
    assert (second == torch.where(inside, -1, 0)).all()
    assert (first == 1).sum() == 2 and (first[inside] == -1).sum() == 63 and (first[~inside] == 0).sum() == 160


def test_regions_are_resized_with_the_boxes() -> None:
    resize = ResizeWithCrowds(64, 64, [0.0] * 3, [1.0] * 3)
    boxes = torch.tensor([[0.0, 0, 16, 32]])
    _, (target,) = resize([torch.rand(3, 128, 128)], [{"boxes": boxes, "ignore_boxes": REGION}])
    assert target["boxes"].tolist() == [[0, 0, 8, 16]] and target["ignore_boxes"].tolist() == [[16, 16, 48, 48]]
