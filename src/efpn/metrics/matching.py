"""One-to-one matching of detections and ground truth by the official TT100K protocol (``anno_func.eval_annos``).

1. Objects outside the evaluated classes are dropped on both sides, so that a detection of an evaluated class on a
   dropped object is a false positive. Crowds, which the protocol does not know, are dropped too.
2. Detections below the least score are dropped; equality is kept, and what has no score is never dropped.
3. Only pairs of one class match, at an IoU strictly above the threshold, in continuous coordinates (no ``+ 1``).
4. One-to-one, greedy by IoU, not by score; ties in the order of ground truth, then of detections.
5. Size is the longer side in native pixels, half-open bins. Binned after matching: a matched detection follows its
   ground truth, an unmatched one its own size; what lies beyond the last bin counts nowhere.
6. Counts are pooled over images and classes; accuracy and recall are 1 where their denominator is 0.
7. The accuracy-recall curve takes 100 thresholds from 0 to the top score, makes accuracy non-decreasing and ends in
   (accuracy, recall) = (0, 1) and (1, 0).

``G`` ground truths and ``D`` detections of *all* images lie in a row; a pair exists only within an image. What
does not depend on the score threshold (the IoUs, their order) is computed once, so that a curve costs little more than
a point.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np

from efpn.metrics.bands import TT100K_BINS, Boxes, SizeRule, Truth, box_sizes, in_band


@dataclass(frozen=True)
class Objects:
    """Boxes of many images."""

    boxes: np.ndarray  # (n, 4) float64 xyxy, native pixels
    classes: np.ndarray  # (n,) int64, any numbering that both sides share
    images: np.ndarray  # (n,) int64, ascending
    scores: np.ndarray  # (n,) float64; inf where there is none, which no threshold drops
    areas: np.ndarray  # (n,) float64, the annotations' own areas in square pixels, NaN where there is none

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def of(
        cls, boxes: Iterable[Mapping[str, Any]], wanted: Iterable[int] | None = None, crowds: bool = False
    ) -> Objects:
        """COCO annotations or results of the categories ``wanted`` (None: all), image by image; no crowds, or these.

        An annotation's own area goes along; a result has none but that of its box.
        """
        rows, ids = [], None if wanted is None else set(wanted)
        for box in boxes:
            if bool(box.get("iscrowd", 0)) == crowds and (ids is None or box["category_id"] in ids):
                area = None if "score" in box else box.get("area")
                own = np.nan if area is None else float(area)
                rows.append((*box["bbox"], box["category_id"], box["image_id"], box.get("score", np.inf), own))
        table = np.array(rows, dtype=np.float64).reshape(-1, 8)
        table = table[np.argsort(table[:, 5], kind="stable")]
        table[:, 2:4] += table[:, :2]  # xywh to xyxy
        return cls(table[:, :4], table[:, 4].astype(np.int64), table[:, 5].astype(np.int64), table[:, 6], table[:, 7])

    def sizes(self, rule: SizeRule = "long_side") -> np.ndarray:
        """`box_sizes` ``(n,)``; under ``area`` an annotation's own area goes before that of its box, as in COCOeval."""
        sizes = box_sizes(self.boxes, rule)
        return sizes if rule != "area" else np.where(np.isnan(self.areas), sizes, np.sqrt(self.areas))


@dataclass(frozen=True)
class Counts:
    """What one size bin holds at one threshold: true positives, detections, ground truths."""

    tp: int
    detections: int
    ground_truths: int

    @property
    def accuracy(self) -> float:
        """TP / detections; 1 without detections, as the official toolkit has it."""
        return self.tp / self.detections if self.detections else 1.0

    @property
    def recall(self) -> float:
        """TP / ground truths; 1 without ground truths, as the official toolkit has it."""
        return self.tp / self.ground_truths if self.ground_truths else 1.0

    @property
    def f1(self) -> float:
        """Harmonic mean of accuracy and recall; 0 where both are 0."""
        total = self.accuracy + self.recall
        return 2 * self.accuracy * self.recall / total if total else 0.0


class Curve(TypedDict):
    """Points in the order of their thresholds; the two end points have thresholds of None."""

    accuracy: list[float]
    recall: list[float]
    threshold: list[float | None]


