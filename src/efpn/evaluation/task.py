"""Running a trained detector over a split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl

from efpn.evaluation.variants import Variant
from efpn.metrics.accumulate import Collected, DetectionAccumulator
from efpn.models import EFPNDetector
from efpn.tasks.base import count_capped, native_detections, warn_of_cap


class EvaluationTask(pl.LightningModule):
    """Collects a detector's boxes over a test loader, on any number of processes.

    Args:
        detector: with its weights.
        variant: how to detect with it.
        category_ids: ``category_ids[label - 1]`` in the detections.

    Attributes:
        collected: after ``Trainer.test``: each picture once, boxes in native pixels.
    """

    def __init__(self, detector: EFPNDetector, variant: Variant, category_ids: Sequence[int]) -> None:
        super().__init__()
        self.detector = detector
        self.variant = variant
        self.detections = DetectionAccumulator(category_ids)
        self.collected: Collected | None = None
        self.capped = 0

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Detect and keep the boxes."""
        found = self.variant.predict(self.detector, batch)
        self.capped += count_capped(self.detector, found)
        self.detections.update(*native_detections(found, batch[-1]))

    def on_test_epoch_end(self) -> None:
        """Gather from all processes, and say if the detector's cap cut anything off."""
        warn_of_cap(self.detector, self.capped)
        self.collected = self.detections.compute()
        self.detections.reset()
