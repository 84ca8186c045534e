"""The one flat table of numbers that validation logs and ``evaluate.py`` writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from efpn.metrics.bands import COCO_BANDS, TT100K_BINS, Bands, Boxes, Edges, SizeRule, Truth, box_sizes, in_band, suffix
from efpn.metrics.coco import coco_metrics, restrict
from efpn.metrics.matching import Matcher, Objects

UsedRule = Literal["long_side", "area", "annotation"]


class Threshold(NamedTuple):
    """A score threshold and the F1 that it reached on the split where it was chosen."""

    score: float
    f1: float | None


def score(
    ground_truth: Truth,
    detections: Boxes,
    *,
    score_threshold: float,
    category_ids: Iterable[int] | None = None,
    size_rule: SizeRule = "long_side",
    max_dets: int = 300,
    matcher: Matcher | None = None,
) -> dict[str, float | None]:
    """COCO AP/AR by size, and TT100K accuracy, recall and F1 by size at IoU 0.5, in one flat dict.

    Args:
        ground_truth: COCO ground truth; AP's and AR's bands go by area, the annotation's own where it gives one.
        detections: COCO results.
        score_threshold: detections below it do not count for accuracy, recall and F1 (AP and AR use all).
        category_ids: the evaluated categories; by default all.
        size_rule: of accuracy, recall and F1.
        max_dets: of AP and AR, as `coco_metrics`.
        matcher: of all these (`split_matcher`), if it is made already.

    Returns:
        ``AP AP50 AP75 AP_S AP_M AP_L AR AR_S AR_M AR_L AP_any AP_S_any ... acc rec F1 acc_S rec_S F1_S ...``; None
        where a band holds no object (and for an accuracy without detections). ``_any`` takes all classes as one: where
        they have few objects each, their mean AP hangs on a handful of them; this does not. There a box found twice,
        under two classes, counts as one hit and one false alarm.
    """
    categories = None if category_ids is None else list(category_ids)
    table = coco_metrics(ground_truth, detections, max_dets=max_dets, category_ids=categories)
    merged, found = as_one_class(ground_truth, detections, categories)
    as_one = coco_metrics(merged, found, max_dets=max_dets)
    table |= {f"AP{suffix(band)}_any": as_one[f"AP{suffix(band)}"] for band in COCO_BANDS}
    matcher = matcher or split_matcher(ground_truth, detections, categories, size_rule)
    return table | rates(matcher, score_threshold)


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
    every = matcher.count(score_threshold, list(TT100K_BINS.values()))
    for name, counts in zip(TT100K_BINS, every, strict=True):
        some = counts.ground_truths > 0
        table[f"acc{suffix(name)}"] = counts.accuracy if some and counts.detections else None
        table[f"rec{suffix(name)}"] = counts.recall if some else None
        table[f"F1{suffix(name)}"] = counts.f1 if some else None
    return table


def best_f1_threshold(
    ground_truth: Truth,
    detections: Boxes,
    *,
    category_ids: Iterable[int] | None = None,
    bin: tuple[float, float] = TT100K_BINS["all"],
    size_rule: SizeRule = "long_side",
) -> Threshold:
    """The score threshold with the best F1 in one size bin; to be chosen on validation, never on the test split.

    Of 100 thresholds from 0 to the top score, the middle one of those that share the best F1; 0 and None where F1 does
    not exist (no objects in the bin, a range of sizes by ``size_rule`` in native pixels).
    """
    matcher = split_matcher(ground_truth, detections, category_ids, size_rule)
    top = float(matcher.found.scores.max(initial=0.0))
    tried = np.linspace(0.0, top, 100, endpoint=False)
    counts = [matcher.count(float(at), [bin])[0] for at in tried]
    if not counts[0].ground_truths:
        return Threshold(0.0, None)
    values = np.array([count.f1 for count in counts])
    best = np.flatnonzero(values == values.max())
    return Threshold(float(tried[best[len(best) // 2]]), float(values.max()))


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
    """Objects of a COCO ground truth per band (native pixels), crowds left out; category ids None for all.

    Rule ``area`` takes the annotation's own area where it gives one.
    """
    sizes = _objects(ground_truth, category_ids).sizes(rule)
    return {name: int(in_band(sizes, band, edges).sum()) for name, band in bands.items()}


def rule_used(ground_truth: Truth, rule: SizeRule, category_ids: Iterable[int] | None = None) -> UsedRule:
    """How a rule measured these objects, for the tables that show it.

    ``area`` is ``annotation`` where the annotations give another area than that of the box, else the box's.
    """
    if rule != "area":
        return rule
    objects = _objects(ground_truth, category_ids)
    own, boxes = objects.sizes("area"), box_sizes(objects.boxes, "area")
    return "area" if np.allclose(own, boxes, rtol=1e-5) else "annotation"


def split_matcher(
    ground_truth: Truth, detections: Boxes, category_ids: Iterable[int] | None = None, size_rule: SizeRule = "long_side"
) -> Matcher:
    """The TT100K matching on COCO structures; crowd boxes, which that protocol does not know, are left out."""
    wanted = None if category_ids is None else set(category_ids)
    return Matcher(_objects(ground_truth, wanted), flat_objects(detections, wanted), size_rule=size_rule)


def _objects(ground_truth: Truth, category_ids: Iterable[int] | None) -> Objects:
    wanted = None if category_ids is None else set(category_ids)
    return flat_objects((box for box in ground_truth["annotations"] if not box.get("iscrowd", 0)), wanted)


def flat_objects(boxes: Iterable[Mapping[str, Any]], wanted: set[int] | None) -> Objects:
    """COCO annotations or results of the categories ``wanted`` (None: all) as flat arrays, image by image.

    An annotation's own area goes along; a result has none but that of its box.
    """
    rows = []
    for box in boxes:
        if wanted is None or box["category_id"] in wanted:
            area = None if "score" in box else box.get("area")
            own = np.nan if area is None else float(area)
            rows.append((*box["bbox"], box["category_id"], box["image_id"], box.get("score", np.inf), own))
    table = np.array(rows, dtype=np.float64).reshape(-1, 8)
    table = table[np.argsort(table[:, 5], kind="stable")]
    table[:, 2:4] += table[:, :2]  # xywh to xyxy
    classes, images = table[:, 4].astype(np.int64), table[:, 5].astype(np.int64)
    return Objects(table[:, :4], classes, images, table[:, 6], areas=table[:, 7])
