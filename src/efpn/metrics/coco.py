"""COCO average precision and recall by size bands of our own, on top of faster-coco-eval's COCOeval.

Its numbers are pycocotools', to which the tests hold it; on many images and classes it is several times as fast.

Units: native pixels throughout. An image's ground truth and detections are in COCO's structures, boxes ``xywh``.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from efpn.errors import UserError
from efpn.metrics.bands import COCO_BANDS, Bands, Boxes, Edges, Truth, suffix

MAX_DETS: Final = 300  # per image and category, best first; from 100 on this is COCO's AP for a detector of at most 100

log = logging.getLogger(__name__)
logging.getLogger("faster_coco_eval").setLevel(logging.WARNING)  # six lines at INFO for every table of numbers


def coco_metrics(
    ground_truth: Truth, detections: Boxes, category_ids: Iterable[int] | None = None
) -> dict[str, float | None]:
    """AP at IoU 0.50:0.95, AP50, AP75, and AP and AR by `COCO_BANDS` (``AP_S``, ``AR_S``, ...).

    Args:
        ground_truth: a box's size is the root of its ``area`` where given, else of ``w * h``. Crowds are ignored, as
            COCO does.
        detections: COCO results. A warning says how many images hold more than `MAX_DETS`.
        category_ids: averaged over, by default all, but for those without an object in a band.

    Returns:
        Metric name to value in [0, 1], or None for a band that holds no object.

    Raises:
        UserError: detections on unknown images, scores or boxes that are not numbers.
    """
    return _summary(judged(ground_truth, detections, COCO_BANDS, category_ids))


def class_metrics(
    ground_truth: Truth, detections: Boxes, category_ids: Iterable[int] | None = None
) -> dict[int, dict[str, float | None]]:
    """The numbers of `coco_metrics`, which has the arguments, for each category alone, by category id."""
    judge = judged(ground_truth, detections, COCO_BANDS, category_ids)
    return {number: _summary(judge, slice(k, k + 1)) for k, number in enumerate(judge.params.catIds)}


def judged(
    ground_truth: Truth,
    detections: Boxes,
    bands: Bands,
    category_ids: Iterable[int] | None = None,
    edges: Edges = "closed",
    each_image: bool = False,
) -> COCOeval_faster:
    """COCOeval after its work; ``each_image`` keeps what it found on each. Other arguments as `coco_metrics`.

    ``bands`` are compared with the root of a box's area, native pixels. ``edges``: ``closed`` is COCOeval's own rule (a
    box of exactly 32 x 32 counts as small and as medium), ``half_open`` counts every box once.
    """
    results = _as_results(ground_truth, detections)
    counts = Counter((found["image_id"], found["category_id"]) for found in results)
    full = len({image_id for (image_id, _), count in counts.items() if count > MAX_DETS})
    if full:
        what = "images with more than max_dets=%d detections of a class: %d; the cap may drop small objects"
        log.warning(what, MAX_DETS, full)
    annotations = []
    for number, box in enumerate(ground_truth["annotations"], start=1):  # COCOeval takes a matched id of 0 for none
        area = box.get("area", box["bbox"][2] * box["bbox"][3])
        annotations.append({**box, "id": number, "area": area, "iscrowd": int(box.get("iscrowd", 0))})
    images, categories = list(ground_truth["images"]), list(ground_truth["categories"])
    tables = COCO(), COCO()  # without a file
    for table, boxes in zip(tables, (annotations, results), strict=True):
        table.dataset = {"images": images, "categories": categories, "annotations": boxes}
        table.createIndex()
    judge = COCOeval_faster(*tables, "bbox", separate_eval=each_image)
    judge.params.maxDets = [MAX_DETS]
    # inclusive, in square pixels
    ranges = [[float(low) ** 2, float(high) ** 2] for low, high in bands.values()]
    if edges == "half_open":
        ranges = [[low, math.nextafter(high, 0.0) if math.isfinite(high) else high] for low, high in ranges]
    judge.params.areaRng = ranges
    judge.params.areaRngLbl = list(bands)
    if category_ids is not None:
        judge.params.catIds = sorted(category_ids)
    judge.evaluate()
    judge.accumulate()
    return judge


def restrict(ground_truth: Truth, image_ids: Iterable[int]) -> dict[str, Any]:
    """The ground truth of some images only, as for a run over a part of a split (``limit_val_batches``)."""
    keep = set(image_ids)
    return {
        **ground_truth,
        "images": [image for image in ground_truth["images"] if image["id"] in keep],
        "annotations": [box for box in ground_truth["annotations"] if box["image_id"] in keep],
    }


def _as_results(ground_truth: Truth, detections: Boxes) -> list[dict[str, Any]]:
    """Checked copies of the detections with id and area."""
    known = {image["id"] for image in ground_truth["images"]}
    strange = sorted({str(found["image_id"]) for found in detections if found["image_id"] not in known})
    if strange:
        raise UserError(
            f"detections: {len(strange)} image_id not in the ground truth, such as {strange[0]}; "
            "score them against the split they were made on"
        )
    values = np.array([[*found["bbox"], found["score"]] for found in detections], dtype=float).reshape(-1, 5)
    broken = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if broken.size:
        where = detections[int(broken[0])]["image_id"]
        raise UserError(
            f"detections: record {broken[0]} (image_id {where}) has a bbox or score that is not a finite number "
            f"({broken.size} such records); remove or mend them"
        )
    areas = values[:, 2] * values[:, 3]
    return [{**found, "id": n, "area": areas[n - 1], "iscrowd": 0} for n, found in enumerate(detections, start=1)]


def band_means(judge: COCOeval_faster, classes: slice = slice(None)) -> list[tuple[float | None, float | None]]:
    """AP and AR of each of the bands that `judged` was given, over some of the categories; None without an object."""
    precision, recall = judge.eval["precision"][:, :, classes, :, 0], judge.eval["recall"][:, classes, :, 0]
    return [(_mean(precision[..., a]), _mean(recall[..., a])) for a in range(precision.shape[-1])]


def _summary(judge: COCOeval_faster, classes: slice = slice(None)) -> dict[str, float | None]:
    """The numbers of `coco_metrics`, over some of the categories; ``judge`` has judged `COCO_BANDS`."""
    means = dict(zip(COCO_BANDS, band_means(judge, classes), strict=True))
    summary = {"AP": means["all"][0]}
    for iou, label in ((0.5, "AP50"), (0.75, "AP75")):
        at = int(np.argmin(np.abs(judge.params.iouThrs - iou)))
        summary[label] = _mean(judge.eval["precision"][at, :, classes, list(COCO_BANDS).index("all"), 0])
    summary |= {f"AP{suffix(name)}": ap for name, (ap, _) in means.items()}
    return summary | {f"AR{suffix(name)}": ar for name, (_, ar) in means.items()}


def _mean(values: np.ndarray) -> float | None:
    """Over what exists; COCOeval marks categories without an object by -1."""
    there = values[values > -1]
    return float(there.mean()) if there.size else None
