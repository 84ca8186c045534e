"""What is left of boxes: torchvision's results to the bit, with the rows that they came from and what was dropped."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork

from efpn.models import PyramidRoIHeads, PyramidRPN, RoISettings, RPNSettings
from efpn.models.filters import DetectionFilter, ProposalFilter
from efpn.types import LevelSpec

SIZES = [(96, 128), (60, 100)]
LEVELS = [LevelSpec(f"p{n}", 2**n, 4) for n in range(2, 7)]


def random_boxes(*shape: int) -> torch.Tensor:
    """Some reach out of the image, some have no side."""
    corners, sides = torch.rand(*shape, 2) * 140 - 20, torch.rand(*shape, 2) * 40 * (torch.rand(*shape, 1) > 0.1)
    return torch.cat([corners, corners + sides], -1)


@pytest.mark.parametrize("score_thresh", [0.0, 0.6])
@pytest.mark.parametrize("counts", [[600, 150, 40, 9, 2], [3000, 700, 200, 50, 12]])  # two ways of torchvision's NMS
def test_proposals_are_torchvisions(counts: list[int], score_thresh: float) -> None:
    settings = RPNSettings(pre_nms_top_n=(500, 400), post_nms_top_n=(100, 80), score_thresh=score_thresh)
    rpn = PyramidRPN(4, settings).eval()
    rpn.score_thresh = score_thresh
    boxes, logits = random_boxes(2, sum(counts)), torch.randn(2, sum(counts))
    expected = RegionProposalNetwork.filter_proposals(rpn, boxes, logits.reshape(-1, 1), SIZES, counts)
    got = rpn.filter_proposals(boxes, logits.reshape(-1, 1), SIZES, counts)
    for theirs, ours in zip(expected, got, strict=True):
        assert all(len(one) > 20 and torch.equal(one, other) for one, other in zip(theirs, ours, strict=True))


@pytest.mark.parametrize("rois", [0, 1, 60, 700])
def test_detections_are_torchvisions(rois: int) -> None:
    settings = RoISettings(head_width=8, score_thresh=0.2, detections_per_image=30)
    heads = PyramidRoIHeads(LEVELS, 4, settings).eval()
    proposals = [random_boxes(rois)[:, :4] for _ in SIZES]
    for boxes in proposals:
        boxes[:, 2:] += 1
    logits, deltas = torch.randn(2 * rois, 4) * 2, torch.randn(2 * rois, 16)
    boxes, scores, labels = RoIHeads.postprocess_detections(heads, logits, deltas, proposals, SIZES)
    ranked = heads.ranked(logits, deltas, proposals, SIZES)
    for number, one in enumerate(ranked):
        ours = one.kept()
        assert torch.equal(ours[0], boxes[number]) and torch.equal(ours[1], scores[number])
        assert torch.equal(ours[2], labels[number])
        origin = logits.split(rois)[number].softmax(1)[ours[3] // 3, ours[3] % 3 + 1] if rois else ours[1]
        assert torch.equal(origin, ours[1])  # the row tells RoI and class


def test_every_box_of_the_rpn_is_accounted_for() -> None:
    tiny, low = [10.0, 10, 10, 20], [50.0, 50, 60, 60]
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [30, 30, 40, 40], tiny, low, [70, 70, 80, 80]])
    logits = torch.tensor([4.0, 3, 2, 5, -3, -4])
    chosen = ProposalFilter(top_n=5, cap=1, iou=0.7, score_thresh=0.5)
    found = chosen([boxes], [logits], (100, 100))
    assert found.rows.tolist() == [0, 2] and found.kept()[3].tolist() == [0]
    assert {name: int(count) for name, count in found.dropped.items()} == {"top_n": 1, "size": 1, "score": 1, "nms": 1}
    assert found.fates() == {"top_n": 1, "size": 1, "score": 1, "nms": 1, "cap": 1, "kept": 1}


def test_every_detection_is_accounted_for() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10]] * 2, [[0.0, 0, 10, 9]] * 2, [[5.0, 5, 5, 9]] * 2])
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.7], [0.6, 0.0]])
    found = DetectionFilter(cap=1, iou=0.5, score_thresh=0.3)(boxes, scores, (100, 100))
    assert found.rows.tolist() == [0, 3] and found.labels.tolist() == [1, 2]  # of class 1 the second went by NMS
    assert {name: int(count) for name, count in found.dropped.items()} == {"score": 2, "size": 1, "nms": 1}
