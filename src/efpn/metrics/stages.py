"""What a two-stage detector did before its detections, as plain arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from efpn.errors import UserError


@dataclass(frozen=True)
class Proposals:
    """What the RPN proposed in one image.

    Attributes:
        boxes: ``(p, 4)`` xyxy, native pixels, best objectness first; beyond the cap too, as far as they were recorded.
        scores: ``(p,)`` objectness in [0, 1].
        levels: ``(r,)`` names, the level that each of the first ``r = min(p, cap)`` was pooled from.
    """

    boxes: np.ndarray
    scores: np.ndarray
    levels: np.ndarray


@dataclass(frozen=True)
class StageRecord:
    """What came before the detections of a split.

    Attributes:
        cap: proposals per image that the box head is given (the RPN's top n after NMS).
        depth: proposals per image that were recorded; at least ``cap``.
        detections_cap: detections per image that are kept.
        levels: names of the levels that RoIs are pooled from, finest first.
        images: image id to its proposals.
        cut: COCO results (native pixels) that the cap of detections cut off.
        sources: image id to ``(d,)`` names, the level that each kept detection of the image came from, best first.
        filtered: of ``proposals`` and ``detections``, boxes of all images that went at each step or were kept.
    """

    cap: int
    depth: int
    detections_cap: int
    levels: Sequence[str]
    images: Mapping[int, Proposals]
    cut: Sequence[Mapping[str, Any]]
    sources: Mapping[int, np.ndarray]
    filtered: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def filtered_per_image(self) -> dict[str, dict[str, float]]:
        """``filtered`` as means over the images."""
        count = len(self.images)
        return {kind: {step: n / count for step, n in steps.items()} for kind, steps in self.filtered.items()}

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
    """What a record tells of each ground truth ``(G,)`` and of each RoI that was pooled ``(R,)``.

    Attributes:
        record: of the images that hold them.
        rank: ``(G,)`` place (from 0) of the best-scored proposal in place, ``inf`` without one.
        cut_score: ``(G,)`` best score of a detection of its class in place that the cap cut off, ``-inf`` without one.
        cut_off: ``(G,)`` bool, whether such detections were all cut off.
        roi_sizes: ``(R,)`` native pixels.
        roi_levels: ``(R,)`` names.
    """

    record: StageRecord
    rank: np.ndarray
    cut_score: np.ndarray
    cut_off: np.ndarray
    roi_sizes: np.ndarray
    roi_levels: np.ndarray
