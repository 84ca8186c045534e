"""Result files: written whole or not at all, and as JSON that every reader accepts."""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from efpn.given import load_json


def write_text(path: Path, text: str) -> Path:
    """Write a file in one step, so that a killed run leaves the old one or the new one; makes the folder."""
    return write_bytes(path, as_utf8(text))


def as_utf8(text: str) -> bytes:
    r"""UTF-8, in which a byte of a file name that is none (Python's surrogate) is ``\udcff``, as JSON writes it."""
    return text.encode("utf-8", "backslashreplace")


def write_bytes(path: Path, data: bytes) -> Path:
    """As `write_text`, for what is no text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{zlib.crc32(path.name.encode('utf-8', 'surrogateescape')):08x}.{os.getpid()}.partial")
    partial.write_bytes(data)
    return partial.replace(path)


def write_json(path: Path, data: Any, *, indent: int | None = None) -> Path:
    """Write JSON in one step; NaN and infinity, which JSON does not know, become null."""
    return write_text(path, json.dumps(plain(data), indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def plain(data: Any) -> Any:
    """Numpy numbers, tuples, mappings and paths as what JSON has; a number that is not finite as None."""
    if isinstance(data, Mapping):
        return {str(key): plain(value) for key, value in data.items()}
    if isinstance(data, str | bool | int | None):
        return data
    if isinstance(data, float | np.floating):
        return float(data) if math.isfinite(data) else None
    if isinstance(data, np.ndarray | np.generic):
        return plain(data.tolist())
    if isinstance(data, Sequence):
        return [plain(value) for value in data]
    return str(data)


def read_json(path: Path, fix: str = "write it with evaluate.py") -> Any:
    """Read a JSON file; ``fix`` says how to come by a sound one.

    Raises:
        UserError: it is missing or no JSON.
    """
    return load_json(path, fix)


def as_tt100k_results(ground_truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """COCO results in the TT100K results layout, every picture of the ground truth among them.

    Scores stay as they are (0 to 1; the official toolkit's own threshold of 40 is for scores up to 1000).
    """
    names = {category["id"]: category["name"] for category in ground_truth["categories"]}
    pictures: dict[str, Any] = {str(image["id"]): {"objects": []} for image in ground_truth["images"]}
    for found in detections:
        x, y, width, height = found["bbox"]
        corners = {"xmin": x, "ymin": y, "xmax": x + width, "ymax": y + height}
        thing = {"category": names[found["category_id"]], "score": found["score"], "bbox": corners}
        pictures[str(found["image_id"])]["objects"].append(thing)
    return {"imgs": pictures}
