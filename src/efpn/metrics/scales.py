"""AP and AR against object size, in finer bins than small, medium and large (Fig. 1b)."""

from __future__ import annotations

import math
import string
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from efpn.errors import UserError
from efpn.metrics.bands import Boxes, Truth, suffix
from efpn.metrics.coco import coco_metrics
from efpn.metrics.score import objects_by_size

EDGES: Final = (0, 8, 12, 16, 24, 32, 48, 64, 96, 128, math.inf)
MOST: Final = len(string.ascii_lowercase)  # a bin's name is a letter, since bands are told apart by their first one


class ScaleBin(NamedTuple):
    """One bin: ``sqrt(area)`` in ``[low, high)`` native pixels, its objects, and AP and AR (None without objects)."""

    low: float
    high: float
    objects: int
    ap: float | None
    ar: float | None

    @property
    def name(self) -> str:
        """Such as ``16-24``, ``<8`` or ``128+``."""
        if math.isinf(self.high):
            return f"{self.low:g}+"
        return f"{self.low:g}-{self.high:g}" if self.low else f"<{self.high:g}"


def by_scale(
    ground_truth: Truth, detections: Boxes, *, edges: Sequence[float] = EDGES, category_ids: Iterable[int] | None = None
) -> list[ScaleBin]:
    """AP and AR at IoU 0.50:0.95 in bins of ``sqrt(area)``; every object lies in one bin at most.

    ``edges`` ascend, native pixels; the other arguments are those of :func:`efpn.metrics.coco_metrics`.

    Raises:
        UserError: edges that do not ascend, too many of them; and as :func:`efpn.metrics.coco_metrics`.
    """
    if not 2 <= len(edges) <= MOST + 1 or any(low >= high for low, high in pairwise(edges)):
        raise UserError(f"edges of size bins: {list(edges)} must be 2 to {MOST + 1} ascending numbers, native pixels")
    wanted = None if category_ids is None else list(category_ids)
    bands = dict(zip(string.ascii_lowercase, pairwise(edges), strict=False))
    rates = coco_metrics(ground_truth, detections, bands=bands, category_ids=wanted, edges="half_open")
    objects = objects_by_size(ground_truth, bands, "area", wanted)
    return [
        ScaleBin(*band, objects[name], rates[f"AP{suffix(name)}"], rates[f"AR{suffix(name)}"])
        for name, band in bands.items()
    ]
