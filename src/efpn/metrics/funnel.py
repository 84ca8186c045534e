"""Where objects get lost between proposal and detection, by size, and the record of proposals that tells of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from efpn.errors import UserError
from efpn.metrics.bands import TT100K_BINS, Boxes, SizeRule, Truth, box_sizes, in_band
from efpn.metrics.causes import FALSE_ALARMS, MISSES, Causes, least_in_place
from efpn.metrics.matching import Matcher, Objects

RECALL_AT: Final = (100, 300, 1000)  # numbers of proposals


@dataclass(frozen=True)
class Proposals:
    """What the RPN proposed in one image."""

    # (p, 4) xyxy, native pixels, best objectness first; beyond the cap too, as far as they were recorded
    boxes: np.ndarray
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

    def by_level(self, detections: Boxes) -> dict[str, Boxes]:
        """The detections (in the detector's order within an image) that came from each of the levels.

        Raises:
            UserError: they are not the detections that were recorded.
        """
        rest = {image_id: iter(levels.tolist()) for image_id, levels in self.sources.items()}
        named = [next(rest.get(one["image_id"], iter(())), None) for one in detections]
        if None in named or any(next(left, None) for left in rest.values()):
            raise UserError("detections: others than those of the record; take both from one pass over the split")
        return {level: [detections[n] for n, name in enumerate(named) if name == level] for level in self.levels}


@dataclass(frozen=True)
class BandFunnel:
    """One size band. Shares are of its ground truths, and None where there are none or it is not known."""

    objects: int  # ground truths
    hits: int  # those found at the score threshold; hits and all of misses add up to objects
    # cause (:mod:`efpn.metrics.causes`) to number; None for what only a record could tell
    misses: dict[str, int | None]
    false_alarms: dict[str, int]  # cause to number, by the false alarm's own size
    # k to the share with a proposal in place among the best k of its image; None above the depth of the record
    rpn_recall: dict[int, float | None] = field(default_factory=lambda: dict.fromkeys(RECALL_AT))
    rpn_cap: float | None = None  # share with a proposal in place among those recorded, but only beyond the cap
    # share with a detection of its class in place, at any score, but only beyond the cap
    detection_cap: float | None = None
    rois: int | None = None  # RoIs of the band's size that were pooled
    roi_levels: dict[str, float] | None = None  # level to its share of them; None without any


@dataclass(frozen=True)
class Funnel:
    """Losses by size band, and the rules under which they were counted."""

    score_threshold: float  # detections below it count as none
    size_rule: SizeRule  # how boxes are measured, native pixels
    bands: dict[str, tuple[float, float]]  # half-open ranges of size
    cap: int | None  # proposals per image that the box head was given; this and the next two None without a record
    depth: int | None  # proposals per image that were recorded
    detections_cap: int | None  # detections per image that were kept
    by_band: dict[str, BandFunnel]  # band to its numbers
    # of proposals and detections, boxes an image that went at each step of their filter or were kept; empty without a
    # record
    filtered: dict[str, dict[str, float]]


def loss_funnel(
    ground_truth: Truth,
    detections: Boxes,
    record: StageRecord | None = None,
    *,
    score_threshold: float,
    category_ids: Iterable[int] | None = None,
    matcher: Matcher | None = None,
) -> Funnel:
    """Follow every ground truth from proposal to detection, and say where and why it is lost.

    Crowds are no objects; false alarms in them are told apart. ``detections`` hold those below ``score_threshold``
    too. Without a ``record`` what it would tell is None. ``category_ids`` are the evaluated ones, by
    default all; ``matcher`` is of all these, if it is made already.

    Raises:
        UserError: an image with objects of which there is no record.
    """
    wanted = None if category_ids is None else set(category_ids)
    matcher = matcher or Matcher.of(ground_truth, detections, wanted)
    told = None if record is None else _Told(matcher, record, wanted)
    causes = Causes(matcher.truth, matcher.found, matcher.match(score_threshold), score_threshold)
    missed = causes.misses(told.rank, told.cut_score, told.record.cap) if told else causes.misses(None, None, 0)
    alarms = causes.alarms(Objects.of(ground_truth["annotations"], wanted, crowds=True))
    untold, filtered = ["detection_cap", "rpn_cap", "never_proposed"], {}
    if record is not None:
        untold = ["undetected"] if record.depth > record.cap else ["undetected", "rpn_cap"]
        for kind, steps in record.filtered.items():
            filtered[kind] = {step: number / len(record.images) for step, number in steps.items()}
    by_band = {}
    for name, band in TT100K_BINS.items():
        inside, seen = in_band(matcher.truth_sizes, band), in_band(matcher.found_sizes, band)
        by_band[name] = BandFunnel(
            objects=int(inside.sum()),
            hits=int((missed[inside] == "").sum()),
            misses={cause: int((missed[inside] == cause).sum()) for cause in MISSES} | dict.fromkeys(untold),
            false_alarms={cause: int((alarms[seen] == cause).sum()) for cause in FALSE_ALARMS},
            **(told.of_band(inside, band) if told else {}),
        )
    cap, depth, kept = (record.cap, record.depth, record.detections_cap) if record else (None, None, None)
    return Funnel(score_threshold, "long_side", dict(TT100K_BINS), cap, depth, kept, by_band, filtered)


class _Told:
    """What a record tells of each ground truth ``(G,)`` and of each RoI that was pooled ``(R,)``."""

    def __init__(self, matcher: Matcher, record: StageRecord, wanted: set[int] | None) -> None:
        truth, found, self.record = matcher.truth, matcher.found, record
        if missing := sorted(set(truth.images.tolist()) - record.images.keys()):
            raise UserError(
                f"record of proposals: {len(missing)} images with objects are not in it, such as {missing[0]}; "
                "record the split that is scored, or restrict the ground truth to what was seen"
            )
        images = {image_id: record.images[image_id] for image_id in sorted(record.images)}
        boxes = np.concatenate([np.empty((0, 4)), *(one.boxes for one in images.values())])
        counts = [len(one.boxes) for one in images.values()]
        places = np.repeat(np.array(list(images), dtype=np.int64), counts)
        none = np.full(len(boxes), np.nan)
        proposals = Objects(boxes.astype(np.float64), np.full(len(boxes), -1), places, none, none)
        ranks = np.concatenate([np.empty(0), *(np.arange(count, dtype=float) for count in counts)])
        cut = Objects.of(record.cut, wanted)
        # place (from 0) of the best-scored proposal in place, inf without one
        self.rank = least_in_place(truth, proposals, ranks, any_class=True)
        # best score of a detection of its class in place that the cap cut off, -inf without one
        self.cut_score = -least_in_place(truth, cut, -cut.scores)
        # whether the cap cut off all detections of its class in place
        kept = np.isfinite(least_in_place(truth, found, np.zeros(len(found))))
        self.cut_off = np.isfinite(self.cut_score) & ~kept
        pooled = [one.boxes[: len(one.levels)] for one in images.values()]
        self.roi_sizes = box_sizes(np.concatenate([np.empty((0, 4)), *pooled]), "long_side")
        self.roi_levels = np.concatenate([np.empty(0, "<U6"), *(one.levels for one in images.values())])

    def of_band(self, inside: np.ndarray, band: tuple[float, float]) -> dict[str, Any]:
        """The fields of a `BandFunnel` that only a record can fill; ``inside (G,)`` says whose they are."""
        record, levels = self.record, self.roi_levels[in_band(self.roi_sizes, band)]

        def share(those: np.ndarray) -> float | None:
            return float(those[inside].mean()) if inside.any() else None

        beyond = np.isfinite(self.rank) & (self.rank >= record.cap)
        return {
            "rpn_recall": {k: share(self.rank < k) if k <= record.depth else None for k in RECALL_AT},
            "rpn_cap": share(beyond) if record.depth > record.cap else None,
            "detection_cap": share(self.cut_off),
            "rois": len(levels),
            "roi_levels": {one: float((levels == one).mean()) for one in record.levels} if len(levels) else None,
        }
