"""Cross-resolution distillation (Sec. III-C): the extension learns what the same network sees in the 2x image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from efpn.tasks.base import DetectorTask
from efpn.types import LevelSpec

DistillationLoss = Callable[
    [Sequence[Tensor], Sequence[Tensor], Sequence[Tensor], Sequence[LevelSpec]], Mapping[str, Tensor]
]


class DistillationTask(DetectorTask):
    """Trains the extension alone; the teacher is the same frozen backbone and FPN on the 2x image.

    Args:
        loss: see `efpn.losses.DualLoss`; ``loss((p3_ext, p2_ext), targets, boxes, levels)``.
        others: as for `DetectorTask`.
    """

    def __init__(self, *args: Any, loss: DistillationLoss, **others: Any) -> None:
        super().__init__(*args, **others)
        self.loss = loss

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Take ``(images_1x, images_2x, targets)`` and return the loss of eq. 5."""
        images_1x, images_2x, targets = batch
        features, wanted = self.features(images_1x, images_2x)
        boxes, levels = [target["boxes"] for target in targets], self.detector.backbone.extension.levels
        losses = dict(self.loss(features, wanted, boxes, levels))
        return self.log_losses(losses, losses.pop("loss"), len(images_1x))

    def features(
        self, images_1x: list[Tensor], images_2x: list[Tensor]
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Compute ``(P3', P2')`` with gradient and their targets ``(P3, P2)`` of the 2x pass without.

        P3' and its target are ``(N, C, H/4, W/4)``, P2' and its target ``(N, C, H/2, W/2)``.
        """
        backbone = self.detector.backbone
        extension = backbone.extension
        batch_1x, batch_2x = self.detector.batch_pair(images_1x, images_2x)
        with torch.no_grad():
            student, fine = backbone.prepare(batch_1x.tensors, batch_2x)
            stages_2x = backbone.body(batch_2x)
            wanted = extension.targets(backbone.fpn(stages_2x))
        if backbone.reads_2x:  # C2', C3' ... are the teacher's own C2, C3 ...
            stages = [stages_2x[level.name] for level in backbone.body.levels[: extension.last_stage - 1]]
            return extension(extension.sources(student), stages), wanted
        return extension.extend(backbone, student, fine), wanted
