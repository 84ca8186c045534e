"""RoI pooling and box heads: small RoIs read the extended level and have a head of their own (Sec. IV-A3).

Shape legend: ``R`` RoIs of a batch in image order, ``C`` channels, ``S`` pooled side (7), ``K`` classes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.ops import MultiScaleRoIAlign, nms
from torchvision.ops.poolers import initLevelMapper

from efpn.errors import UserError
from efpn.models.crowds import leave_out_crowds
from efpn.models.filters import DetectionFilter, Ranked
from efpn.pyramid.tiles import TiledLevel
from efpn.types import LevelSpec

POOLED_SIDE = 7
SAMPLES = 2  # points per pooled cell and axis
LEVELS = ("p2", "p3", "p4", "p5")


@dataclass(frozen=True)
class RoISettings:
    """The box head's numbers; the defaults are torchvision's."""

    batch_size: int = 512  # RoIs sampled per image for the loss, ``positive_fraction`` of them at most positive
    positive_fraction: float = 0.25
    fg_iou: float = 0.5  # a proposal from this IoU on is positive, one below is background
    head_width: int = 1024  # width of the two fully connected layers
    score_thresh: float = 0.05  # detections have to score higher
    nms_thresh: float = 0.5  # IoU above which the lower-scored detection of a class goes
    detections_per_image: int = 100  # the highest-scored that are kept
    # side of the RoIs that read P4, eq. 2; the paper's 224 sends those below 112 px to P2. Where these go to P2'
    # (COCO's ``small_roi_below``), 448 moves all levels down by one, so that P2 is read again
    canonical_size: int = 224


@dataclass(frozen=True)
class OHEM:
    """Online hard example mining (Shrivastava et al., 2016) on the small RoIs: those of the highest loss train.

    On each image by itself: NMS, then the share, then the number; what is None is passed over.
    """

    per_image: int | None = 128  # the most that train; alone it mines nothing where an image has fewer small RoIs
    # the hardest of what is left, as a share of it; rounded up. It sets how hard the mining is, whether an image has 20
    # small RoIs or 500
    keep: float | None = None
    # NMS by loss, the cited method's step against counting one hard place several times: of RoIs that overlap by more
    # than this IoU (there 0.7), whatever their class, the one of the highest loss stays
    nms: float | None = None

    def __post_init__(self) -> None:
        """Refuse numbers by which nothing would train and nobody be told."""
        for name in ("per_image", "keep"):
            if getattr(self, name) == 0:
                raise UserError(f"mining.{name}=0: nothing would train; null for all")

    def hardest(self, rois: list[Tensor], losses: Tensor) -> list[Tensor]:
        """Rows of the RoIs that train, image by image, hardest first.

        Args:
            rois: ``(r, 4)`` of each image.
            losses: ``(R,)`` of all of them, image after image.
        """
        counts = [len(boxes) for boxes in rois]
        return [self._of_one(boxes, part) for boxes, part in zip(rois, losses.split(counts), strict=True)]

    def _of_one(self, boxes: Tensor, losses: Tensor) -> Tensor:
        left = torch.arange(len(losses), device=losses.device)
        if self.nms is not None:
            left = nms(boxes, losses.to(boxes), self.nms)
        wanted = len(left) if self.keep is None else math.ceil(self.keep * len(left))
        wanted = wanted if self.per_image is None else min(wanted, self.per_image)
        return left[losses[left].topk(wanted).indices]


@dataclass(frozen=True)
class SmallRoIs:
    """Where small RoIs go."""

    below: float  # RoIs with ``sqrt(w * h)`` under this many 1x pixels are small (TT100K: 56, COCO: 112)
    level: str = "p2_ext"  # the map that they are pooled from; to compare with: ``p2``, ``p3``, ``p3_ext``
    own_head: bool = False  # a box head of their own, started from the other; False sends them through the one head
    # train on the hardest small RoIs only, instead of a random sample of all (the finetuning phase)
    mining: OHEM | None = None

    def __post_init__(self) -> None:
        """Refuse a threshold that sends no RoI to the extended level."""
        if not self.below > 0:
            raise UserError(
                f"small_roi_below={self.below}: must be greater than 0 (pixels of the 1x input; 56 for TT100K at "
                "1400 px, 112 for COCO at 800 px)"
            )


class PyramidRoIAlign(nn.Module):
    """RoIAlign from ``p2 .. p5`` by eq. 2 and, for small RoIs, from the extended level.

    Args:
        levels: what there is to pool from.
        small: the rule for small RoIs, or None for a plain FPN.
        canonical_size: of eq. 2, see `RoISettings`.
    """

    def __init__(
        self,
        levels: Sequence[LevelSpec],
        small: SmallRoIs | None = None,
        canonical_size: int = 224,
    ) -> None:
        super().__init__()
        named = {level.name: level for level in levels}
        self.small = small
        self.regular = pooler([named[name] for name in LEVELS], canonical_size)
        self.extended = pooler([named[small.level]]) if small else None

    def forward(self, features: dict[str, Any], proposals: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Pool every RoI from its level, ``(R, C, S, S)`` in the order of ``proposals`` (boxes in 1x pixels)."""
        if self.small is None or self.extended is None:
            return self.regular(features, proposals, image_shapes)
        small = [self.is_small(boxes) for boxes in proposals]
        others = self.regular(features, [b[~s] for b, s in zip(proposals, small, strict=True)], image_shapes)
        wanted = [b[s] for b, s in zip(proposals, small, strict=True)]
        level = features[self.small.level]
        if isinstance(level, TiledLevel):  # which waits, to be computed under these alone
            smalls = level.pool(wanted, self.extended)
        else:
            smalls = self.extended(features, wanted, image_shapes)
        return interleave(others, smalls, torch.cat(small))

    def is_small(self, boxes: Tensor) -> Tensor:
        """Say which ``boxes (n, 4)`` are small: ``sqrt(w * h) < below``, in 1x pixels."""
        if self.small is None:
            return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
        width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
        return (width * height) < self.small.below**2


