"""The mistakes that matter most: the surest false alarms, and the misses that should have been easiest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

from matplotlib.figure import Figure

from efpn.evaluation.pictures import Boxes, LoadPicture, by_picture, judge_boxes, outcome_marks
from efpn.figures.crops import Crop, crop_sheet
from efpn.figures.outcomes import Window, zoom_window

Kind = Literal["miss", "false_alarm"]
SHARE: Final = 2.5  # of a crop's side to the object's
LEAST: Final = 48.0  # native pixels of a crop's side


class Mistake(NamedTuple):
    """One miss or false alarm; the greater the weight (size of a miss, score of a false alarm) the worse."""

    image_id: int
    box: Mapping[str, Any]
    weight: float


def worst(
    ground_truth: Mapping[str, Any], detections: Boxes, kind: Kind, *, score_threshold: float, count: int
) -> list[Mistake]:
    """The ``count`` worst mistakes of one kind, at most two of a picture.

    Args:
        ground_truth: COCO ground truth, native pixels; crowds are left out.
        detections: COCO results of its categories.
        kind: ``miss``, by the longer side of the object, or ``false_alarm``, by the score.
        score_threshold: detections below it do not exist.
        count: how many, at most.
    """
    ranked = sorted(_mistakes(ground_truth, detections, kind, score_threshold), key=lambda one: -one.weight)
    chosen: list[Mistake] = []
    for one in ranked:
        if len(chosen) < count and sum(other.image_id == one.image_id for other in chosen) < 2:
            chosen.append(one)
    return chosen


def worst_sheet(
    ground_truth: Mapping[str, Any],
    detections: Boxes,
    load_picture: LoadPicture,
    kind: Kind,
    *,
    score_threshold: float,
    category_ids: Iterable[int],
    count: int = 18,
    title: str = "",
) -> Figure | None:
    """A crop around each of the worst mistakes of one kind; None where there is none.

    Args:
        ground_truth: COCO ground truth, native pixels.
        detections: COCO results.
        load_picture: image id to ``(H, W, 3)`` uint8, native pixels.
        kind: ``miss`` or ``false_alarm``.
        score_threshold: detections below it are not drawn.
        category_ids: the evaluated categories; others are not drawn.
        count: how many, at most.
        title: above the sheet.
    """
    wanted = set(category_ids)
    truth = {**ground_truth, "annotations": [b for b in ground_truth["annotations"] if b["category_id"] in wanted]}
    found = [one for one in detections if one["category_id"] in wanted and one["score"] >= score_threshold]
    chosen = worst(truth, found, kind, score_threshold=score_threshold, count=count)
    real, seen = by_picture(truth["annotations"]), by_picture(found)
    names = {category["id"]: str(category["name"]) for category in truth["categories"]}
    crops = [_crop(one, real[one.image_id], seen[one.image_id], load_picture, names, kind) for one in chosen]
    return crop_sheet(crops, title=title) if crops else None


def _mistakes(truth: Mapping[str, Any], found: Boxes, kind: Kind, score: float) -> Iterator[Mistake]:
    real = by_picture(box for box in truth["annotations"] if not box.get("iscrowd", 0))
    seen = by_picture(one for one in found if one["score"] >= score)
    for image in truth["images"]:
        here, there = real[image["id"]], seen[image["id"]]
        outcomes = judge_boxes(here, there)
        if kind == "miss":
            yield from (Mistake(image["id"], here[i], max(here[i]["bbox"][2:])) for i in outcomes.misses)
        else:
            yield from (Mistake(image["id"], there[i], there[i]["score"]) for i in outcomes.false_alarms)


def _crop(
    one: Mistake, real: Boxes, seen: Boxes, load_picture: LoadPicture, names: Mapping[int, str], kind: Kind
) -> Crop:
    x, y, width, height = one.box["bbox"]
    window: Window = zoom_window((x, y, x + width, y + height), context=SHARE, least=LEAST)
    said = f"{one.weight:.2f}" if kind == "false_alarm" else f"{one.weight:.0f} px"
    here = [box for box in real if not box.get("iscrowd", 0)]
    drawn = outcome_marks(judge_boxes(here, seen), here, seen, names)
    return Crop(
        load_picture(one.image_id), drawn, window, f"{names[one.box['category_id']]}, {said}\npicture {one.image_id}"
    )