def overlapping(truth: Objects, found: Objects, iou: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (ground truth, detection) ``(P, 2)`` of an IoU above ``iou``, and which of them are of one class ``(P,)``.

    Best overlap first, ties in the order of the files.
    """
    pairs, overlaps = [np.empty((0, 2), np.int64)], [np.empty(0)]
    for image in np.intersect1d(truth.images, found.images):
        g, d = (slice(*np.searchsorted(side.images, (image, image + 1))) for side in (truth, found))
        one, two = truth.boxes[g, None], found.boxes[None, d]
        sides = np.minimum(one[..., 2:], two[..., 2:]) - np.maximum(one[..., :2], two[..., :2])
        shared = np.prod(np.maximum(sides, 0.0), axis=2)
        areas = [np.maximum(np.prod(box[..., 2:] - box[..., :2], axis=2), 0.0) for box in (one, two)]
        union = areas[0] + areas[1] - shared
        table = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
        pairs.append(np.add(np.argwhere(table > iou), (g.start, d.start)))
        overlaps.append(table[table > iou])
    every = np.concatenate(pairs)[np.argsort(-np.concatenate(overlaps), kind="stable")]
    return every, truth.classes[every[:, 0]] == found.classes[every[:, 1]]


class Matcher:
    """Candidate pairs of a result set (IoU above ``iou``), sorted once, matched at any score threshold."""

    def __init__(self, truth: Objects, found: Objects, iou: float = 0.5) -> None:
        self.truth, self.found = truth, found
        self.truth_sizes, self.found_sizes = truth.sizes(), found.sizes()
        pairs, same = overlapping(truth, found, iou)
        self.pairs = pairs[same]
        rivals_g = np.bincount(self.pairs[:, 0], minlength=len(truth))
        rivals_d = np.bincount(self.pairs[:, 1], minlength=len(found))
        self.contested = (rivals_g[self.pairs[:, 0]] > 1) | (rivals_d[self.pairs[:, 1]] > 1)

    @classmethod
    def of(cls, ground_truth: Truth, detections: Boxes, category_ids: Iterable[int] | None = None) -> Matcher:
        """The matching of COCO structures in these categories, by default in all."""
        wanted = None if category_ids is None else set(category_ids)
        return cls(Objects.of(ground_truth["annotations"], wanted), Objects.of(detections, wanted))

    def match(self, min_score: float) -> np.ndarray:
        """``(D,)`` int64: the ground truth that each detection is matched to, -1 for none."""
        matched = np.full(len(self.found), -1, dtype=np.int64)
        alive = self.found.scores[self.pairs[:, 1]] >= min_score
        free = self.pairs[alive & ~self.contested]  # nobody else wants either side: no order to keep
        matched[free[:, 1]] = free[:, 0]
        taken: set[int] = set()
        for g, d in self.pairs[alive & self.contested].tolist():
            if g not in taken and matched[d] < 0:
                matched[d] = g
                taken.add(g)
        return matched

    def inside(self, min_score: float, bins: Iterable[tuple[float, float]]) -> list[tuple[np.ndarray, ...]]:
        """Of each bin ``(D,)`` which detections are right, ``(D,)`` which count, ``(G,)`` which ground truths do."""
        matched = self.match(min_score)
        hit, kept = matched >= 0, self.found.scores >= min_score
        size = self.found_sizes.copy()
        size[hit] = self.truth_sizes[matched[hit]]
        counted = [(kept & in_band(size, band), in_band(self.truth_sizes, band)) for band in bins]
        return [(hit & detections, detections, truths) for detections, truths in counted]

    def count(self, min_score: float, bins: Iterable[tuple[float, float]] = TT100K_BINS.values()) -> list[Counts]:
        """How many there are `inside` each bin."""
        return [Counts(*(int(mask.sum()) for mask in masks)) for masks in self.inside(min_score, bins)]

    def curves(self, top: float) -> dict[str, Curve]:
        """The accuracy-recall curve of each size bin, 102 points; ``top`` is the results' top score of any class."""
        at = np.linspace(0, top, 100)
        rows = [self.count(float(threshold)) for threshold in at]
        lines = {}
        for name, counts in zip(TT100K_BINS, zip(*rows, strict=True), strict=True):
            rising = np.maximum.accumulate([0.0, *(point.accuracy for point in counts)])
            lines[name] = Curve(
                accuracy=[*rising.tolist(), 1.0],
                recall=[1.0, *(point.recall for point in counts), 0.0],
                threshold=[None, *at.tolist(), None],
            )
        return lines
