"""Recording what a detector does before its detections, without a change to what it detects.

The filters of RPN and RoI heads tell what NMS has left of each image, beyond their caps too (`efpn.models.filters`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from efpn.errors import UserError
from efpn.metrics.accumulate import coco_results
from efpn.metrics.funnel import Proposals, StageRecord
from efpn.models import FasterRCNN
from efpn.models.filters import Ranked
from efpn.models.roi_heads import LEVELS, PyramidRoIAlign


class StageRecorder:
    """A context in which a detector's proposals, their levels and what the caps cut off are kept, image by image.

    On one process only: the record is not gathered. In training mode nothing is recorded.

    ``category_ids[label - 1]`` stands in the record. More proposals per image (``depth``) than the RPN's own top n show
    what that cap costs.
    """

    def __init__(self, detector: FasterRCNN, category_ids: Sequence[int], depth: int = 2000) -> None:
        self.rpn, self.heads, self.classes = detector.rpn, detector.roi_heads, detector.num_classes
        self.category_ids = list(category_ids)
        self.cap: int = self.rpn._post_nms_top_n["testing"]
        self.depth = max(depth, self.cap)
        self._proposed: list[Ranked] = []  # of the batch under way, image by image
        self._detected: list[tuple[Ranked, Tensor]] = []  # what the heads made of it, and of which proposals
        self._proposals: dict[int, Proposals] = {}
        self._sources: dict[int, np.ndarray] = {}
        self._cut: list[dict[str, Any]] = []
        self._filtered = {"proposals": Counter[str](), "detections": Counter[str]()}

    def __enter__(self) -> Self:
        """Start to watch."""
        self.rpn.watcher, self.heads.watcher = self._see_proposals, self._see_detections
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the detector as it was."""
        self.rpn.watcher = self.heads.watcher = None

    def file(self, batch: Any) -> None:
        """Keep what was done with a batch (1x images first, targets last); raises `UserError`: several processes."""
        parallel = torch.distributed.is_available() and torch.distributed.is_initialized()
        if parallel and (count := torch.distributed.get_world_size()) > 1:
            raise UserError(f"proposals are recorded on one process, not on {count}; use trainer.devices=1")
        seen = zip(self._proposed, self._detected, batch[0], batch[-1], strict=True)
        for proposed, (detected, rois), image, target in seen:
            image_id = int(target["image_id"])
            if image_id in self._proposals:
                continue  # a repeated one, which fills up the last batch
            height, width = proposed.size
            native = target["scale"].cpu() * torch.tensor([width / image.shape[-1], height / image.shape[-2]])
            scale = native.repeat(2)
            boxes = proposed.boxes[: self.depth].cpu()
            levels = pooled_from(self.heads.box_roi_pool, rois)
            self._proposals[image_id] = Proposals((boxes / scale).numpy(), levels)
            self._sources[image_id] = levels[(detected.rows // (self.classes - 1)).cpu().numpy()[: detected.cap]]
            for kind, one in (("proposals", proposed), ("detections", detected)):
                self._filtered[kind].update(one.fates())
            parts = (detected.boxes, detected.scores, detected.labels)
            boxes, scores, labels = (part[detected.cap :].cpu() for part in parts)
            self._cut += coco_results(image_id, boxes / scale, scores, labels, self.category_ids)
        self._proposed, self._detected = [], []

    def record(self) -> StageRecord:
        """All that was filed so far."""
        small = self.heads.box_roi_pool.small
        levels = LEVELS if small is None or small.level in LEVELS else (small.level, *LEVELS)
        cap = self.heads.detections_per_img
        return StageRecord(self.cap, self.depth, cap, levels, self._proposals, self._cut, self._sources, self._filtered)

    def _see_proposals(self, ranked: list[Ranked]) -> None:
        self._proposed = [] if self.rpn.training else ranked
        self._detected = []

    def _see_detections(self, ranked: list[Ranked], proposals: list[Tensor]) -> None:
        self._detected = list(zip(ranked, proposals, strict=True)) if self._proposed else []


def pooled_from(pool: PyramidRoIAlign, boxes: Tensor) -> np.ndarray:
    """Name of the level that each of ``boxes (n, 4)``, 1x pixels, is pooled from.

    Small ones by the rule of `SmallRoIs`, the others by eq. 2 as torchvision's `MultiScaleRoIAlign` applies it.
    """
    if not len(boxes):
        return np.empty(0, "<U6")
    regular = np.array(LEVELS)[pool.regular.map_levels([boxes]).cpu().numpy()]
    return regular if pool.small is None else np.where(pool.is_small(boxes).cpu().numpy(), pool.small.level, regular)
