"""A set of detections scored against a split: matched once, in memory. Tables, pages and figures are views of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from efpn.metrics.bands import COCO_BANDS, TT100K_BINS, Bands, Boxes, Truth, suffix
from efpn.metrics.coco import MAX_DETS, class_metrics
from efpn.metrics.funnel import Funnel, StageRecord, loss_funnel
from efpn.metrics.matching import Curve, Matcher
from efpn.metrics.score import objects_by_size, rates, rule_used, score

Metrics = Mapping[str, float | None]
LoadImage = Callable[[int], np.ndarray]


@dataclass(frozen=True)
class Outcomes:
    """What became of each box of one image: of its objects (no crowds) and its detections from the threshold on."""

    object_boxes: np.ndarray  # (n, 4) xyxy, native pixels
    object_classes: np.ndarray  # (n,) category ids, evaluated ones alone
    object_sizes: np.ndarray  # (n,) longer sides, native pixels
    detection_boxes: np.ndarray  # (d, 4) xyxy, native pixels
    detection_classes: np.ndarray  # (d,) category ids, likewise
    scores: np.ndarray  # (d,) of the detections
    hits: np.ndarray  # (h,) indices of detections that found an object
    found: np.ndarray  # (h,) indices of the objects that they found, in the same order
    false_alarms: np.ndarray  # (f,) detections that found none (background, wrong class, poor overlap, duplicate)
    misses: np.ndarray  # (m,) objects that nothing found


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Detections, what they are scored against, by which rules; what follows is worked out once, when asked."""

    name: str  # of the row in tables and figures, such as demo/finetune
    split: str  # what was scored, such as tt100k_mosaic/test
    truth: Truth  # COCO ground truth of the images that were scored, native pixels
    detections: Boxes  # COCO results, native pixels, of all scores
    threshold: float  # the fixed score threshold of accuracy, recall and F1
    evaluated: Sequence[int]  # ids of the categories that count
    # seed, commit, command, seconds, hardware, and more: all that says what was evaluated (phase, variant, what was
    # changed in the model)
    facts: Mapping[str, Any]
    best_threshold: float | None = None  # the one of best F1 on best_chosen_on; None where none was chosen
    best_chosen_on: str | None = None  # the split where it was chosen; never the one scored
    stages: StageRecord | None = None  # what the detector did before its detections, if it was recorded
    load_image: LoadImage | None = None  # image id to (H, W, 3) uint8, native pixels; only figures need it
    folder: Path = Path()  # of its report

    @cached_property
    def matcher(self) -> Matcher:
        """The pairs of objects and detections, from which accuracy, recall, losses, curves and sheets are read."""
        return Matcher.of(self.truth, self.detections, self.evaluated)

    @cached_property
    def metrics(self) -> dict[str, float | None]:
        """All numbers of :func:`efpn.metrics.score.score` at the fixed threshold."""
        every, wanted = self.matcher, self.evaluated
        return score(self.truth, self.detections, score_threshold=self.threshold, category_ids=wanted, matcher=every)

    @cached_property
    def metrics_at_best(self) -> dict[str, float | None] | None:
        """The same at the threshold of best F1; None where none was chosen."""
        best = self.best_threshold
        return None if best is None else self.metrics | rates(self.matcher, best)

    @property
    def shown_threshold(self) -> float:
        """What images show, and from which misses are counted: that of best F1, or the fixed one where none was chosen.

        A detector that has trained for little seldom reaches a score of 0.5.
        """
        return self.threshold if self.best_threshold is None else self.best_threshold

    @property
    def by_size(self) -> dict[str, dict[str, list[float | None]]]:
        """Accuracy, recall and F1 of each size bin, by the threshold that they were taken at, in words."""
        taken = {}
        if self.metrics_at_best is not None:
            taken[f"{self.best_threshold:.2f}, best F1 on {self.best_chosen_on}"] = self.metrics_at_best
        taken[f"{self.threshold:.2f}, fixed"] = self.metrics
        return {
            at: {name: [metrics[f"{rate}{suffix(name)}"] for rate in ("acc", "rec", "F1")] for name in TT100K_BINS}
            for at, metrics in taken.items()
        }

    @cached_property
    def funnel(self) -> Funnel:
        """Where objects get lost, by size."""
        given = (self.truth, self.detections, self.stages)
        threshold, wanted = self.shown_threshold, self.evaluated
        return loss_funnel(*given, score_threshold=threshold, category_ids=wanted, matcher=self.matcher)

    @cached_property
    def outcomes(self) -> dict[int, Outcomes]:
        """What became of every box from the threshold on that images show, by image id."""
        truth, found = self.matcher.truth, self.matcher.found
        matched, kept = self.matcher.match(self.shown_threshold), found.scores >= self.shown_threshold
        outcomes = {}
        for number in (image["id"] for image in self.truth["images"]):
            g, d = (slice(*np.searchsorted(side.images, (number, number + 1))) for side in (truth, found))
            shown = d.start + np.flatnonzero(kept[d])
            of = matched[shown]  # the object of each detection
            hits = np.flatnonzero(of >= 0)
            outcomes[number] = Outcomes(
                object_boxes=truth.boxes[g],
                object_classes=truth.classes[g],
                object_sizes=self.matcher.truth_sizes[g],
                detection_boxes=found.boxes[shown],
                detection_classes=found.classes[shown],
                scores=found.scores[shown],
                hits=hits,
                found=of[hits] - g.start,
                false_alarms=np.flatnonzero(of < 0),
                misses=np.setdiff1d(np.arange(g.start, g.stop), of) - g.start,
            )
        return outcomes

    @cached_property
    def curves(self) -> dict[str, Curve | None]:
        """Accuracy against recall by size; None where there is no such object, or no detection at all."""
        if not self.detections:
            return dict.fromkeys(TT100K_BINS)
        lines = self.matcher.curves(top=max(one["score"] for one in self.detections))
        objects = self.record["objects"]["f1"]
        return {name: line if objects[name] else None for name, line in lines.items()}

    @cached_property
    def by_level(self) -> dict[str, Boxes]:
        """Pyramid level to the detections that came from it; empty where it was not recorded."""
        return {} if self.stages is None else self.stages.by_level(self.detections)

    @cached_property
    def by_class(self) -> dict[int, dict[str, float | None]]:
        """AP and AR of each evaluated class by category id."""
        return class_metrics(self.truth, self.detections, category_ids=self.evaluated)

    @cached_property
    def class_objects(self) -> dict[int, int]:
        """Objects of each evaluated class that has some, by category id, commonest first."""
        counts = Counter(box["category_id"] for box in self.truth["annotations"] if not box.get("iscrowd", 0))
        return {key: counts[key] for key in sorted(self.evaluated, key=lambda key: -counts[key]) if counts[key]}

    @cached_property
    def class_names(self) -> dict[int, str]:
        """Category id to name."""
        return {category["id"]: str(category["name"]) for category in self.truth["categories"]}

    @cached_property
    def record(self) -> dict[str, Any]:
        """The contents of ``metrics.json``: the numbers, the rules they follow, and where they come from."""
        truth, wanted = self.truth, self.evaluated
        return {
            "name": self.name,
            "split": self.split,
            "metrics": self.metrics,
            "metrics_at_best_f1": self.metrics_at_best,
            "thresholds": {
                "fixed": self.threshold,
                "best_f1": self.best_threshold,
                "best_f1_chosen_on": self.best_chosen_on,
            },
            "rules": {
                "ap_size_rule": rule_used(truth, wanted),
                "ap_edges": "closed",
                "ap_bands": _as_lists(COCO_BANDS),
                "ap_max_dets": MAX_DETS,
                "f1_size_rule": "long_side",
                "f1_bins": _as_lists(TT100K_BINS),
                "f1_iou": 0.5,
            },
            "objects": {
                "ap": objects_by_size(truth, COCO_BANDS, "area", wanted, "closed"),
                "f1": objects_by_size(truth, TT100K_BINS, "long_side", wanted),
            },
            "images": len(truth["images"]),
            "detections": len(self.detections),
            "categories": len(wanted),
            "classes": {str(one["id"]): one["name"] for one in truth["categories"] if one["id"] in set(wanted)},
            **self.facts,
        }


def _as_lists(bands: Bands) -> dict[str, list[float | None]]:
    """Bands as JSON has them, where no end is null."""
    return {name: [low, high if math.isfinite(high) else None] for name, (low, high) in bands.items()}
