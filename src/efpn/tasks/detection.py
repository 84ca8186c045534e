"""Training by ground truth: the baseline, and the finetuning of the new head with OHEM."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from efpn.tasks.base import DetectorTask
from efpn.types import split_batch


class DetectionTask(DetectorTask):
    """Minimises the sum of the detector's own losses; what they are follows from what is frozen.

    With everything trainable these are the four losses of Faster R-CNN. With the RPN and the first head frozen and
    `OHEM` in the RoI heads they are the two losses of the hardest small RoIs.
    """

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Take ``(images, targets)`` or ``(images, images_2x, targets)`` and return the total loss."""
        images, images_2x, targets = split_batch(batch)
        losses = self.detector(images, targets, images_2x)
        return self.log_losses(losses, sum(losses.values(), images[0].new_zeros(())), len(images))
