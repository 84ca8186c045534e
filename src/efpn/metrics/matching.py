"""One-to-one matching of detections and ground truth as the TT100K toolkit does it, on flat arrays.

``G`` ground truths and ``D`` detections of *all* images lie in a row; a pair exists only within an image. What
does not depend on the score threshold (the IoUs, their order) is computed once, so that a curve costs little more than
a point.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from efpn.metrics.bands import SizeRule, box_sizes, in_band


@dataclass(frozen=True)
class Objects:
    """Boxes of many images."""

    boxes: np.ndarray  # (n, 4) float64 xyxy, native pixels
    classes: np.ndarray  # (n,) int64, any numbering that both sides share
    images: np.ndarray  # (n,) int64, ascending
    scores: np.ndarray  # (n,) float64; inf where there is none, which no threshold drops
    # (n,) float64, the annotations' own areas in square pixels, NaN where there is none; None without any
    areas: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def sizes(self, rule: SizeRule) -> np.ndarray:
        """`box_sizes` ``(n,)``; under ``area`` an annotation's own area goes before that of its box, as in COCOeval."""
        sizes = box_sizes(self.boxes, rule)
        if rule != "area" or self.areas is None:
            return sizes
        return np.where(np.isnan(self.areas), sizes, np.sqrt(self.areas))


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


def pairwise_iou(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """IoU ``(g, d)`` of xyxy boxes in continuous coordinates (no ``+ 1``), 0 where both are empty."""
    low = np.maximum(one[:, None, :2], two[None, :, :2])
    high = np.minimum(one[:, None, 2:], two[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0.0), axis=2)
    areas = [np.maximum((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]), 0.0) for b in (one, two)]
    union = areas[0][:, None] + areas[1][None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


class Matcher:
    """Candidate pairs of a result set, sorted once, matched at any score threshold.

    Pairs overlap by strictly more than ``iou``. Without ``match_same`` those of two classes match too, and are no true
    positives where ``check_type`` is set. ``size_rule`` says how sizes are measured for the bins.
    """

    def __init__(
        self,
        truth: Objects,
        found: Objects,
        *,
        iou: float = 0.5,
        match_same: bool = True,
        check_type: bool = True,
        size_rule: SizeRule = "long_side",
    ) -> None:
        self.truth, self.found, self.check_type = truth, found, check_type
        self.truth_sizes, self.found_sizes = truth.sizes(size_rule), found.sizes(size_rule)
        self.pairs = _candidates(truth, found, iou, match_same)
        rivals_g = np.bincount(self.pairs[:, 0], minlength=len(truth))
        rivals_d = np.bincount(self.pairs[:, 1], minlength=len(found))
        self.contested = (rivals_g[self.pairs[:, 0]] > 1) | (rivals_d[self.pairs[:, 1]] > 1)

    def match(self, min_score: float) -> np.ndarray:
        """``(D,)`` int64: the ground truth that each detection is matched to, -1 for none.

        Greedy by IoU, descending, not by score; ties go by ground-truth order, then detection order.
        """
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

    def inside(self, min_score: float, bins: list[tuple[float, float]]) -> list[tuple[np.ndarray, ...]]:
        """Of each bin ``(D,)`` which detections are right, ``(D,)`` which count, and ``(G,)`` which ground truths do.

        A matched detection follows its ground truth's bin, an unmatched one its own size.
        """
        matched = self.match(min_score)
        hit = matched >= 0
        kept = self.found.scores >= min_score
        size = self.found_sizes.copy()
        size[hit] = self.truth_sizes[matched[hit]]
        right = hit.copy()
        if self.check_type:
            right[hit] = self.truth.classes[matched[hit]] == self.found.classes[hit]
        counted = [kept & in_band(size, band) for band in bins]
        return [(right & one, one, in_band(self.truth_sizes, band)) for one, band in zip(counted, bins, strict=True)]

    def count(self, min_score: float, bins: list[tuple[float, float]]) -> list[Counts]:
        """How many there are `inside` each bin."""
        return [Counts(*(int(mask.sum()) for mask in masks)) for masks in self.inside(min_score, bins)]


def _candidates(truth: Objects, found: Objects, iou: float, match_same: bool) -> np.ndarray:
    """``(P, 2)`` int64 pairs (ground truth, detection), best overlap first, ties in the order of the files."""
    pairs, overlaps = [np.empty((0, 2), np.int64)], [np.empty(0)]
    for image in np.intersect1d(truth.images, found.images):
        g0, g1 = np.searchsorted(truth.images, (image, image + 1))
        d0, d1 = np.searchsorted(found.images, (image, image + 1))
        table = pairwise_iou(truth.boxes[g0:g1], found.boxes[d0:d1])
        allowed = table > iou
        if match_same:
            allowed &= truth.classes[g0:g1, None] == found.classes[None, d0:d1]
        rows = np.argwhere(allowed)
        pairs.append(np.add(rows, (g0, d0)))
        overlaps.append(table[allowed])
    order = np.argsort(-np.concatenate(overlaps), kind="stable")
    return np.concatenate(pairs)[order]
