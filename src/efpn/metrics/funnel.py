"""Where objects get lost between proposal and detection, by size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from efpn.metrics.bands import TT100K_BINS, Bands, SizeRule, in_band
from efpn.metrics.causes import FALSE_ALARMS, MISSES, Stages, alarm_causes, miss_causes, reached
from efpn.metrics.counting import UsedRule, rule_used
from efpn.metrics.matching import Matcher, Objects
from efpn.metrics.score import flat_objects, split_matcher
from efpn.metrics.stages import StageRecord, rois, stages_of

RECALL_AT: Final = (100, 300, 1000)


@dataclass(frozen=True)
class BandFunnel:
    """One size band. Shares are of its ground truths, and None where there are none or it is not known.

    Attributes:
        objects: ground truths.
        hits: those found at the score threshold; ``hits`` and all of ``misses`` add up to ``objects``.
        misses: cause (see :mod:`efpn.metrics.causes`) to number; None for causes that only a record could tell.
        false_alarms: cause to number, by the false alarm's own size; ``hits`` and these are all detections from
            the threshold on.
        rpn_recall: k to the share with a proposal in place among the best k of its image.
        rpn_cap: share with a proposal in place among those recorded, but only beyond the cap.
        detection_cap: share with a detection of its class in place, at any score, but only beyond the cap.
        rois: RoIs of the band's size that were pooled.
        roi_levels: level to its share of them; None without any.
    """

    objects: int
    hits: int
    misses: dict[str, int | None]
    false_alarms: dict[str, int]
    rpn_recall: dict[int, float | None]
    rpn_cap: float | None
    detection_cap: float | None
    rois: int | None
    roi_levels: dict[str, float] | None


@dataclass(frozen=True)
class Funnel:
    """Losses by size band, and the rules under which they were counted.

    Attributes:
        score_threshold: detections below it count as none.
        size_rule: how boxes are measured, native pixels.
        bands: half-open ranges of size.
        cap: proposals per image that the box head was given; this and the next two None without a record.
        depth: proposals per image that were recorded.
        detections_cap: detections per image that were kept.
        by_band: band to its numbers.
        filtered: of ``proposals`` and of ``detections``, boxes an image that went at each step of their filter and that
            were kept; empty without a record.
    """

    score_threshold: float
    size_rule: UsedRule
    bands: dict[str, tuple[float, float]]
    cap: int | None
    depth: int | None
    detections_cap: int | None
    by_band: dict[str, BandFunnel]
    filtered: dict[str, dict[str, float]]

    def as_dict(self) -> dict[str, Any]:
        """For :func:`efpn.runs.files.write_json`."""
        return asdict(self)


def loss_funnel(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
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
        ground_truth: COCO ground truth, native pixels. Crowds are no objects; false alarms in them are told apart.
        detections: COCO results, native pixels, those below the threshold too.
        record: what the detector did before; without it what it would tell is None.
        score_threshold: of hits, misses and false alarms.
        category_ids: the evaluated categories; by default all.
        bands: of sizes, half-open, native pixels. By default hits and false alarms are those of accuracy and recall
            of :func:`efpn.metrics.score`.
        size_rule: ``long_side`` or ``area``.
        recall_at: numbers of proposals for the RPN's recall; None is said above ``record.depth``.
        matcher: of all these (:func:`efpn.metrics.score.split_matcher`), if it is made already.

    Raises:
        UserError: an image with objects of which there is no record.
    """
    wanted = None if category_ids is None else set(category_ids)
    crowds = [box for box in ground_truth["annotations"] if box.get("iscrowd", 0)]
    matcher = matcher or split_matcher(ground_truth, detections, wanted, size_rule)
    truth, found = matcher.truth, matcher.found
    stages = None if record is None else stages_of(truth, record, wanted)
    matched = matcher.match(score_threshold)
    alarm = (matched < 0) & (found.scores >= score_threshold)
    fates = _Fates(
        miss_causes(truth, found, matched, score_threshold, stages),
        alarm_causes(truth, flat_objects(crowds, wanted), found, alarm),
        matcher.truth_sizes,
        matcher.found_sizes,
    )
    before = None if record is None or stages is None else _before(truth, found, record, stages, size_rule)
    return Funnel(
        score_threshold,
        rule_used(ground_truth, size_rule, wanted),
        dict(bands),
        record.cap if record else None,
        record.depth if record else None,
        record.detections_cap if record else None,
        {name: _band(band, fates, before, recall_at) for name, band in bands.items()},
        record.filtered_per_image() if record else {},
    )


@dataclass(frozen=True)
class _Fates:
    """Causes and sizes of all ground truths and of all detections."""

    misses: np.ndarray
    alarms: np.ndarray
    truth_sizes: np.ndarray
    found_sizes: np.ndarray


@dataclass(frozen=True)
class _Before:
    """What a record says, of each ground truth ``(G,)`` and of each RoI ``(R,)``."""

    record: StageRecord
    rank: np.ndarray
    beyond_cap: np.ndarray
    cut_off: np.ndarray
    roi_sizes: np.ndarray
    roi_levels: np.ndarray


def _before(truth: Objects, found: Objects, record: StageRecord, stages: Stages, rule: SizeRule) -> _Before:
    cut_off = np.isfinite(stages.cut_score) & ~reached(truth, found)
    beyond_cap = np.isfinite(stages.rank) & (stages.rank >= record.cap)
    return _Before(record, stages.rank, beyond_cap, cut_off, *rois(record, rule))


def _band(band: tuple[float, float], fates: _Fates, before: _Before | None, recall_at: Sequence[int]) -> BandFunnel:
    inside, seen = in_band(fates.truth_sizes, band), in_band(fates.found_sizes, band)
    misses = fates.misses[inside]
    untold = _untold(before)
    return BandFunnel(
        objects=int(inside.sum()),
        hits=int((misses == "").sum()),
        misses={**{cause: int((misses == cause).sum()) for cause in MISSES}, **untold},
        false_alarms={cause: int((fates.alarms[seen] == cause).sum()) for cause in FALSE_ALARMS},
        rpn_recall={k: _recall(before, inside, k) for k in recall_at},
        rpn_cap=_share(before.beyond_cap[inside]) if before and "rpn_cap" not in untold else None,
        detection_cap=_share(before.cut_off[inside]) if before else None,
        **_roi_shares(before, band),
    )


def _untold(before: _Before | None) -> dict[str, int | None]:
    """The causes that nothing is known of."""
    if before is None:
        return dict.fromkeys(("detection_cap", "rpn_cap", "never_proposed"))
    told = before.record.depth > before.record.cap
    return {"undetected": None} if told else dict.fromkeys(("undetected", "rpn_cap"))


def _recall(before: _Before | None, inside: np.ndarray, k: int) -> float | None:
    return None if before is None or k > before.record.depth else _share(before.rank[inside] < k)


def _share(those: np.ndarray) -> float | None:
    return float(those.mean()) if len(those) else None


def _roi_shares(before: _Before | None, band: tuple[float, float]) -> dict[str, Any]:
    if before is None:
        return {"rois": None, "roi_levels": None}
    levels = before.roi_levels[in_band(before.roi_sizes, band)]
    shares = {level: float((levels == level).mean()) for level in before.record.levels} if len(levels) else None
    return {"rois": len(levels), "roi_levels": shares}
