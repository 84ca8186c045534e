"""The standard result files of detectors, read and proven against the ground truth before anything is scored.

Two layouts: COCO results, a list of ``{"image_id", "category_id", "bbox": [x, y, width, height], "score"}``, and
TT100K results, ``{"imgs": {id: {"objects": [{"category", "bbox": {"xmin", ...}, "score"}]}}}``. Boxes are in native
pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from efpn.errors import Problem, UserError, raise_problems
from efpn.given import is_id, is_number, require_width_and_height, shown
from efpn.metrics.bands import Boxes, Truth

Missing = Literal["error", "empty"]
CORNERS: Final = ("xmin", "ymin", "xmax", "ymax")


def read_results(content: Any, ground_truth: Truth, source: str, missing: Missing = "error") -> list[dict[str, Any]]:
    """COCO detections from the content of a result file.

    ``content`` is parsed JSON in either layout, ``ground_truth`` that of the split that they were made on,
    ``source`` the file, for messages. Images that TT100K results lack are an ``error`` or count as ``empty``.

    Raises:
        UserError: neither layout; images or categories that the ground truth does not know; scores or boxes that are
            not finite numbers; boxes as corners where width and height are due; all that is wrong in one message.
    """
    if isinstance(content, list):
        detections = content
    elif isinstance(content, Mapping) and isinstance(content.get("imgs"), Mapping):
        detections = _from_tt100k(content["imgs"], ground_truth, source, missing)
    else:
        raise UserError(
            f"{source}: neither COCO results (a list of image_id, category_id, bbox, score) nor TT100K results "
            "({'imgs': {id: {'objects': [...]}}}); write one of these"
        )
    raise_problems(source, _problems(detections, ground_truth, Path(source)))
    _require_no_corners(detections, ground_truth, source)
    return [{**found, "bbox": [float(value) for value in found["bbox"]]} for found in detections]


def _from_tt100k(images: Mapping[str, Any], ground_truth: Truth, source: str, missing: Missing) -> list[dict[str, Any]]:
    ids = {str(one["id"]): one["id"] for one in ground_truth["images"]}
    absent = [key for key in ids if key not in images]
    if absent and missing == "error":
        raise UserError(
            f"{source}: {len(absent)} of {len(ids)} images are missing, such as {absent[0]!r}; write every image, "
            "empty ones too, or say missing=empty (nothing was found there)"
        )
    numbers = {str(category["name"]): category["id"] for category in ground_truth["categories"]}
    found: list[Any] = []  # what is missing, unknown or misshapen stays as it is, for the problems to name
    for key, image in images.items():
        things = image.get("objects", []) if isinstance(image, Mapping) else None
        if not isinstance(things, list):
            raise UserError(f"{source}: image {key!r} is {shown(image)}; give an object with a list 'objects'")
        for thing in things:
            if not isinstance(thing, Mapping):
                found.append(thing)
                continue
            box: Any = thing.get("bbox")
            if isinstance(box, Mapping) and all(is_number(box.get(corner)) for corner in CORNERS):
                box = [box["xmin"], box["ymin"], box["xmax"] - box["xmin"], box["ymax"] - box["ymin"]]
            name, where = thing.get("category"), {"image_id": ids.get(key, key)}
            found.append(
                {**where, "category_id": numbers.get(str(name), name), "bbox": box, "score": thing.get("score")}
            )
    return found


def _problems(detections: Sequence[Any], ground_truth: Truth, source: Path) -> Iterator[Problem]:
    images = {image["id"] for image in ground_truth["images"]}
    categories = {category["id"] for category in ground_truth["categories"]}
    refer = (
        ("image_id", images, "image", "score it on the split it was made on"),
        ("category_id", categories, "category", "use the ground truth's categories"),
    )
    for number, found in enumerate(detections):
        told = partial(Problem, source, f"detection {number}")
        if not isinstance(found, Mapping):
            yield told(f"is {shown(found)}, not an object", "give image_id, category_id, bbox and score")
            continue
        for key, known, what, fix in refer:
            value = found.get(key)
            if isinstance(value, str) and value.isdecimal() and len(value) < 16 and int(value) in known:
                yield told(f"{key} is text, {value!r}", f"write the number, as in {int(value)}")
            elif not is_id(value) or value not in known:
                yield told(f"{key} {shown(value)} is no {what} of the ground truth", fix)
        box, score = found.get("bbox"), found.get("score")
        if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
            yield told(f"bbox is {shown(box)}", "give four finite numbers: x, y, width, height")
        elif box[2] < 0 or box[3] < 0:
            yield told(f"bbox is {shown(box)}, of negative width or height", "give x, y, width, height")
        if not is_number(score):
            yield told(f"score is {shown(score)}", "give a finite number")
        elif not 0 <= score <= 1:
            yield told(f"score is {shown(score)}", "give it from 0 to 1 (divide the TT100K toolkit's by 1000)")


def _require_no_corners(detections: Boxes, truth: Truth, source: str) -> None:
    """Refuse boxes that fit their images as corners (x1, y1, x2, y2) and mostly not as x, y, width, height."""
    sizes = {i["id"]: (i["width"], i["height"]) for i in truth["images"] if i.get("width") and i.get("height")}
    rows = [(*found["bbox"], *sizes[found["image_id"]]) for found in detections if found["image_id"] in sizes]
    boxes, images = np.split(np.array(rows, dtype=np.float64).reshape(-1, 6), [4], axis=1)
    require_width_and_height(boxes, images, source)
