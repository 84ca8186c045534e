"""Where objects get lost between proposal and detection, by size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from efpn.errors import UserError
from efpn.metrics.bands import TT100K_BINS, Bands, Boxes, SizeRule, Truth, box_sizes, in_band
from efpn.metrics.causes import FALSE_ALARMS, MISSES, alarm_causes, least_in_place, miss_causes
from efpn.metrics.matching import Matcher, Objects
from efpn.metrics.score import UsedRule, flat_objects, rule_used, split_matcher
from efpn.metrics.stages import StageRecord, Stages

RECALL_AT: Final = (100, 300, 1000)


@dataclass(frozen=True)
class BandFunnel:
    """One size band. Shares are of its ground truths, and None where there are none or it is not known."""

    objects: int  # ground truths
    hits: int  # those found at the score threshold; hits and all of misses add up to objects
    # cause (see :mod:`efpn.metrics.causes`) to number; None for causes that only a record could tell
    misses: dict[str, int | None]
    false_alarms: dict[str, int]  # cause to number, by the false alarm's own size
    rpn_recall: dict[int, float | None]  # k to the share with a proposal in place among the best k of its image
    rpn_cap: float | None = None  # share with a proposal in place among those recorded, but only beyond the cap
    # share with a detection of its class in place, at any score, but only beyond the cap
    detection_cap: float | None = None
    rois: int | None = None  # RoIs of the band's size that were pooled
    roi_levels: dict[str, float] | None = None  # level to its share of them; None without any


@dataclass(frozen=True)
class Funnel:
    """Losses by size band, and the rules under which they were counted."""

    score_threshold: float  # detections below it count as none
    size_rule: UsedRule  # how boxes are measured, native pixels
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
    bands: Bands = TT100K_BINS,
    size_rule: SizeRule = "long_side",
    recall_at: Sequence[int] = RECALL_AT,
    matcher: Matcher | None = None,
) -> Funnel:
    """Follow every ground truth from proposal to detection, and say where and why it is lost.

    Args:
        ground_truth: crowds are no objects; false alarms in them are told apart.
        detections: those below the threshold too.
        record: what the detector did before; without it what it would tell is None.
        score_threshold: of hits, misses and false alarms.
        category_ids: the evaluated categories; by default all.
        bands: of sizes, half-open, native pixels; by default those of accuracy and recall.
        size_rule: of the bands.
        recall_at: numbers of proposals for the RPN's recall; None is said above ``record.depth``.
        matcher: of all these (:func:`efpn.metrics.score.split_matcher`), if it is made already.

    Raises:
        UserError: an image with objects of which there is no record.
    """
    wanted = None if category_ids is None else set(category_ids)
    crowds = [box for box in ground_truth["annotations"] if box.get("iscrowd", 0)]
    matcher = matcher or split_matcher(ground_truth, detections, wanted, size_rule)
    truth, found = matcher.truth, matcher.found
    stages = None if record is None else _followed(matcher, record, wanted, size_rule)
    matched = matcher.match(score_threshold)
    alarm = (matched < 0) & (found.scores >= score_threshold)
    missed = miss_causes(truth, found, matched, score_threshold, stages)
    alarms = alarm_causes(truth, flat_objects(crowds, wanted), found, alarm)
    untold, filtered = ["detection_cap", "rpn_cap", "never_proposed"], {}
    if record is not None:
        untold = ["undetected"] if record.depth > record.cap else ["undetected", "rpn_cap"]
        for kind, steps in record.filtered.items():
            filtered[kind] = {step: number / len(record.images) for step, number in steps.items()}
    by_band = {}
    for name, band in bands.items():
        inside, seen = in_band(matcher.truth_sizes, band), in_band(matcher.found_sizes, band)
        causes = {cause: int((missed[inside] == cause).sum()) for cause in MISSES}
        counted = BandFunnel(
            objects=int(inside.sum()),
            hits=int((missed[inside] == "").sum()),
            misses={**causes, **dict.fromkeys(untold)},
            false_alarms={cause: int((alarms[seen] == cause).sum()) for cause in FALSE_ALARMS},
            rpn_recall=dict.fromkeys(recall_at),
        )
        by_band[name] = counted if stages is None else _with_stages(counted, stages, inside, band)
    return Funnel(
        score_threshold,
        rule_used(ground_truth, size_rule, wanted),
        dict(bands),
        record.cap if record else None,
        record.depth if record else None,
        record.detections_cap if record else None,
        by_band,
        filtered,
    )


def _followed(matcher: Matcher, record: StageRecord, wanted: set[int] | None, rule: SizeRule) -> Stages:
    """How far each ground truth of ``matcher`` came (raises `UserError`: there is no record of its image)."""
    truth, found = matcher.truth, matcher.found
    missing = sorted(set(truth.images.tolist()) - record.images.keys())
    if missing:
        raise UserError(
            f"record of proposals: {len(missing)} images with objects are not in it, such as {missing[0]}; "
            "record the split that is scored, or restrict the ground truth to what was seen"
        )
    order = sorted(record.images)
    counts = [len(record.images[image_id].boxes) for image_id in order]
    boxes = np.concatenate([np.empty((0, 4)), *(record.images[image_id].boxes for image_id in order)])
    scores = np.concatenate([np.empty(0), *(record.images[image_id].scores for image_id in order)])
    ranks = np.concatenate([np.empty(0), *(np.arange(count, dtype=float) for count in counts)])
    images = np.repeat(np.array(order, dtype=np.int64), counts)
    proposals = Objects(boxes.astype(np.float64), np.full(len(boxes), -1), images, scores)
    cut = flat_objects(record.cut, wanted)
    cut_score = -least_in_place(truth, cut, -cut.scores)
    kept = np.isfinite(least_in_place(truth, found, np.zeros(len(found))))
    pooled = [one.boxes[: len(one.levels)] for one in record.images.values()]
    return Stages(
        record,
        rank=least_in_place(truth, proposals, ranks, any_class=True),
        cut_score=cut_score,
        cut_off=np.isfinite(cut_score) & ~kept,
        roi_sizes=box_sizes(np.concatenate([np.empty((0, 4)), *pooled]), rule),
        roi_levels=np.concatenate([np.empty(0, "<U6"), *(one.levels for one in record.images.values())]),
    )


def _with_stages(counted: BandFunnel, stages: Stages, inside: np.ndarray, band: tuple[float, float]) -> BandFunnel:
    """The same with what a record tells."""
    record, rank = stages.record, stages.rank
    levels = stages.roi_levels[in_band(stages.roi_sizes, band)]

    def share(those: np.ndarray) -> float | None:
        return float(those[inside].mean()) if inside.any() else None

    return replace(
        counted,
        rpn_recall={k: share(rank < k) if k <= record.depth else None for k in counted.rpn_recall},
        rpn_cap=share(np.isfinite(rank) & (rank >= record.cap)) if record.depth > record.cap else None,
        detection_cap=share(stages.cut_off),
        rois=len(levels),
        roi_levels={level: float((levels == level).mean()) for level in record.levels} if len(levels) else None,
    )
