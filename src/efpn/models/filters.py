"""Which boxes are left: the RPN's filter and that of the detections, step by step.

The arithmetic is torchvision's (`RegionProposalNetwork.filter_proposals`, `RoIHeads.postprocess_detections`), written
so that `torch.export` can follow it, and so that what is left carries the row that it came from. All boxes are xyxy in
pixels of the 1x image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image, nms

Size = tuple[int, int]
OUTSIDE = ((-2.0, -2.0, -1.0, -1.0), (-4.0, -2.0, -3.0, -1.0))  # two boxes that meet neither each other nor an image


@dataclass(frozen=True)
class Ranked:
    """What NMS has left of one image, highest score first; the cap keeps the first ``cap`` of it."""

    boxes: Tensor  # ``(n, 4)`` inside the image
    scores: Tensor  # ``(n,)`` in [0, 1]
    labels: Tensor  # ``(n,)`` int64: the class, or of a proposal the number of its level
    rows: Tensor  # ``(n,)`` which of the boxes that were given each is
    size: Size  # height and width of the image
    cap: int  # how many are kept
    # how many went at each step before the cap: ``top_n`` (of its level, before NMS), ``score``, ``size``, ``nms``;
    # numbers or tensors of one
    dropped: Mapping[str, int | Tensor]

    def kept(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Boxes, scores, labels and rows within the cap."""
        return self.boxes[: self.cap], self.scores[: self.cap], self.labels[: self.cap], self.rows[: self.cap]

    def fates(self) -> dict[str, int]:
        """How many boxes went at each step, the cap the last, and how many are ``kept``."""
        kept = min(len(self.boxes), self.cap)
        return {**{step: int(n) for step, n in self.dropped.items()}, "cap": len(self.boxes) - kept, "kept": kept}


@dataclass(frozen=True)
class ProposalFilter:
    """The RPN's filter on the anchors' boxes of one image."""

    top_n: int  # boxes of each level that NMS sees
    cap: int  # of what it leaves, over all levels
    iou: float  # of NMS, within a level
    score_thresh: float = 0.0  # boxes of a lower objectness go
    min_size: float = 1e-3  # boxes with a shorter side go, pixels

    def __call__(self, boxes: Sequence[Tensor], logits: Sequence[Tensor], size: Size) -> Ranked:
        """Filter, level by level.

        Args:
            boxes: of each level ``(A, 4)``, decoded.
            logits: of each level ``(A,)``, objectness before the sigmoid.
            size: height and width of the image.
        """
        parts, first = [], 0
        dropped: dict[str, Any] = dict.fromkeys(("top_n", "score", "size", "nms"), 0)
        for level, (own, own_logits) in enumerate(zip(boxes, logits, strict=True)):
            rows = highest(own_logits, self.top_n)
            found, scores = clip_boxes_to_image(own[rows], size), own_logits[rows].sigmoid()
            large, sure = shorter(found) >= self.min_size, scores >= self.score_thresh
            dropped["top_n"] += own.shape[0] - rows.shape[0]
            dropped["size"] = dropped["size"] + (~large).sum()
            dropped["score"] = dropped["score"] + (large & ~sure).sum()
            sound = torch.where(large & sure)[0]
            rows, found, scores = rows[sound], found[sound], scores[sound]
            left = survivors(found, scores, self.iou)
            dropped["nms"] += found.shape[0] - left.shape[0]
            parts.append((found[left], scores[left], torch.full_like(left, level), rows[left] + first))
            first += own.shape[0]
        found, scores, levels, rows = (torch.cat(column) for column in zip(*parts, strict=True))
        order = highest(scores, scores.shape[0])
        return Ranked(found[order], scores[order], levels[order], rows[order], size, self.cap, dropped)


@dataclass(frozen=True)
class DetectionFilter:
    """The filter of the detections of one image."""

    cap: int  # detections that are kept
    iou: float  # of NMS, within a class
    score_thresh: float  # detections have to score higher
    min_size: float = 1e-2  # boxes with a shorter side go, pixels (fixed in torchvision)

    def __call__(self, boxes: Tensor, scores: Tensor, size: Size) -> Ranked:
        """Filter.

        Args:
            boxes: ``(R, K, 4)`` of each RoI for each class, decoded.
            scores: ``(R, K)``; classes are numbered from 1.
            size: height and width of the image.

        Returns:
            What is left; row ``r * K + k`` is class ``k + 1`` of RoI r.
        """
        labels = torch.arange(1, scores.shape[1] + 1, device=scores.device).expand_as(scores).reshape(-1)
        found, flat = clip_boxes_to_image(boxes.reshape(-1, 4), size), scores.reshape(-1)
        sure, large = flat > self.score_thresh, shorter(found) >= self.min_size
        dropped = {"score": (~sure).sum(), "size": (sure & ~large).sum()}
        rows = torch.where(sure & large)[0]
        found, flat, labels = found[rows], flat[rows], labels[rows]
        left = survivors_by_class(found, flat, labels, self.iou)
        dropped |= {"nms": found.shape[0] - left.shape[0]}
        return Ranked(found[left], flat[left], labels[left], rows[left], size, self.cap, dropped)


def highest(scores: Tensor, count: int) -> Tensor:
    """Rows of the ``count`` highest scores, or of all where there are fewer, in falling order."""
    return scores.topk(torch.sym_min(count, scores.shape[0])).indices


def survivors(boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
    """Rows that are left by NMS, highest score first; boxes ``(n, 4)`` inside the image, scores from 0 up, n from 0.

    torchvision declares to `torch.export` that NMS leaves two boxes or more, and the graph would stop where there are
    fewer. Two that always stay, last by their score, make that true.
    """
    if not torch.compiler.is_compiling():
        return nms(boxes, scores, iou)
    boxes = torch.cat([boxes, boxes.new_tensor(OUTSIDE)])
    scores = torch.cat([scores, scores.new_full((len(OUTSIDE),), -1.0)])
    return nms(boxes, scores, iou)[: -len(OUTSIDE)]


def survivors_by_class(boxes: Tensor, scores: Tensor, labels: Tensor, iou: float) -> Tensor:
    """As `survivors`, within each class: torchvision's, or its arithmetic where `torch.export` looks on."""
    if not torch.compiler.is_compiling():
        return batched_nms(boxes, scores, labels, iou)
    largest = torch.cat([boxes.reshape(-1), boxes.new_zeros(1)]).max()  # of no box at all: 0
    apart = boxes + (labels.to(boxes) * (largest + 1))[:, None]  # no two of different classes meet
    return survivors(apart, scores, iou)


def shorter(boxes: Tensor) -> Tensor:
    """The shorter side of each box ``(n,)``."""
    return (boxes[:, 2:] - boxes[:, :2]).amin(dim=1)
