"""The sheet of pictures of a run: which pictures, with what drawn on them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from efpn.figures.outcomes import Mark, marks
from efpn.figures.sheet import Panel, contact_sheet
from efpn.metrics.outcomes import Outcomes, judge

LoadPicture = Callable[[int], np.ndarray]
Boxes = Sequence[Mapping[str, Any]]


def outcome_sheet(
    ground_truth: Mapping[str, Any],
    detections: Boxes,
    load_picture: LoadPicture,
    *,
    score_threshold: float,
    category_ids: Iterable[int] | None = None,
    pictures: int = 12,
    title: str = "",
) -> Figure | None:
    """The pictures with most misses (then most false alarms) and what became of each box in them.

    Args:
        ground_truth: COCO ground truth, native pixels; crowds are not drawn.
        detections: COCO results, native pixels.
        load_picture: image id to ``(H, W, 3)`` uint8, native pixels.
        score_threshold: detections below it are not drawn.
        category_ids: the evaluated categories; others are not drawn. All by default.
        pictures: how many, at most.
        title: above the sheet.

    Returns:
        The figure, or None where there is no picture at all.
    """
    wanted = {c["id"] for c in ground_truth["categories"]} if category_ids is None else set(category_ids)
    truth = by_picture(box for box in ground_truth["annotations"] if not box.get("iscrowd", 0))
    found = by_picture(one for one in detections if one["score"] >= score_threshold)
    judged: list[tuple[int, Boxes, Boxes, Outcomes]] = []
    for image in ground_truth["images"]:
        sides = [[box for box in side[image["id"]] if box["category_id"] in wanted] for side in (truth, found)]
        judged.append((image["id"], *sides, judge_boxes(*sides)))
    judged.sort(key=lambda row: (-len(row[3].misses), -len(row[3].false_alarms)))
    names = {category["id"]: str(category["name"]) for category in ground_truth["categories"]}
    panels = [
        Panel(load_picture(image_id), outcome_marks(outcomes, real, seen, names), _title(image_id, outcomes))
        for image_id, real, seen, outcomes in judged[:pictures]
    ]
    return contact_sheet(panels, title=title) if panels else None


def by_picture(boxes: Iterable[Mapping[str, Any]]) -> dict[int, list[Mapping[str, Any]]]:
    """COCO annotations or results by image id; an empty list for a picture without any."""
    table: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for box in boxes:
        table[box["image_id"]].append(box)
    return table


def xyxy(boxes: Boxes) -> np.ndarray:
    """Corners ``(n, 4)`` of COCO boxes, native pixels."""
    table = np.array([box["bbox"] for box in boxes], dtype=float).reshape(-1, 4)
    return np.hstack([table[:, :2], table[:, :2] + table[:, 2:]])


def judge_boxes(real: Boxes, seen: Boxes) -> Outcomes:
    """What became of one picture's ground truths and detections, as :func:`efpn.metrics.outcomes.judge`."""
    labels = [np.array([box["category_id"] for box in side], dtype=np.int64) for side in (real, seen)]
    return judge(xyxy(real), labels[0], xyxy(seen), labels[1], np.array([one["score"] for one in seen], dtype=float))


def outcome_marks(outcomes: Outcomes, real: Boxes, seen: Boxes, names: Mapping[int, str]) -> list[Mark]:
    """One picture's boxes to draw, native pixels, with class, score and size in words."""
    truth, found = xyxy(real), xyxy(seen)
    sizes = (truth[:, 2:] - truth[:, :2]).max(axis=1, initial=0)
    said = [f"{names[one['category_id']]} {one['score']:.2f}" for one in seen]
    wanted = [f"{names[box['category_id']]}, {size:.0f} px" for box, size in zip(real, sizes, strict=True)]
    return [
        *marks("truth", truth[outcomes.found]),
        *marks("hit", found[outcomes.hits], [said[i] for i in outcomes.hits]),
        *marks("false_alarm", found[outcomes.false_alarms], [said[i] for i in outcomes.false_alarms]),
        *marks("miss", truth[outcomes.misses], [wanted[i] for i in outcomes.misses]),
    ]


def _title(image_id: int, outcomes: Outcomes) -> str:
    alarms, hits = len(outcomes.false_alarms), len(outcomes.hits)
    plural = ("" if alarms == 1 else "s"), ("" if hits == 1 else "s")
    return f"{image_id}: {len(outcomes.misses)} missed, {alarms} false alarm{plural[0]}, {hits} hit{plural[1]}"
