"""Scoring a split in training, by the same `score` as an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from efpn.metrics import restrict, score


class SplitScorer:
    """Scores detections of a split against its ground truth.

    Args:
        ground_truth: COCO structure of the split, native pixels.
        category_ids: evaluated categories.
        score_threshold: of accuracy, recall and F1.
    """

    def __init__(self, ground_truth: dict[str, Any], category_ids: Sequence[int], score_threshold: float) -> None:
        self.ground_truth = ground_truth
        self.category_ids = list(category_ids)
        self.score_threshold = score_threshold

    def __call__(self, detections: list[dict[str, Any]], image_ids: Sequence[int]) -> dict[str, float | None]:
        """Score COCO-format detections of the images ``image_ids``; None where a band has no object."""
        truth = restrict(self.ground_truth, list(image_ids))
        return score(truth, detections, score_threshold=self.score_threshold, category_ids=self.category_ids)
