"""Proposals have the composition that is asked for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from efpn.benchmark.inputs import FixedProposals, make_proposals, object_boxes
from efpn.benchmark.setting import Composition


def sizes(boxes):
    return (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()


@pytest.mark.parametrize(
    ("how", "height", "width"),
    [
        (Composition(1000, 300, 20, 56), 700, 700),
        (Composition(1000, 300, 20, 56), 500, 900),
        (Composition(40, 0, 3, 16), 64, 64),
        (Composition(40, 40, 1, 16), 64, 80),
        (Composition(30, 10, 50, 50), 64, 64),
    ],
)
def test_as_many_small_ones_as_asked_for_and_all_inside(how, height, width):
    boxes = make_proposals(how, height, width, seed=3)
    assert boxes.shape == (how.total, 4) and boxes.dtype == torch.float32
    assert int((sizes(boxes) < how.below).sum()) == how.small
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2] <= width + 1e-3).all() and (boxes[:, 3] <= height + 1e-3).all()
    assert sizes(boxes).min() > 1


def test_small_ones_lie_around_the_objects_all_of_them():
    how = Composition(500, 200, 7, 40)
    boxes, objects = make_proposals(how, 700, 700, 1), object_boxes(how, 700, 700, 1)
    small = boxes[sizes(boxes) < how.below]
    centres, spots = (small[:, :2] + small[:, 2:]) / 2, (objects[:, :2] + objects[:, 2:]) / 2
    distance, nearest = torch.cdist(centres, spots).min(1)
    assert objects.shape == (7, 4) and (sizes(objects) < how.below).all()
    assert distance.max() < how.below and set(nearest.tolist()) == set(range(7))


def test_the_seed_decides():
    how = Composition(50, 20, 3, 30)
    assert torch.equal(make_proposals(how, 200, 200, 5), make_proposals(how, 200, 200, 5))
    assert not torch.equal(make_proposals(how, 200, 200, 5), make_proposals(how, 200, 200, 6))


def test_small_and_other_proposals_are_mixed():
    small = sizes(make_proposals(Composition(100, 50, 5, 30), 300, 300, 0)) < 30
    assert 0 < int(small[:50].sum()) < 50


class RPN(nn.Module):
    def __init__(self):
        super().__init__()
        self.ran = 0

    def forward(self, images, features, targets=None):
        self.ran += 1
        return ["its own"], {"loss": 7}


def test_the_rpn_runs_but_what_it_proposes_is_replaced():
    detector = nn.Module()
    detector.rpn = RPN()
    boxes = [torch.rand(4, 4), torch.rand(4, 4)]
    fixed = FixedProposals(detector, boxes)
    proposals, losses = detector.rpn(None, None, targets=None)
    assert detector.rpn.ran == 1 and losses == {"loss": 7}
    assert all(torch.equal(a, b) for a, b in zip(proposals, boxes, strict=True))
    fixed.boxes = boxes[:1]
    assert len(detector.rpn(None, None)[0]) == 1
