"""What all trainings share: freezing, optimizer and schedule, seeding by step, and scoring the validation split."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from efpn.metrics.accumulate import DetectionAccumulator
from efpn.models import EFPNDetector
from efpn.tasks.freezing import hold_frozen, train_only
from efpn.types import Detections, split_batch

log = logging.getLogger(__name__)


# COCO-format detections (native pixels) and the ids of the images seen, to named numbers
Scorer = Callable[[list[dict[str, Any]], Sequence[int]], Mapping[str, float | None]]


class DetectorTask(pl.LightningModule):
    """Base of the trainings of one detector; a subclass gives ``training_step``.

    Args:
        detector: the model; its data come resized, so it only normalises and pads.
        trainable: patterns of the parameters that learn, e.g. ``backbone.extension.*``; ``*`` leaves what the model
            itself leaves.
        optimizer: called with the trainable parameters.
        schedule: called with the optimizer; stepped once per optimizer step. None keeps the learning rate.
        category_ids: ``category_ids[label - 1]`` in the COCO-format detections; needed for validation.
        scorer: scores the validation detections; None skips the metrics.
        seed: of the sampling inside the model (RoIs, anchors), mixed with the step so that a resumed run repeats it.

    Attributes:
        validated_at: optimizer step of the last validation, -1 before the first.
        losses: of the last training batch, by name, and their total as ``loss``; without gradient.
    """

    def __init__(
        self,
        detector: EFPNDetector,
        trainable: Sequence[str] = ("*",),
        optimizer: Callable[..., Optimizer] | None = None,
        schedule: Callable[[Optimizer], LRScheduler] | None = None,
        category_ids: Sequence[int] = (),
        scorer: Scorer | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.detector = detector
        train_only(detector, trainable)
        self.optimizer, self.schedule = optimizer, schedule
        self.detections = DetectionAccumulator(list(category_ids)) if category_ids else None
        self.scorer = scorer
        self.seed = seed
        self.validated_at = -1
        self.losses: dict[str, Tensor] = {}

    def on_fit_start(self) -> None:
        """Enter training mode by our own `train`: Lightning leaves the modes of a new module as they are."""
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Switch modes, but hold what is frozen in eval mode."""
        super().train(mode)
        hold_frozen(self.detector)
        return self

    def forward(self, images: list[Tensor], images_2x: list[Tensor] | None = None) -> list[Detections]:
        """Detect; boxes in pixels of the 1x images."""
        return self.detector(images, images_2x=images_2x)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed by step and process: a resumed run draws the same RoIs as an unbroken one."""
        torch.manual_seed(hash((self.seed, self.trainer.global_step, batch_idx, self.global_rank)) % 2**63)

    def log_losses(self, losses: Mapping[str, Tensor], total: Tensor, batch_size: int) -> Tensor:
        """Log the losses and their total under ``train/`` and return the total."""
        self.losses = {**{name: value.detach() for name, value in losses.items()}, "loss": total.detach()}
        self.log_dict({f"train/{name}": value for name, value in self.losses.items()}, batch_size=batch_size)
        return total

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Detect and keep the boxes, in native pixels."""
        images, images_2x, targets = split_batch(batch)
        if self.detections is not None:
            ids, found = native_detections(self(images, images_2x), targets)
            self.detections.update(ids, found)

    def on_validation_epoch_end(self) -> None:
        """Score what all processes saw, each image once."""
        self.validated_at = self.global_step
        if self.detections is None or self.scorer is None:
            return
        seen = self.detections.compute()
        metrics = self.scorer(seen.detections, seen.image_ids)
        self.detections.reset()
        numbers = {f"val/{name}": float(value) for name, value in metrics.items() if value is not None}
        # every process has computed the same numbers from the gathered boxes: there is nothing left to reduce
        self.log_dict(numbers, rank_zero_only=True, sync_dist=False)

    def configure_optimizers(self) -> Any:
        """Optimizer over the trainable parameters, and the schedule by steps."""
        assert self.optimizer is not None, "this task was built to evaluate only; give it an optimizer to train"
        optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        if self.schedule is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.schedule(optimizer), "interval": "step"},
        }


def count_capped(detector: EFPNDetector, found: Sequence[Detections]) -> int:
    """How many images hold as many detections as the detector's own cap allows."""
    return sum(len(one["boxes"]) >= detector.detections_per_img for one in found)


def warn_of_cap(detector: EFPNDetector, capped: int, what: str = "images") -> None:
    """Say if the cap may have cut off something in ``capped`` images (or ``what`` else was counted)."""
    if capped:
        cap = detector.detections_per_img
        told = "%d %s reach the cap of %d detections (model.*.detections_per_image): objects may be cut off there"
        log.warning(told, capped, what, cap)


def native_detections(
    found: Sequence[Detections], targets: Sequence[Mapping[str, Tensor]]
) -> tuple[list[int], list[dict[str, Tensor]]]:
    """Bring detections from 1x pixels back to the file's pixels; returns image ids and detections."""
    ids = [int(target["image_id"]) for target in targets]
    scales = [target["scale"].repeat(2).to(one["boxes"]) for one, target in zip(found, targets, strict=True)]
    native = [
        {"boxes": one["boxes"] / scale, "scores": one["scores"], "labels": one["labels"]}
        for one, scale in zip(found, scales, strict=True)
    ]
    return ids, native
