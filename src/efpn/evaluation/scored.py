"""One row of an evaluation with all that its tables and figures need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from efpn.evaluation.pictures import Boxes, LoadPicture
from efpn.metrics.coco import class_metrics
from efpn.metrics.funnel import Funnel

CLASS_METRICS: Final = ("AP", "AP_S")  # of each class in tables
Metrics = Mapping[str, float | None]


@dataclass(frozen=True)
class Scored:
    """One row of an evaluation with all that its figures need.

    Attributes:
        name: of the row.
        folder: of its report.
        record: the contents of its ``metrics.json``.
        truth: COCO ground truth of the pictures that were scored, native pixels.
        category_ids: the evaluated categories.
        detections: COCO results.
        funnel: where objects got lost.
        load_picture: image id to ``(H, W, 3)`` uint8, native pixels.
        levels: pyramid level to the detections that came from it; empty where it was not recorded.
    """

    name: str
    folder: Path
    record: Mapping[str, Any]
    truth: Mapping[str, Any]
    category_ids: Sequence[int]
    detections: Boxes
    funnel: Funnel
    load_picture: LoadPicture
    levels: Mapping[str, Boxes]

    @property
    def threshold(self) -> float:
        """The fixed score threshold."""
        return float(self.record["thresholds"]["fixed"])

    def at_thresholds(self) -> list[tuple[str, Metrics]]:
        """What the accuracy, recall and F1 of this row were taken at, and the metrics there."""
        thresholds, best = self.record["thresholds"], self.record["metrics_at_best_f1"]
        found = [(f"{thresholds['fixed']:.2f}, fixed", self.record["metrics"])]
        if best is not None:
            found.append((f"{thresholds['best_f1']:.2f}, best F1 on {thresholds['best_f1_chosen_on']}", best))
        return found


@dataclass(frozen=True)
class ClassScores:
    """The rows' metrics in one class.

    Attributes:
        name: of the class.
        objects: ground truth objects, without crowds.
        by_row: `CLASS_METRICS` and more, row by row.
    """

    name: str
    objects: int
    by_row: Sequence[Metrics]


def class_scores(rows: Sequence[Scored]) -> list[ClassScores]:
    """AP and AR of each class that has objects, commonest first."""
    first = rows[0]
    names = {category["id"]: category["name"] for category in first.truth["categories"]}
    tables = [class_metrics(one.truth, one.detections, category_ids=one.category_ids) for one in rows]
    objects = dict.fromkeys(first.category_ids, 0)
    for box in first.truth["annotations"]:
        if box["category_id"] in objects and not box.get("iscrowd", 0):
            objects[box["category_id"]] += 1
    commonest = sorted((key for key in objects if objects[key]), key=lambda key: -objects[key])
    return [ClassScores(names[key], objects[key], [table[key] for table in tables]) for key in commonest]
