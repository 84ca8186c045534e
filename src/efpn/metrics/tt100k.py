"""The official TT100K protocol (``anno_func.eval_annos``), point by point.

1. Objects outside the evaluated types are dropped on both sides, so that a detection of an evaluated type on a dropped
   object is a false positive.
2. Detections below the least score are dropped; equality is kept, and a detection without a score is never dropped.
3. Only pairs of one class match, at an IoU strictly above the threshold, in continuous coordinates.
4. One-to-one, greedy by IoU, not by score; ties in the order of ground truth, then of detections.
5. Size is the longer side in native pixels, half-open bins. Binned after matching: a matched detection follows its
   ground truth, an unmatched one its own size; what lies beyond the last bin counts nowhere.
6. Counts are pooled over images and classes; accuracy and recall are 1 where their denominator is 0.
7. The toolkit scores the images of the *results*, which inflates recall when some are left out: here that is an error
   unless ``missing`` says otherwise.
8. The accuracy-recall curve takes 100 thresholds from 0 to the top score, makes accuracy non-decreasing and ends in
   (accuracy, recall) = (0, 1) and (1, 0).

Both structures are the official JSON: ``{"imgs": {id: {"objects": [{"category", "bbox": {"xmin", ...}, "score"}]}}}``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypedDict

import numpy as np

from efpn.errors import UserError
from efpn.metrics.bands import TT100K_BINS, Bands, SizeRule
from efpn.metrics.matching import Matcher, Objects

Missing = Literal["error", "skip", "empty"]

# fmt: off
TYPES45: Final[tuple[str, ...]] = (
    "i2", "i4", "i5", "il100", "il60", "il80", "io", "ip", "p10", "p11", "p12", "p19", "p23", "p26", "p27", "p3",
    "p5", "p6", "pg", "ph4", "ph4.5", "ph5", "pl100", "pl120", "pl20", "pl30", "pl40", "pl5", "pl50", "pl60",
    "pl70", "pl80", "pm20", "pm30", "pm55", "pn", "pne", "po", "pr40", "w13", "w32", "w55", "w57", "w59", "wo",
)
# fmt: on
"""The 45 classes with 100 instances or more in the 2016 release, those of the published tables."""

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class BinScore(TypedDict):
    """Counts and rates of one bin; ``size_rule`` says how "small" was measured."""

    tp: int
    detections: int
    ground_truths: int
    accuracy: float
    recall: float
    f1: float
    size_rule: str


def evaluate(
    ground_truth: Mapping[str, Any],
    results: Mapping[str, Any],
    *,
    types: Iterable[str] | None = None,
    iou: float = 0.5,
    min_score: float | None = None,
    size_rule: SizeRule = "long_side",
    bins: Bands = TT100K_BINS,
    match_same: bool = True,
    check_type: bool = True,
    missing: Missing = "error",
) -> dict[str, BinScore]:
    """Accuracy, recall and F1 per size bin.

    Args:
        ground_truth: official annotations; every image in it is to be scored.
        results: official results.
        types: evaluated classes; None for all.
        iou: a match overlaps by strictly more.
        min_score: detections below it are dropped; None keeps all.
        size_rule: ``long_side`` (the official one) or ``area`` (square root of it).
        bins: half-open ranges of side length, native pixels.
        match_same: only pairs of one class may match.
        check_type: a match of another class is a false alarm; matters only without ``match_same``.
        missing: what to do about images that the results lack: ``error``; ``skip`` (as the official toolkit does); or
            ``empty`` (count them as images in which nothing was found).

    Raises:
        UserError: images missing from the results or unknown to the ground truth; malformed records; unknown rules.
    """
    truth, found = flatten(ground_truth, results, types=types, missing=missing)
    matcher = Matcher(truth, found, iou=iou, match_same=match_same, check_type=check_type, size_rule=size_rule)
    counts = matcher.count(-np.inf if min_score is None else min_score, list(bins.values()))
    return {
        name: BinScore(
            tp=one.tp,
            detections=one.detections,
            ground_truths=one.ground_truths,
            accuracy=one.accuracy,
            recall=one.recall,
            f1=one.f1,
            size_rule=size_rule,
        )
        for name, one in zip(bins, counts, strict=True)
    }


class Curve(TypedDict):
    """Points of an accuracy-recall curve, thresholds ascending; the two end points have thresholds of None."""

    accuracy: list[float]
    recall: list[float]
    threshold: list[float | None]


def curves(
    ground_truth: Mapping[str, Any],
    results: Mapping[str, Any],
    *,
    types: Iterable[str] | None = None,
    missing: Missing = "error",
    points: int = 100,
) -> dict[str, Curve]:
    """The accuracy-recall curve of each size bin, ``points + 2`` long (other arguments as :func:`evaluate`).

    ``points`` thresholds lie evenly from 0 to the results' top score (of any type), both included.

    Raises:
        UserError: as :func:`evaluate`, and where the results hold no scored detection.
    """
    truth, found = flatten(ground_truth, results, types=types, missing=missing)
    things = (thing for image in results["imgs"].values() for thing in image.get("objects", ()))
    scores = [thing["score"] for thing in things if "score" in thing]
    if not scores:
        raise UserError("results: no detection with a score, so that there is no curve to draw")
    return matched_curves(Matcher(truth, found), max(scores), points)


def matched_curves(matcher: Matcher, top: float, points: int = 100) -> dict[str, Curve]:
    """As `curves`, of boxes that are flat already; ``top`` is the top score of the results."""
    at = np.linspace(0, top, points)
    rows = [matcher.count(float(threshold), list(TT100K_BINS.values())) for threshold in at]
    lines = {}
    for name, counts in zip(TT100K_BINS, zip(*rows, strict=True), strict=True):
        rising = np.maximum.accumulate([0.0, *(point.accuracy for point in counts)])
        lines[name] = Curve(
            accuracy=[*rising.tolist(), 1.0],
            recall=[1.0, *(point.recall for point in counts), 0.0],
            threshold=[None, *at.tolist(), None],
        )
    return lines


def flatten(
    ground_truth: Mapping[str, Any],
    results: Mapping[str, Any],
    *,
    types: Iterable[str] | None = None,
    missing: Missing = "error",
) -> tuple[Objects, Objects]:
    """Both official structures as flat arrays, images in the ground truth's order; raises as :func:`evaluate`."""
    if isinstance(types, str):
        raise UserError(f"types={types!r} is one string; give a list of class names, or None for all")
    wanted = None if types is None else frozenset(types)
    truth, found = _images(ground_truth, "ground truth"), _images(results, "results")
    unknown, absent = [key for key in found if key not in truth], [key for key in truth if key not in found]
    if unknown:
        raise UserError(
            f"results: {len(unknown)} image ids are not in the ground truth, such as {unknown[0]!r}; "
            "score them against the split they were made on, or add these images with an empty 'objects' list"
        )
    if missing not in ("error", "skip", "empty"):
        raise UserError(f"missing={missing!r} is unknown; take 'error', 'skip' or 'empty'")
    if absent and missing == "error":
        raise UserError(
            f"results: {len(absent)} of {len(truth)} images are missing, such as {absent[0]!r}; write every image, "
            "empty ones too, or say missing='empty' (nothing found there) or 'skip' (the official toolkit's way)"
        )
    ids = [key for key in truth if key in found or missing != "skip"]
    numbers: dict[str, int] = {}
    return (
        _objects([truth[key] for key in ids], ids, wanted, numbers, "ground truth"),
        _objects([found.get(key, {"objects": []}) for key in ids], ids, wanted, numbers, "results"),
    )


