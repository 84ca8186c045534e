"""Training by ground truth: the baseline, and the finetuning of the new head with OHEM."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor

from efpn.tasks.base import DetectorTask


class DetectionTask(DetectorTask):
    """Minimises the sum of the detector's own losses; what they are follows from what is frozen.

    With everything trainable these are the four losses of Faster R-CNN. With the RPN and the first head frozen and
    `OHEM` in the RoI heads they are the two losses of the hardest small RoIs.
    """

    def train(self, mode: bool = True) -> Self:
        """Switch modes; the RoI heads give losses even with all their weights frozen (an extension trains alone)."""
        super().train(mode)
        self.detector.roi_heads.training = mode
        return self

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Take ``(images, targets)`` (or a pair batch, whose 2x pictures go unused) and return the total loss."""
        images, targets = batch[0], batch[-1]
        losses = self.detector(images, targets)
        return self.log_losses(losses, sum(losses.values(), images[0].new_zeros(())), len(images))