class PyramidRoIHeads(RoIHeads):
    """torchvision's RoI heads with the extended level, a second box head for it, and OHEM.

    Args:
        levels: what there is to pool from.
        num_classes: classes with the background.
        settings: the numbers.
        small: the rule for small RoIs; None gives torchvision's own heads.
    """

    def __init__(
        self,
        levels: Sequence[LevelSpec],
        num_classes: int,
        settings: RoISettings,
        small: SmallRoIs | None = None,
    ) -> None:
        super().__init__(
            box_roi_pool=PyramidRoIAlign(levels, small, canonical_size=settings.canonical_size),
            box_head=TwoMLPHead(levels[0].channels * POOLED_SIDE**2, settings.head_width),
            box_predictor=FastRCNNPredictor(settings.head_width, num_classes),
            fg_iou_thresh=settings.fg_iou,
            bg_iou_thresh=settings.fg_iou,
            batch_size_per_image=settings.batch_size,
            positive_fraction=settings.positive_fraction,
            bbox_reg_weights=None,
            score_thresh=settings.score_thresh,
            nms_thresh=settings.nms_thresh,
            detections_per_img=settings.detections_per_image,
        )
        self.ohem = small.mining if small else None
        self.small_head = self._copied_head() if small and small.own_head else None
        self.watcher: Callable[[list[Ranked], list[Tensor]], None] | None = None  # told what is left, and the proposals

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Classify and refine the proposals; all boxes in 1x pixels.

        Returns:
            With targets no detections and the losses ``loss_classifier`` and ``loss_box_reg``; else per image
            ``boxes, labels, scores`` after one NMS over the RoIs of all levels, and no losses.
        """
        if targets is not None:  # frozen heads are in eval mode in training too
            proposals, labels, deltas = self._training_rois(features, proposals, image_shapes, targets)
            outputs = self.box_outputs(features, proposals, image_shapes)
            return [], box_losses(*outputs, labels, deltas)
        outputs = self.box_outputs(features, proposals, image_shapes)
        ranked = self.ranked(*outputs, proposals, image_shapes)
        if self.watcher:
            self.watcher(ranked, proposals)
        kept = [one.kept() for one in ranked]
        return [{"boxes": boxes, "labels": labels, "scores": scores} for boxes, scores, labels, _ in kept], {}

    def box_outputs(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Class logits ``(R, K + 1)`` and box deltas ``(R, 4 (K + 1))``, each RoI from the head of its level.

        In float32 under autocast too: boxes are decoded in their dtype.
        """
        pooled = self.box_roi_pool(features, proposals, image_shapes)
        if self.small_head is None:
            logits, deltas = self.box_predictor(self.box_head(pooled))
        else:
            small = self.box_roi_pool.is_small(torch.cat(proposals))
            others, smalls = self.box_predictor(self.box_head(pooled[~small])), self.small_head(pooled[small])
            logits, deltas = (interleave(*pair, small) for pair in zip(others, smalls, strict=True))
        return logits.float(), deltas.float()

    def ranked(
        self, logits: Tensor, deltas: Tensor, proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> list[Ranked]:
        """What is left of each image's boxes; ``row // K`` is the RoI that a detection came from."""
        counts = [len(boxes) for boxes in proposals]
        outputs = zip(logits.split(counts), deltas.split(counts), proposals, image_shapes, strict=True)
        return [self.ranked_in_one(*one) for one in outputs]

    def ranked_in_one(self, logits: Tensor, deltas: Tensor, proposals: Tensor, size: tuple[int, int]) -> Ranked:
        """As `ranked`, of one image."""
        chosen = DetectionFilter(self.detections_per_img, self.nms_thresh, self.score_thresh)
        decoded = self.box_coder.decode_single(deltas, proposals).unflatten(1, (-1, 4))
        return chosen(decoded[:, 1:], logits.softmax(-1)[:, 1:], size)

    def start_small_head(self) -> None:
        """Start the small RoIs' head from the other one."""
        assert self.small_head is not None, "the model was built without a head for small RoIs"
        self.small_head.load_state_dict(self._copied_head().state_dict())

    def _copied_head(self) -> nn.Sequential:
        return copy.deepcopy(nn.Sequential(self.box_head, self.box_predictor))

    def _training_rois(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        if self.ohem is None:
            rois, labels, deltas = self.candidates(proposals, targets)
            chosen = self.subsample(labels)
        else:
            rois, labels, deltas = self.small_candidates(proposals, targets)
            with torch.no_grad():
                outputs = self.box_outputs(features, rois, image_shapes)
                losses = roi_losses(*outputs, torch.cat(labels), torch.cat(deltas))
            chosen = self.ohem.hardest(rois, losses)
        return _pick(rois, chosen), _pick(labels, chosen), _pick(deltas, chosen)

    def candidates(
        self, proposals: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """All RoIs (proposals and ground truth) with their labels and regression targets, per image.

        A label is that of the matched ground truth, 0 for background, or -1 for what must not train (background in a
        crowd region). The target of all that is not positive is the RoI itself, so that it is finite in any image.
        """
        with torch.no_grad():
            truth = [t["boxes"].to(proposals[0].dtype) for t in targets]
            rois = self.add_gt_proposals(proposals, truth)
            matched, labels = self.assign_targets_to_proposals(rois, truth, [t["labels"] for t in targets])
            labels = [leave_out_crowds(*one) for one in zip(labels, rois, targets, strict=True)]
            goals = [roi.clone() for roi in rois]
            for goal, boxes, match, label in zip(goals, truth, matched, labels, strict=True):
                goal[label > 0] = boxes[match[label > 0]]
            return rois, labels, list(self.box_coder.encode(goals, rois))

    def small_candidates(
        self, proposals: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Those of the `candidates` that are small and may train."""
        rois, labels, deltas = self.candidates(proposals, targets)
        small = [self.box_roi_pool.is_small(boxes) & (label >= 0) for boxes, label in zip(rois, labels, strict=True)]
        return _pick(rois, small), _pick(labels, small), _pick(deltas, small)


def pooler(levels: Sequence[LevelSpec], canonical_size: int = 224) -> MultiScaleRoIAlign:
    """torchvision's RoIAlign over ``levels`` by eq. 2, told their strides.

    It would guess them from its first batch and keep them, wrong for good if those images are under about 45 px.
    """
    names = [level.name for level in levels]
    align = MultiScaleRoIAlign(names, POOLED_SIDE, SAMPLES, canonical_scale=canonical_size)
    align.scales = [1 / level.stride for level in levels]
    finest, coarsest = (int(math.log2(level.stride)) for level in (levels[0], levels[-1]))
    align.map_levels = initLevelMapper(finest, coarsest, align.canonical_scale, align.canonical_level)
    return align


def _pick(rows: list[Tensor], chosen: list[Tensor]) -> list[Tensor]:
    return [r[c] for r, c in zip(rows, chosen, strict=True)]


def interleave(others: Tensor, smalls: Tensor, small: Tensor) -> Tensor:
    """Merge rows computed apart: row i comes from ``smalls`` where ``small[i]``, else from ``others``, in order."""
    order = torch.cat([torch.where(~small)[0], torch.where(small)[0]])
    return torch.cat([others, smalls])[torch.argsort(order)]


def box_losses(logits: Tensor, deltas: Tensor, labels: list[Tensor], targets: list[Tensor]) -> dict[str, Tensor]:
    """Faster R-CNN's classification and box loss; without any RoI a zero that still reaches every parameter."""
    if len(logits) == 0:
        return {"loss_classifier": logits.sum(), "loss_box_reg": deltas.sum()}
    classification, regression = fastrcnn_loss(logits, deltas, labels, targets)
    return {"loss_classifier": classification, "loss_box_reg": regression}


def roi_losses(logits: Tensor, deltas: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Each RoI's own classification plus box loss ``(R,)``; their mean is the sum of `box_losses`.

    ``logits (R, K)`` and ``deltas (R, 4K)`` are in float32, as `box_outputs` gives them.
    """
    rows = torch.arange(len(labels), device=labels.device)
    own = deltas.unflatten(1, (-1, 4))[rows, labels]
    regression = F.smooth_l1_loss(own, targets.to(own), beta=1 / 9, reduction="none").sum(1)
    return F.cross_entropy(logits, labels, reduction="none") + regression * (labels > 0)