def _images(table: Mapping[str, Any], side: str) -> Mapping[str, Any]:
    images = table.get("imgs")
    if not isinstance(images, Mapping):
        raise UserError(f"{side}: no 'imgs' object at the top; expected the TT100K layout {{'imgs': {{id: ...}}}}")
    return {str(key): value for key, value in images.items()}


def _objects(
    images: Sequence[Mapping[str, Any]],
    ids: Sequence[str],
    wanted: frozenset[str] | None,
    numbers: dict[str, int],
    side: str,
) -> Objects:
    """Flat arrays; ``numbers`` grows with each new class name, so that both sides share it."""
    rows: list[tuple[float, ...]] = []
    for place, (key, image) in enumerate(zip(ids, images, strict=True)):
        for thing in image.get("objects", ()):
            try:
                name, box = thing["category"], [float(thing["bbox"][corner]) for corner in _CORNERS]
                score = float(thing.get("score", np.inf))
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{side}: image {key!r} has an unreadable object ({error!r}): {thing}") from error
            if not np.isfinite(box).all() or np.isnan(score):
                raise UserError(f"{side}: image {key!r} has a box or score that is not a number: {thing}")
            if wanted is None or name in wanted:
                rows.append((*box, numbers.setdefault(name, len(numbers)), place, score))
    table = np.array(rows, dtype=np.float64).reshape(-1, 7)
    return Objects(table[:, :4], table[:, 4].astype(np.int64), table[:, 5].astype(np.int64), table[:, 6])
