"""The detector that EFPN imitates: P2' replaced by what it is taught to be, P2 of the 2x picture (Table III)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efpn.models.detector import EFPNDetector
from efpn.types import Detections


class Oracle(nn.Module):
    """FPN-1x + P2-2x: upper bound of the extended level, at more than the cost of FPN on the 2x picture.

    Args:
        detector: its ``small`` rule must send small RoIs to ``p2x``; an extension is not needed.
    """

    def __init__(self, detector: EFPNDetector) -> None:
        super().__init__()
        self.detector = detector

    @torch.no_grad()
    def forward(self, images_2x: list[Tensor]) -> list[Detections]:
        """Detect in 1x pixels, given the 2x pictures ``(3, 2h, 2w)``."""
        images_1x = [F.avg_pool2d(image, 2) for image in images_2x]
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images_1x]
        batch, batch_2x = self.detector.batch_pair(images_1x, images_2x)
        features = dict(self.detector.backbone.pyramid(batch.tensors).output)
        features["p2x"] = self.detector.backbone.pyramid(batch_2x).output["p2"]
        return self.detector.detect(features, batch, sizes)
