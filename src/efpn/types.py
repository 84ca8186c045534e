"""The words that all parts share: targets, detections, pyramid levels.

Shape legend used throughout the package:

- ``N`` images in a batch, ``H, W`` height and width of the padded batch in pixels of the *network input* (1x);
- ``n`` boxes of one image, ``R`` regions of interest (RoIs) of a batch, ``C`` channels of a pyramid level;
- boxes are ``(x1, y1, x2, y2)``, continuous, in pixels of the image that the text names (1x, 2x or native).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

if TYPE_CHECKING:
    from torch import Tensor


class Target(TypedDict):
    """Ground truth of one image, a superset of what torchvision's detectors take."""

    boxes: Tensor  # ``(n, 4)`` float32, xyxy, pixels of the 1x image
    labels: Tensor  # ``(n,)`` int64, 1 to K; 0 is the background
    image_id: NotRequired[Tensor]  # ``()`` int64, the data set's own id
    # ``(2,)`` float32, 1x pixels per native pixel along x and y; divide boxes by it to return to the file's pixels
    scale: NotRequired[Tensor]
    # ``(m, 4)`` float32, xyxy, pixels of the 1x image: crowd regions, in which nothing is taught as background
    ignore_boxes: NotRequired[Tensor]


class Detections(TypedDict):
    """Detections of one image, as torchvision returns them."""

    boxes: Tensor  # ``(n, 4)`` float32, xyxy; pixels of the image that was given to the detector
    scores: Tensor  # ``(n,)`` float32 in [0, 1], descending
    labels: Tensor  # ``(n,)`` int64, 1 to K


def split_batch(batch: Any) -> tuple[list[Tensor], list[Tensor] | None, list[Any]]:
    """1x images, 2x images and targets of ``(images, targets)`` or, as pairs, ``(images, images_2x, targets)``."""
    return batch[0], batch[1] if len(batch) == 3 else None, batch[-1]


@dataclass(frozen=True)
class LevelSpec:
    """What a pyramid level promises; checked against real tensors when a model is built."""

    name: str  # ``p2`` ... ``p6``, or ``p2_ext`` for the extended level P2' and ``p3_ext`` for P3'
    stride: int  # input pixels (1x) per cell
    channels: int  # depth of the map
