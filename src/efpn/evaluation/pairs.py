"""Which pictures show how two runs differ on small objects, and what is drawn on them (Fig. 8)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure

from efpn.evaluation.pictures import Boxes, LoadPicture, by_picture, judge_boxes, outcome_marks, xyxy
from efpn.figures.outcomes import Window
from efpn.figures.pairs import Pair, pair_sheet
from efpn.metrics.bands import TT100K_BINS, SizeRule, in_band
from efpn.metrics.outcomes import Outcomes
from efpn.metrics.score import flat_objects

CONTEXT: Final = 5.0  # a crop's side, in sides of the small objects it is about
LEAST: Final = 96.0  # pixels of a crop's side


@dataclass(frozen=True)
class Difference:
    """What two runs find differently in one picture.

    Attributes:
        image_id: of the picture.
        gained: ``(g, 4)`` xyxy, small ground truths that only the second run finds, native pixels.
        lost: ``(l, 4)`` those that only the first finds.
    """

    image_id: int
    gained: np.ndarray
    lost: np.ndarray

    @property
    def gain(self) -> int:
        """Small hits of the second run more than the first's."""
        return len(self.gained) - len(self.lost)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; boxes xyxy in native pixels."""
        return {"image_id": self.image_id, "gained": self.gained.tolist(), "lost": self.lost.tolist()}


def differences(
    ground_truth: Mapping[str, Any],
    runs: tuple[Boxes, Boxes],
    *,
    score_threshold: float,
    small: tuple[float, float] = TT100K_BINS["small"],
    size_rule: SizeRule = "long_side",
) -> list[Difference]:
    """Every picture's small objects that one run finds and the other misses.

    Args:
        ground_truth: COCO ground truth, native pixels; crowds are left out.
        runs: COCO results of both runs, of the categories of the ground truth.
        score_threshold: detections below it do not exist.
        small: sizes that count as small, native pixels.
        size_rule: ``long_side`` or ``area``.
    """
    truth = by_picture(box for box in ground_truth["annotations"] if not box.get("iscrowd", 0))
    sides = [by_picture(one for one in run if one["score"] >= score_threshold) for run in runs]
    rows = []
    for image in ground_truth["images"]:
        real = truth[image["id"]]
        boxes = xyxy(real)
        tiny = in_band(flat_objects(real, None).sizes(size_rule), small)
        first, second = (_found(judge_boxes(real, side[image["id"]]), len(real)) for side in sides)
        rows.append(Difference(image["id"], boxes[tiny & second & ~first], boxes[tiny & first & ~second]))
    return rows


def choose(found: Sequence[Difference], count: int) -> list[Difference]:
    """The pictures that differ most, better and worse ones in the proportion in which they occur.

    Within either kind those of the greatest difference come first. One worse (better) picture is shown at least, where
    there is one and ``count`` is 2 or more. Pictures in which gains and losses cancel out are not chosen.
    """
    better, worse = (
        sorted((one for one in found if sign * one.gain > 0), key=lambda one: (-abs(one.gain), one.image_id))
        for sign in (1, -1)
    )
    share = round(count * len(worse) / max(len(better) + len(worse), 1))
    least, most = min(len(worse), 1, count // 2), count - min(len(better), 1)
    of_worse = min(max(share, least, count - len(better)), max(most, 0), len(worse))
    return better[: count - of_worse] + worse[:of_worse]


def difference_sheet(
    ground_truth: Mapping[str, Any],
    runs: Mapping[str, Boxes],
    load_picture: LoadPicture,
    *,
    score_threshold: float,
    category_ids: Iterable[int] | None = None,
    small: tuple[float, float] = TT100K_BINS["small"],
    size_rule: SizeRule = "long_side",
    pairs: int = 8,
    columns: int = 2,
    width: float = 11.0,
) -> tuple[Figure, dict[str, Any]] | None:
    """Two runs side by side where they differ most on small objects; the title counts all pictures.

    Args:
        ground_truth: COCO ground truth, native pixels.
        runs: name to COCO results, baseline first; two of them.
        load_picture: image id to ``(H, W, 3)`` uint8, native pixels.
        score_threshold: detections below it are not drawn.
        category_ids: the evaluated categories; others are not drawn. All by default.
        small: sizes that count as small, native pixels.
        size_rule: ``long_side`` or ``area``.
        pairs: how many, at most.
        columns: pairs in a row.
        width: inches.

    Returns:
        The figure and its data (which pictures it shows, and every picture in which the runs differ); None where there
        is none.
    """
    wanted = {c["id"] for c in ground_truth["categories"]} if category_ids is None else set(category_ids)
    truth = {**ground_truth, "annotations": _of(ground_truth["annotations"], wanted)}
    left, right = (_of(run, wanted, score_threshold) for run in runs.values())
    found = differences(truth, (left, right), score_threshold=score_threshold, small=small, size_rule=size_rule)
    chosen = choose(found, pairs)
    if not chosen:
        return None
    first, second = runs
    names = (first, second)
    drawn = [_pair(one, truth, (left, right), load_picture(one.image_id), names) for one in chosen]
    figure = pair_sheet(drawn, names, title=_summary(found, names, score_threshold), columns=columns, width=width)
    rules = {"score_threshold": score_threshold, "small": small, "size_rule": size_rule}
    differing = [one.as_dict() for one in found if len(one.gained) + len(one.lost)]
    shown = [one.image_id for one in chosen]
    return figure, {"runs": names, "rules": rules, "shown": shown, "pictures": differing}


def crop_window(difference: Difference, shape: tuple[int, ...]) -> Window:
    """A square, inside of the picture where it fits, about the object with most other differences near it.

    Args:
        difference: its gains decide, or its losses where there are more of those.
        shape: ``(H, W, ...)`` of the picture.
    """
    boxes = difference.gained if difference.gain > 0 else difference.lost
    side = max(LEAST, CONTEXT * float((boxes[:, 2:] - boxes[:, :2]).max()))
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    near = np.abs(centres[:, None] - centres[None]).max(axis=2) < side / 2
    middle = centres[near[int(near.sum(axis=1).argmax())]].mean(axis=0)
    room = np.maximum(np.array([shape[1], shape[0]]) - side, 0.0)
    x, y = np.clip(middle - side / 2, 0.0, room).tolist()
    return (x, y, x + side, y + side)


def _found(outcomes: Outcomes, count: int) -> np.ndarray:
    return np.isin(np.arange(count), outcomes.found)


def _of(boxes: Boxes, wanted: set[int], score: float = -np.inf) -> list[Mapping[str, Any]]:
    return [one for one in boxes if one["category_id"] in wanted and one.get("score", np.inf) >= score]


def _pair(
    one: Difference, truth: Mapping[str, Any], runs: tuple[Boxes, Boxes], image: np.ndarray, names: tuple[str, str]
) -> Pair:
    """The crop with what became of every box in it, in both runs."""
    classes = {category["id"]: str(category["name"]) for category in truth["categories"]}
    here = [box for box in truth["annotations"] if box["image_id"] == one.image_id and not box.get("iscrowd", 0)]
    sides = [[box for box in run if box["image_id"] == one.image_id] for run in runs]
    left, right = (outcome_marks(judge_boxes(here, side), here, side, classes) for side in sides)
    window = crop_window(one, image.shape)
    kind = "better" if one.gain > 0 else "worse"
    counts = f"{kind}, {len(one.gained)} small gained, {len(one.lost)} lost"
    part = f"{window[2] - window[0]:.0f} of {max(image.shape[:2])} px"
    return Pair(image, left, right, window, f"{one.image_id}: {counts} ({part})")


def _summary(found: Sequence[Difference], names: tuple[str, str], score: float) -> str:
    gained, lost = sum(len(one.gained) for one in found), sum(len(one.lost) for one in found)
    better, worse = sum(one.gain > 0 for one in found), sum(one.gain < 0 for one in found)
    return (
        f"{names[0]} (left) and {names[1]} (right), score >= {score:.2f}\n"
        f"Small objects that only {names[1]} finds: {gained}, only {names[0]}: {lost}; "
        f"{better} pictures better, {worse} worse, {len(found) - better - worse} as good"
    )
