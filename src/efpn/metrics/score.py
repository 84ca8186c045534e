"""The one flat table of numbers that validation logs and ``evaluate.py`` writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from efpn.metrics.bands import COCO_BANDS, TT100K_BINS, Bands, SizeRule, suffix
from efpn.metrics.coco import coco_metrics
from efpn.metrics.matching import Counts, Matcher, Objects


class Threshold(NamedTuple):
    """A score threshold and the F1 that it reached on the split where it was chosen."""

    score: float
    f1: float | None


def score(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    *,
    score_threshold: float,
    category_ids: Iterable[int] | None = None,
    bands: Bands = COCO_BANDS,
    bins: Bands = TT100K_BINS,
    size_rule: SizeRule = "long_side",
    max_dets: int = 300,
    matcher: Matcher | None = None,
) -> dict[str, float | None]:
    """COCO AP/AR by size, and TT100K accuracy, recall and F1 by size at IoU 0.5, in one flat dict.

    Args:
        ground_truth: COCO ground truth, native pixels.
        detections: COCO results, native pixels.
        score_threshold: detections below it do not count for accuracy, recall and F1 (AP and AR use all).
        category_ids: the evaluated categories; by default all.
        bands: AP's and AR's bands, by area: the annotation's own where it gives one, else that of the box.
        bins: bins of accuracy, recall and F1, by ``size_rule``.
        size_rule: ``long_side`` or ``area``.
        max_dets: COCO's cap per image and category.
        matcher: of all these (`split_matcher`), if it is made already.

    Returns:
        ``AP AP50 AP75 AP_S AP_M AP_L AR AR_S AR_M AR_L AP_any AP_S_any ... acc rec F1 acc_S rec_S F1_S ...``; None
        where a band holds no object (and for an accuracy without detections).
    """
    categories = None if category_ids is None else list(category_ids)
    table = coco_metrics(ground_truth, detections, bands=bands, max_dets=max_dets, category_ids=categories)
    table |= any_class(ground_truth, detections, categories, bands, max_dets)
    matcher = matcher or split_matcher(ground_truth, detections, categories, size_rule)
    return table | rates(matcher, score_threshold, bins)


def any_class(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    category_ids: Iterable[int] | None = None,
    bands: Bands = COCO_BANDS,
    max_dets: int = 300,
) -> dict[str, float | None]:
    """``AP_any`` and, by band, ``AP_S_any`` ...: COCO AP with the evaluated categories as one.

    Where classes have few objects each, their mean AP hangs on a handful of them; this does not. A box found twice,
    under two classes, counts as one hit and one false alarm.
    """
    merged, found = as_one_class(ground_truth, detections, category_ids)
    metrics = coco_metrics(merged, found, bands=bands, max_dets=max_dets)
    return {f"AP{suffix(band)}_any": metrics[f"AP{suffix(band)}"] for band in bands}


def as_one_class(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    category_ids: Iterable[int] | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ground truth and detections of the evaluated categories, all of category 1."""
    wanted = {one["id"] for one in ground_truth["categories"]} if category_ids is None else set(category_ids)
    truth, found = (
        [{**box, "category_id": 1} for box in boxes if box["category_id"] in wanted]
        for boxes in (ground_truth["annotations"], detections)
    )
    return {**ground_truth, "annotations": truth, "categories": [{"id": 1, "name": "any"}]}, found


def metric_names(bands: Bands = COCO_BANDS, bins: Bands = TT100K_BINS) -> list[str]:
    """Names of all that `score` returns."""
    by_band = [f"{metric}{suffix(band)}" for band in bands for metric in ("AP", "AR")]
    by_band += [f"AP{suffix(band)}_any" for band in bands]
    by_bin = [f"{rate}{suffix(bin)}" for bin in bins for rate in ("acc", "rec", "F1")]
    return [*by_band, "AP50", "AP75", *by_bin]


def rates(matcher: Matcher, score_threshold: float, bins: Bands = TT100K_BINS) -> dict[str, float | None]:
    """The part of `score` that depends on the threshold: ``acc rec F1 acc_S ...``."""
    counted = zip(bins, matcher.count(score_threshold, list(bins.values())), strict=True)
    return {key: value for name, counts in counted for key, value in _rates(counts, suffix(name)).items()}


def best_f1_threshold(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    *,
    category_ids: Iterable[int] | None = None,
    bin: tuple[float, float] = TT100K_BINS["all"],
    size_rule: SizeRule = "long_side",
    steps: int = 100,
) -> Threshold:
    """The score threshold with the best F1 in one size bin; to be chosen on validation, never on the test split.

    Args:
        ground_truth: COCO ground truth of the validation split.
        detections: COCO results on it.
        category_ids: the evaluated categories; by default all.
        bin: side lengths whose F1 decides: ``TT100K_BINS["all"]`` or ``["small"]``.
        size_rule: ``long_side`` or ``area``.
        steps: thresholds tried, evenly spaced from 0 to the top score.

    Returns:
        The middle one of the thresholds that share the best F1; a threshold of 0 and None where F1 does not exist (no
        objects in the bin).
    """
    matcher = split_matcher(ground_truth, detections, category_ids, size_rule)
    top = float(matcher.found.scores.max(initial=0.0))
    tried = np.linspace(0.0, top, steps, endpoint=False)
    counts = [matcher.count(float(at), [bin])[0] for at in tried]
    if not counts[0].ground_truths:
        return Threshold(0.0, None)
    values = np.array([count.f1 for count in counts])
    best = np.flatnonzero(values == values.max())
    return Threshold(float(tried[best[len(best) // 2]]), float(values.max()))


def _rates(counts: Counts, tail: str) -> dict[str, float | None]:
    """Rates of one bin. Unlike the official toolkit, which says 1, what is 0 / 0 is None and enters no average."""
    if not counts.ground_truths:
        return {f"acc{tail}": None, f"rec{tail}": None, f"F1{tail}": None}
    accuracy = counts.accuracy if counts.detections else None
    return {f"acc{tail}": accuracy, f"rec{tail}": counts.recall, f"F1{tail}": counts.f1}


def split_matcher(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    category_ids: Iterable[int] | None = None,
    size_rule: SizeRule = "long_side",
) -> Matcher:
    """The TT100K matching on COCO structures; crowd boxes, which that protocol does not know, are left out."""
    truth = [box for box in ground_truth["annotations"] if not box.get("iscrowd", 0)]
    wanted = None if category_ids is None else set(category_ids)
    return Matcher(flat_objects(truth, wanted), flat_objects(detections, wanted), size_rule=size_rule)


def flat_objects(boxes: Iterable[Mapping[str, Any]], wanted: set[int] | None) -> Objects:
    """COCO annotations or results of the categories ``wanted`` (None: all) as flat arrays, image by image.

    An annotation's own area goes along; a result has none but that of its box.
    """
    rows = [
        (*box["bbox"], box["category_id"], box["image_id"], box.get("score", np.inf), _own_area(box))
        for box in boxes
        if wanted is None or box["category_id"] in wanted
    ]
    table = np.array(rows, dtype=np.float64).reshape(-1, 8)
    table = table[np.argsort(table[:, 5], kind="stable")]
    table[:, 2:4] += table[:, :2]  # xywh to xyxy
    return Objects(
        table[:, :4], table[:, 4].astype(np.int64), table[:, 5].astype(np.int64), table[:, 6], areas=table[:, 7]
    )


def _own_area(box: Mapping[str, Any]) -> float:
    area = None if "score" in box else box.get("area")
    return np.nan if area is None else float(area)
