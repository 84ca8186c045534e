"""Collect detections over batches and processes, each image once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

ROW = 7  # image_id, x1, y1, x2, y2, score, label
VISIT = 2  # image_id, number of detections in this visit


class Collected(NamedTuple):
    """Every image that was seen, and what was found in them.

    Attributes:
        image_ids: ascending; images without a detection are among them.
        detections: COCO results (``image_id``, ``category_id``, ``bbox`` xywh in native pixels, ``score``), by image.
    """

    image_ids: list[int]
    detections: list[dict[str, Any]]


class DetectionAccumulator(Metric):
    """Detections of an evaluation loop, gathered over all processes and freed of repeated images.

    ``DistributedSampler`` repeats images to fill the last batch; each image's first visit is kept, whole.

    Args:
        category_ids: label (1 to K) to the category id of COCO-format files, or the ids in order of the labels.
    """

    full_state_update = False
    rows: list[Tensor]
    visits: list[Tensor]

    def __init__(self, category_ids: Mapping[int, int] | Sequence[int]) -> None:
        super().__init__()
        pairs = category_ids.items() if isinstance(category_ids, Mapping) else enumerate(category_ids, start=1)
        self.category_ids = {int(label): int(category) for label, category in pairs}
        self.add_state("rows", default=[], dist_reduce_fx="cat")
        self.add_state("visits", default=[], dist_reduce_fx="cat")

    def update(self, image_ids: Iterable[int | Tensor], detections: Sequence[Mapping[str, Tensor]]) -> None:
        """Add one batch.

        Args:
            image_ids: the data set's id of each image.
            detections: per image ``boxes`` ``(n, 4)`` xyxy in native pixels, ``scores`` and ``labels`` ``(n,)``.
        """
        for image_id, found in zip(image_ids, detections, strict=True):
            boxes = found["boxes"].detach().to(self.device, torch.float64).reshape(-1, 4)
            columns = [boxes.new_full((len(boxes), 1), int(image_id)), boxes]
            columns += [found[key].detach().to(boxes).reshape(-1, 1) for key in ("scores", "labels")]
            self.rows.append(torch.cat(columns, dim=1))
            self.visits.append(torch.tensor([[int(image_id), len(boxes)]], device=self.device))

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather as torchmetrics does; a process that saw nothing takes part with tables of the right shape."""
        if not self.visits:
            self.rows.append(torch.empty(0, ROW, dtype=torch.float64, device=self.device))
            self.visits.append(torch.empty(0, VISIT, dtype=torch.int64, device=self.device))
        super().sync(*args, **kwargs)

    def compute(self) -> Collected:
        """All images once, in ascending order of their ids, whatever the number of processes."""
        if isinstance(self.visits, list) and not self.visits:
            return Collected([], [])
        visits, rows = dim_zero_cat(self.visits).cpu(), dim_zero_cat(self.rows).cpu()
        tables: dict[int, Tensor] = {}
        for (image_id, _), table in zip(visits.tolist(), rows.split(visits[:, 1].tolist()), strict=True):
            tables.setdefault(image_id, table)
        found = [self._as_coco(row) for image_id in sorted(tables) for row in tables[image_id].tolist()]
        return Collected(sorted(tables), found)

    def _as_coco(self, row: list[float]) -> dict[str, Any]:
        image_id, x1, y1, x2, y2, score, label = row
        return {
            "image_id": int(image_id),
            "category_id": self.category_ids[int(label)],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
