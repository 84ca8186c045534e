"""What a two-stage detector did before its detections, as plain arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from efpn.errors import UserError
from efpn.metrics.bands import SizeRule, box_sizes
from efpn.metrics.causes import Stages, least_in_place
from efpn.metrics.matching import Objects
from efpn.metrics.score import flat_objects


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
        filtered: of ``proposals`` and of ``detections``, boxes that went at each step of their filter and that were
            kept, all images together.
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


def stages_of(truth: Objects, record: StageRecord, wanted: set[int] | None) -> Stages:
    """How far each ground truth came.

    Args:
        truth: ground truths without crowds.
        record: of the images that hold them.
        wanted: the evaluated categories, None for all.

    Raises:
        UserError: no record of an image that holds some.
    """
    missing = sorted(set(truth.images.tolist()) - record.images.keys())
    if missing:
        raise UserError(
            f"record of proposals: {len(missing)} images with objects are not in it, such as {missing[0]}; "
            "record the split that is scored, or restrict the ground truth to what was seen"
        )
    proposals, ranks = _flat_proposals(record)
    cut = flat_objects(record.cut, wanted)
    return Stages(
        rank=least_in_place(truth, proposals, ranks, any_class=True),
        cap=record.cap,
        cut_score=-least_in_place(truth, cut, -cut.scores),
    )


def rois(record: StageRecord, rule: SizeRule) -> tuple[np.ndarray, np.ndarray]:
    """Size (native pixels) and level of every RoI that was pooled, each ``(R,)``."""
    boxes = [one.boxes[: len(one.levels)] for one in record.images.values()]
    levels = [one.levels for one in record.images.values()]
    return box_sizes(np.concatenate([np.empty((0, 4)), *boxes]), rule), np.concatenate([np.empty(0, "<U6"), *levels])


def _flat_proposals(record: StageRecord) -> tuple[Objects, np.ndarray]:
    """All proposals in a row, of class -1, and their places within their images."""
    order = sorted(record.images)
    counts = [len(record.images[image_id].boxes) for image_id in order]
    boxes = np.concatenate([np.empty((0, 4)), *(record.images[image_id].boxes for image_id in order)])
    scores = np.concatenate([np.empty(0), *(record.images[image_id].scores for image_id in order)])
    ranks = np.concatenate([np.empty(0), *(np.arange(count, dtype=float) for count in counts)])
    classes, images = np.full(len(boxes), -1), np.repeat(np.array(order, dtype=np.int64), counts)
    return Objects(boxes.astype(np.float64), classes, images, scores), ranks
