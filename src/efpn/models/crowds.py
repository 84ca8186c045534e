"""Crowd regions in training: what lies in them is neither object nor background.

COCO marks a group that nobody boxed one by one as one region (``iscrowd``). Its members look like objects, so a box
among them must not be taught as background. Detectron's rule for given proposals is followed: the share of the *box's
own* area that lies in a region decides, whatever the classes. It has 0.7 as the share; here it is 0.5, where COCO's
evaluation begins to forgive a detection in a crowd. (Detectron's own RPN, Detectron2 and torchvision drop crowds and
train on them as background.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes

INSIDE: Final = 0.5  # share of a box from which it belongs to the region
LEFT_OUT: Final = -1  # the label that torchvision's samplers pass over


def leave_out_crowds(labels: Tensor, boxes: Tensor, target: Mapping[str, Tensor]) -> Tensor:
    """Take the background boxes that lie in a crowd region out of the training.

    Args:
        labels: ``(n,)``, 0 for background; what is positive stays so.
        boxes: ``(n, 4)`` anchors or RoIs.
        target: of their image; its ``ignore_boxes``, if there are any, are the regions.

    Returns:
        ``(n,)`` labels with `LEFT_OUT` in place of 0 there.
    """
    regions = target.get("ignore_boxes")
    if regions is None or not len(regions):
        return labels
    return labels.masked_fill((labels == 0) & (covered(boxes, regions.to(boxes)) >= INSIDE), LEFT_OUT)


def covered(boxes: Tensor, regions: Tensor) -> Tensor:
    """Largest share of each of ``boxes (n, 4)`` that lies in one of ``regions (m, 4)``, ``(n,)``; m is 1 or more."""
    low = torch.maximum(boxes[:, None, :2], regions[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(dim=2).amax(dim=1)
    return shared / (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).clamp(min=1e-9)


class ResizeWithCrowds(GeneralizedRCNNTransform):
    """torchvision's transform, which resizes the crowd regions with the boxes."""

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Resize the image, its boxes and its crowd regions."""
        before = list(image.shape[-2:])
        image, target = super().resize(image, target)
        if target is not None and "ignore_boxes" in target:
            target["ignore_boxes"] = resize_boxes(target["ignore_boxes"], before, list(image.shape[-2:]))
        return image, target
