"""Whether an exported detector says what the detector itself says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from efpn.errors import UserError, raise_listed
from efpn.models import EFPNDetector
from efpn.types import Detections


class Tolerance(NamedTuple):
    """How far apart two runs of one detection may lie: each side of the box in 1x pixels, and the scores."""

    boxes: float
    scores: float


class Agreement(NamedTuple):
    """How much was compared (images and parts of images, detections), and the largest differences that were found."""

    views: int
    detections: int
    boxes: float  # 1x pixels
    scores: float


@torch.no_grad()
def compare(
    detector: EFPNDetector,
    exported: Callable[[Tensor], Detections],
    views: Iterable[tuple[str, Tensor]],
    tolerance: Tolerance,
) -> Agreement:
    """Run both on every ``(name, image (3, H, W))``; a detector that reads 2x images takes such an image.

    Raises:
        UserError: they differ, with each image on which they do; or nothing is detected in any.
    """
    faults: list[str] = []
    largest, counts = torch.zeros(2), []
    for name, image in views:
        double = detector.backbone.reads_2x
        seen = F.avg_pool2d(image, 2) if double else image
        expected = detector.eval()([seen], images_2x=[image] if double else None)[0]
        found = differences(expected, exported(image), tolerance)
        counts.append(len(expected["scores"]))
        if isinstance(found, str):
            faults.append(f"{name}: {found}")
        else:
            largest = torch.maximum(largest, found)
    raise_listed("the exported model does not say what the detector says", faults)
    if not sum(counts):
        raise UserError(f"nothing to compare: no detection on {len(counts)} views; give others with images=")
    return Agreement(len(counts), sum(counts), *largest.tolist())


def differences(expected: Detections, got: Detections, tolerance: Tolerance) -> Tensor | str:
    """The largest difference of boxes and of scores ``(2,)``, or in words what does not agree.

    Each detection is compared with the nearest one of its class: two of nearly the same score may change places.
    """
    count, other = len(expected["scores"]), len(got["scores"])
    if count != other:
        return f"{other} detections instead of {count}"
    if not count:
        return torch.zeros(2)
    boxes = (expected["boxes"][:, None] - got["boxes"]).abs().amax(dim=2)
    scores = (expected["scores"][:, None] - got["scores"]).abs()
    apart = (boxes / tolerance.boxes).maximum(scores / tolerance.scores)
    apart[expected["labels"][:, None] != got["labels"]] = torch.inf
    nearest = apart.argmin(dim=1)
    rows = torch.arange(count)
    boxes, scores, apart = (table[rows, nearest] for table in (boxes, scores, apart))
    if not (apart <= 1).all():
        row = int(apart.argmax())
        box = ", ".join(f"{side:.1f}" for side in expected["boxes"][row].tolist())
        what = f"the detection of class {int(expected['labels'][row])} at ({box}), score {expected['scores'][row]:.3f},"
        if apart[row].isinf():
            return f"{what} has no counterpart of its class"
        return f"{what} is {boxes[row]:.3g} px and {scores[row]:.3g} of score away from the nearest"
    if len(nearest.unique()) < count:
        return "two detections have one counterpart"
    return torch.stack([boxes.max(), scores.max()])
