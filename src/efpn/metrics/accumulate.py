"""Collect detections over batches and processes, each image once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class Collected(NamedTuple):
    """The ids of all images that were seen, ascending, and COCO results (native pixels) in that order."""

    image_ids: list[int]
    detections: list[dict[str, Any]]


class DetectionAccumulator(Metric):
    """Detections of an evaluation loop, gathered over all processes and freed of repeated images.

    ``DistributedSampler`` repeats images to fill the last batch; each image's first visit is kept, whole.

    Args:
        category_ids: of COCO-format files, in the order of the labels 1 to K.
    """

    full_state_update = False
    rows: list[Tensor]  # (n, 7) float64: image_id, x1, y1, x2, y2, score, label
    visits: list[Tensor]  # (1, 2) int64: image_id, number of detections in this visit

    def __init__(self, category_ids: Sequence[int]) -> None:
        super().__init__()
        self.category_ids = [int(category) for category in category_ids]
        self.add_state("rows", default=[], dist_reduce_fx="cat")
        self.add_state("visits", default=[], dist_reduce_fx="cat")

    def update(self, image_ids: Iterable[int | Tensor], detections: Sequence[Mapping[str, Tensor]]) -> None:
        """Add a batch: per image ``boxes (n, 4)`` xyxy in native pixels, ``scores`` and ``labels`` ``(n,)``."""
        for image_id, found in zip(image_ids, detections, strict=True):
            boxes = found["boxes"].detach().cpu().double().reshape(-1, 4)  # Apple's devices have no float64
            columns = [boxes.new_full((len(boxes), 1), int(image_id)), boxes]
            columns += [found[key].detach().cpu().double().reshape(-1, 1) for key in ("scores", "labels")]
            self.rows.append(torch.cat(columns, dim=1))
            self.visits.append(torch.tensor([[int(image_id), len(boxes)]]))

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather as torchmetrics does; a process that saw nothing takes part with tables of the right shape."""
        if not self.visits:
            self.rows.append(torch.empty(0, 7, dtype=torch.float64))
            self.visits.append(torch.empty(0, 2, dtype=torch.int64))
        if torch.distributed.is_available() and torch.distributed.is_initialized():  # NCCL gathers CUDA tensors only
            self.rows = [table.to(self.device) for table in self.rows]
            self.visits = [visit.to(self.device) for visit in self.visits]
        super().sync(*args, **kwargs)

    def compute(self) -> Collected:
        """All images once, in ascending order of their ids, whatever the number of processes."""
        if isinstance(self.visits, list) and not self.visits:
            return Collected([], [])
        visits, rows = dim_zero_cat(self.visits).cpu(), dim_zero_cat(self.rows).cpu()
        tables: dict[int, Tensor] = {}
        for (image_id, _), table in zip(visits.tolist(), rows.split(visits[:, 1].tolist()), strict=True):
            tables.setdefault(image_id, table)
        found: list[dict[str, Any]] = []
        for image_id, table in sorted(tables.items()):
            found += coco_results(image_id, table[:, 1:5], table[:, 5], table[:, 6], self.category_ids)
        return Collected(sorted(tables), found)


def coco_results(
    image_id: int, boxes: Tensor, scores: Tensor, labels: Tensor, category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """One image's ``boxes (n, 4)`` xyxy as COCO has them; ``category_ids`` are of the labels 1 to K."""
    categories, found = dict(enumerate(category_ids, start=1)), []
    for (x1, y1, x2, y2), score, label in zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True):
        where = {"image_id": image_id, "category_id": categories[int(label)]}
        found.append({**where, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score})
    return found
