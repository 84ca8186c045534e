"""What a two-stage detector did before its detections, as plain arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from efpn.errors import UserError
from efpn.metrics.bands import Boxes


@dataclass(frozen=True)
class Proposals:
    """What the RPN proposed in one image."""

    # (p, 4) xyxy, native pixels, best objectness first; beyond the cap too, as far as they were recorded
    boxes: np.ndarray
    scores: np.ndarray  # (p,) objectness in [0, 1]
    levels: np.ndarray  # (r,) names, the level that each of the first r = min(p, cap) was pooled from


@dataclass(frozen=True)
class StageRecord:
    """What came before the detections of a split."""

    cap: int  # proposals per image that the box head is given (the RPN's top n after NMS)
    depth: int  # proposals per image that were recorded; at least cap
    detections_cap: int  # detections per image that are kept
    levels: Sequence[str]  # names of the levels that RoIs are pooled from, finest first
    images: Mapping[int, Proposals]  # image id to its proposals
    cut: Boxes  # COCO results (native pixels) that the cap of detections cut off
    # image id to (d,) names, the level that each kept detection of the image came from, best first
    sources: Mapping[int, np.ndarray]
    # of proposals and detections, boxes of all images that went at each step or were kept
    filtered: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def with_levels(self, detections: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The same detections, each with the ``level`` it came from; in the detector's order within an image.

        Raises:
            UserError: they are not the detections that were recorded.
        """
        rest = {image_id: iter(levels.tolist()) for image_id, levels in self.sources.items()}
        named = [{**one, "level": next(rest.get(one["image_id"], iter(())), None)} for one in detections]
        if any(one["level"] is None for one in named) or any(next(left, None) for left in rest.values()):
            raise UserError("detections: others than those of the record; take both from one pass over the split")
        return named


@dataclass(frozen=True)
class Stages:
    """What a record tells of each ground truth ``(G,)`` and of each RoI that was pooled ``(R,)``."""

    record: StageRecord  # of the images that hold them
    rank: np.ndarray  # (G,) place (from 0) of the best-scored proposal in place, inf without one
    cut_score: np.ndarray  # (G,) best score of a detection of its class in place that the cap cut off, -inf without one
    cut_off: np.ndarray  # (G,) bool, whether such detections were all cut off
    roi_sizes: np.ndarray  # (R,) native pixels
    roi_levels: np.ndarray  # (R,) names
