"""What became of each box of one picture: hit, false alarm or miss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from efpn.metrics.matching import Matcher, Objects


@dataclass(frozen=True)
class Outcomes:
    """Indices into one picture's ground truths and detections.

    Attributes:
        hits: ``(h,)`` detections that found an object.
        found: ``(h,)`` the ground truths that they found, in the same order.
        false_alarms: ``(f,)`` detections that found none (background, wrong class, poor overlap, duplicate).
        misses: ``(m,)`` ground truths that nothing found.
    """

    hits: np.ndarray
    found: np.ndarray
    false_alarms: np.ndarray
    misses: np.ndarray


def judge(
    truth_boxes: np.ndarray,
    truth_labels: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray,
    *,
    min_score: float = 0.0,
    iou: float = 0.5,
) -> Outcomes:
    """Match one picture as the TT100K protocol does (same class, one-to-one, greedy by IoU, strictly above ``iou``).

    Args:
        truth_boxes: ``(n, 4)`` xyxy.
        truth_labels: ``(n,)``.
        boxes: ``(d, 4)`` xyxy, detections, in the same pixels.
        labels: ``(d,)``.
        scores: ``(d,)``.
        min_score: detections below it do not exist.
        iou: least overlap, exclusive.
    """
    truth = Objects(truth_boxes, truth_labels, np.zeros(len(truth_boxes), np.int64), np.full(len(truth_boxes), np.inf))
    matched = Matcher(truth, Objects(boxes, labels, np.zeros(len(boxes), np.int64), scores), iou=iou).match(min_score)
    hits = np.flatnonzero(matched >= 0)
    return Outcomes(
        hits=hits,
        found=matched[hits],
        false_alarms=np.flatnonzero((matched < 0) & (scores >= min_score)),
        misses=np.setdiff1d(np.arange(len(truth_boxes)), matched[hits]),
    )
