"""torchvision's region proposal network on the FPN's own levels; P2' never proposes (Sec. III-A)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from efpn.errors import UserError
from efpn.models.crowds import leave_out_crowds
from efpn.models.filters import ProposalFilter, Ranked

LEVELS = ("p2", "p3", "p4", "p5", "p6")


@dataclass(frozen=True)
class RPNSettings:
    """The RPN's numbers; the defaults are torchvision's."""

    # side of the square anchor on each of ``p2 .. p6``, pixels of the 1x input
    anchor_sizes: Sequence[int] = (32, 64, 128, 256, 512)
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0)  # height over width
    pre_nms_top_n: tuple[int, int] = (2000, 1000)  # proposals kept per level before NMS, in training and in testing
    post_nms_top_n: tuple[int, int] = (2000, 1000)  # proposals kept per image after it, likewise
    nms_thresh: float = 0.7  # IoU above which the lower-scored proposal goes
    batch_size: int = 256  # anchors sampled per image for the loss, ``positive_fraction`` of them at most positive
    positive_fraction: float = 0.5
    fg_iou: float = 0.7  # an anchor from this IoU on is positive; one below ``bg_iou`` is negative
    bg_iou: float = 0.3
    # in testing, proposals of a lower objectness (0 to 1) are dropped; the fewer small proposals, the less of P2' is
    # computed (`Tiles`)
    score_thresh: float = 0.0

    def __post_init__(self) -> None:
        """Refuse sizes that the levels cannot share out."""
        require_anchors("model.rpn.anchor_sizes", self.anchor_sizes)
        if self.bg_iou > self.fg_iou:
            raise UserError(f"model.rpn.bg_iou={self.bg_iou}: must be at most model.rpn.fg_iou={self.fg_iou}")


def require_anchors(option: str, sizes: Sequence[int]) -> None:
    """Refuse sizes that the levels cannot share out, in the name of ``option``."""
    if len(sizes) != len(LEVELS) or not all(size > 0 for size in sizes):
        raise UserError(
            f"{option}={list(sizes)}: give {len(LEVELS)} sizes, one for each of {', '.join(LEVELS)} (pixels of the 1x "
            "input)"
        )


class Float32Anchors(AnchorGenerator):
    """Anchors in float32 whatever the maps are.

    torchvision makes them in the dtype of the maps: under autocast every box that follows (proposals, ground truth,
    regression targets, detections) would be rounded to whole pixels from 128 up in bf16, and the offsets by which NMS
    keeps classes apart would swallow small boxes.
    """

    def set_cell_anchors(self, dtype: torch.dtype, device: torch.device) -> None:
        """Place the cell anchors on ``device``, in float32."""
        super().set_cell_anchors(torch.float32, device)


class Float32RPNHead(RPNHead):
    """torchvision's RPN head with float32 outputs, since boxes are decoded in their dtype."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Objectness and deltas per level."""
        logits, deltas = super().forward(x)
        return [level.float() for level in logits], [level.float() for level in deltas]


class PyramidRPN(RegionProposalNetwork):
    """Reads ``p2 .. p6`` of a backbone's maps and leaves the others alone; no anchor in a crowd region is a negative.

    Args:
        channels: depth of the levels.
        settings: the numbers.
    """

    def __init__(self, channels: int, settings: RPNSettings) -> None:
        anchors = Float32Anchors(
            sizes=tuple((int(size),) for size in settings.anchor_sizes),
            aspect_ratios=(tuple(settings.aspect_ratios),) * len(LEVELS),
        )
        super().__init__(
            anchors,
            Float32RPNHead(channels, anchors.num_anchors_per_location()[0]),
            fg_iou_thresh=settings.fg_iou,
            bg_iou_thresh=settings.bg_iou,
            batch_size_per_image=settings.batch_size,
            positive_fraction=settings.positive_fraction,
            pre_nms_top_n=dict(zip(("training", "testing"), settings.pre_nms_top_n, strict=True)),
            post_nms_top_n=dict(zip(("training", "testing"), settings.post_nms_top_n, strict=True)),
            nms_thresh=settings.nms_thresh,
        )
        self.test_score_thresh = settings.score_thresh
        # told what is left of each image, beyond the cap too
        self.watcher: Callable[[list[Ranked]], None] | None = None

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Propose boxes (1x pixels) per image and, in training, return the RPN's losses."""
        # a frozen RPN is in eval mode in training too
        self.score_thresh = self.test_score_thresh if targets is None else 0.0
        return super().forward(images, {level: features[level] for level in LEVELS}, targets)

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Label each anchor (1 object, 0 background, -1 left out) and match it to a ground truth."""
        labels, matched = super().assign_targets_to_anchors(anchors, targets)
        return [leave_out_crowds(*one) for one in zip(labels, anchors, targets, strict=True)], matched

    def filter(self) -> ProposalFilter:
        """The filter of the mode that the RPN is in."""
        return ProposalFilter(
            self.pre_nms_top_n(), self.post_nms_top_n(), self.nms_thresh, self.score_thresh, self.min_size
        )

    def filter_proposals(
        self,
        proposals: Tensor,
        objectness: Tensor,
        image_shapes: list[tuple[int, int]],
        num_anchors_per_level: list[int],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Boxes and objectness of the proposals of each image, from ``(N, A, 4)`` and ``(N * A, 1)``."""
        logits = objectness.detach().reshape(len(proposals), -1)
        chosen = self.filter()
        ranked = [
            chosen(boxes.split(num_anchors_per_level), own.split(num_anchors_per_level), size)
            for boxes, own, size in zip(proposals, logits, image_shapes, strict=True)
        ]
        if self.watcher:
            self.watcher(ranked)
        kept = [one.kept() for one in ranked]
        return [one[0] for one in kept], [one[1] for one in kept]
