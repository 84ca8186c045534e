"""Size bands: which objects count as small, medium and large.

A band is ``name: (low, high)``, side lengths in pixels of the *native* image. What "the side length" of a box is, is
the size rule: ``area`` (COCO, and the text of the EFPN paper) takes the root of the area, the annotation's own where it
gives one (in MS COCO that of the outline) and else ``w * h`` of the box; ``long_side`` (the TT100K toolkit) takes
``max(w, h)``. The TT100K toolkit's bands are half-open, ``[low, high)``; COCOeval's include both ends, so that a
box of exactly 32 x 32 pixels counts as small *and* as medium.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal

import numpy as np

Truth = Mapping[str, Any]  # COCO ground truth: images, annotations, categories; native pixels
Boxes = Sequence[Mapping[str, Any]]  # COCO results or annotations: image_id, category_id, bbox xywh; native pixels
Bands = Mapping[str, tuple[float, float]]
SizeRule = Literal["long_side", "area"]
Edges = Literal["half_open", "closed"]

COCO_BANDS: Final[Bands] = MappingProxyType(
    {"all": (0, math.inf), "small": (0, 32), "medium": (32, 96), "large": (96, math.inf)}
)
TT100K_BINS: Final[Bands] = MappingProxyType(
    {"all": (0, 400), "small": (0, 32), "medium": (32, 96), "large": (96, 400)}
)


def suffix(name: str) -> str:
    """Tail of a metric's name for a band: ``""`` for ``all``, else ``_`` and the first letter, as in ``AP_S``."""
    return "" if name == "all" else f"_{name[0].upper()}"


def box_sizes(boxes: np.ndarray, rule: SizeRule) -> np.ndarray:
    """Side length ``(n,)`` of ``boxes (n, 4)`` xyxy: ``max(w, h)`` or, by ``area``, ``sqrt(w * h)``."""
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    return {"long_side": np.maximum(width, height), "area": np.sqrt(np.maximum(width * height, 0.0))}[rule]


def in_band(sizes: np.ndarray, band: tuple[float, float], edges: Edges = "half_open") -> np.ndarray:
    """``(n,)`` bool: which side lengths lie in ``[low, high)``, or in ``[low, high]`` when ``edges`` is ``closed``."""
    return (sizes >= band[0]) & ((sizes <= band[1]) if edges == "closed" else (sizes < band[1]))
