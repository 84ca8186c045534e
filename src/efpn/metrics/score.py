"""The one flat table of numbers that validation logs and ``evaluate.py`` writes, and numbers by object size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from efpn.metrics.bands import COCO_BANDS, TT100K_BINS, Bands, Boxes, Edges, SizeRule, Truth, box_sizes, in_band, suffix
from efpn.metrics.coco import band_means, coco_metrics, judged, restrict
from efpn.metrics.matching import Matcher, Objects

EDGES: Final = (0, 8, 12, 16, 24, 32, 48, 64, 96, 128, math.inf)  # of the bins of `by_scale`, native pixels


def score(
    ground_truth: Truth,
    detections: Boxes,
    *,
    score_threshold: float,
    category_ids: Iterable[int] | None = None,
    matcher: Matcher | None = None,
) -> dict[str, float | None]:
    """COCO AP/AR by size, and TT100K accuracy, recall and F1 by size at IoU 0.5, in one flat dict.

    AP's and AR's bands go by area, the annotation's own where it gives one. Detections below ``score_threshold`` do not
    count for accuracy, recall and F1 (AP and AR use all). ``category_ids`` are the evaluated ones, by default all;
    ``matcher`` is of all these, if it is made already.

    Returns:
        ``AP AP50 AP75 AP_S AP_M AP_L AR AR_S AR_M AR_L AP_any AP_S_any ... acc rec F1 acc_S rec_S F1_S ...``; None
        where a band holds no object (and for an accuracy without detections). ``_any`` takes all classes as one: where
        they have few objects each, their mean AP hangs on a handful of them; this does not. There a box found twice,
        under two classes, counts as one hit and one false alarm.
    """
    categories = None if category_ids is None else list(category_ids)
    table = coco_metrics(ground_truth, detections, category_ids=categories)
    as_one = coco_metrics(*as_one_class(ground_truth, detections, categories))
    table |= {f"AP{suffix(band)}_any": as_one[f"AP{suffix(band)}"] for band in COCO_BANDS}
    return table | rates(matcher or Matcher.of(ground_truth, detections, categories), score_threshold)


def as_one_class(
    ground_truth: Truth, detections: Boxes, category_ids: Iterable[int] | None = None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ground truth and detections of the evaluated categories, all of category 1."""
    wanted = {one["id"] for one in ground_truth["categories"]} if category_ids is None else set(category_ids)
    truth, found = (
        [{**box, "category_id": 1} for box in boxes if box["category_id"] in wanted]
        for boxes in (ground_truth["annotations"], detections)
    )
    return {**ground_truth, "annotations": truth, "categories": [{"id": 1, "name": "any"}]}, found


def metric_names() -> list[str]:
    """Names of all that `score` returns."""
    by_band = [f"{metric}{suffix(band)}" for band in COCO_BANDS for metric in ("AP", "AR")]
    by_band += [f"AP{suffix(band)}_any" for band in COCO_BANDS]
    by_bin = [f"{rate}{suffix(bin)}" for bin in TT100K_BINS for rate in ("acc", "rec", "F1")]
    return [*by_band, "AP50", "AP75", *by_bin]


def rates(matcher: Matcher, score_threshold: float) -> dict[str, float | None]:
    """The part of `score` that depends on the threshold: ``acc rec F1 acc_S ...``.

    Unlike the official toolkit, which says 1, what is 0 / 0 is None and enters no average.
    """
    table: dict[str, float | None] = {}
    for name, counts in zip(TT100K_BINS, matcher.count(score_threshold), strict=True):
        some = counts.ground_truths > 0
        table[f"acc{suffix(name)}"] = counts.accuracy if some and counts.detections else None
        table[f"rec{suffix(name)}"] = counts.recall if some else None
        table[f"F1{suffix(name)}"] = counts.f1 if some else None
    return table


def best_f1_threshold(ground_truth: Truth, detections: Boxes, *, category_ids: Iterable[int] | None = None) -> float:
    """The score threshold with the best F1; to be chosen on validation, never on the test split.

    Of 100 thresholds from 0 to the top score, the middle one of those that share the best F1; 0 without objects.
    """
    matcher = Matcher.of(ground_truth, detections, category_ids)
    tried = np.linspace(0.0, float(matcher.found.scores.max(initial=0.0)), 100, endpoint=False)
    counts = [matcher.count(float(at), [TT100K_BINS["all"]])[0] for at in tried]
    if not counts[0].ground_truths:
        return 0.0
    values = np.array([count.f1 for count in counts])
    best = np.flatnonzero(values == values.max())
    return float(tried[best[len(best) // 2]])


class SplitScorer:
    """Scores detections of a split in training, by the same `score` as an evaluation."""

    def __init__(self, ground_truth: Truth, category_ids: Sequence[int], score_threshold: float) -> None:
        self.ground_truth = ground_truth
        self.category_ids = list(category_ids)
        self.score_threshold = score_threshold

    def __call__(self, detections: list[dict[str, Any]], image_ids: Sequence[int]) -> dict[str, float | None]:
        """Score COCO-format detections of the images ``image_ids``; None where a band has no object."""
        truth = restrict(self.ground_truth, list(image_ids))
        return score(truth, detections, score_threshold=self.score_threshold, category_ids=self.category_ids)


def objects_by_size(
    ground_truth: Truth,
    bands: Bands,
    rule: SizeRule,
    category_ids: Iterable[int] | None = None,
    edges: Edges = "half_open",
) -> dict[str, int]:
    """Objects of a COCO ground truth per band (native pixels), crowds left out; category ids None for all."""
    sizes = Objects.of(ground_truth["annotations"], category_ids).sizes(rule)
    return {name: int(in_band(sizes, band, edges).sum()) for name, band in bands.items()}


def rule_used(ground_truth: Truth, category_ids: Iterable[int] | None = None) -> Literal["area", "annotation"]:
    """Whose area AP and AR went by, for the tables that show it: the boxes', or another that the annotations give."""
    objects = Objects.of(ground_truth["annotations"], category_ids)
    return "area" if np.allclose(objects.sizes("area"), box_sizes(objects.boxes, "area"), rtol=1e-5) else "annotation"


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


def by_scale(ground_truth: Truth, detections: Boxes, category_ids: Sequence[int] | None = None) -> list[ScaleBin]:
    """AP and AR at IoU 0.50:0.95 in bins of ``sqrt(area)`` (Fig. 1b); every object lies in one of them.

    The arguments are those of `efpn.metrics.coco.coco_metrics`.
    """
    bands = {f"{low:g} to {high:g}": (low, high) for low, high in pairwise(EDGES)}
    means = band_means(judged(ground_truth, detections, bands, category_ids, "half_open"))
    objects = objects_by_size(ground_truth, bands, "area", category_ids)
    return [
        ScaleBin(*band, count, *both) for band, count, both in zip(bands.values(), objects.values(), means, strict=True)
    ]
