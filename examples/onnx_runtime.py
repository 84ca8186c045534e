"""Run an exported detector: ``python examples/onnx_runtime.py model.onnx image.jpg [least score]``.

Needs onnxruntime, numpy and pillow, neither torch nor this project. ``model.onnx.json`` lies beside the model.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.float32]


def main(model: Path, image: Path, least: float) -> None:
    """Print class, score and box (x1 y1 x2 y2, in the file's own pixels) of every detection from ``least`` on."""
    facts = json.loads(model.with_name(f"{model.name}.json").read_text(encoding="utf-8"))
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    with Image.open(image) as file:
        native = np.asarray(file.convert("RGB"))  # EXIF rotation is not applied, as in training
    pixels = resized(native, facts["input"])
    boxes, labels, scores = session.run(["boxes", "labels", "scores"], {"image": pixels})
    given = facts["input"]["given"]
    down, across = (pixels.shape[axis + 1] / given / native.shape[axis] for axis in (0, 1))
    for box, label, score in zip(boxes / [across, down, across, down], labels, scores, strict=True):
        if score >= least:
            print(facts["classes"][label - 1], f"{score:.3f}", *(f"{side:.1f}" for side in box))
    print(f"{(scores >= least).sum()} of {len(scores)} detections score {least:g} or more", file=sys.stderr)


def resized(native: NDArray[np.uint8], rule: dict[str, Any]) -> Array:
    """What the network has learned to see of an image ``(h, w, 3)``: ``(3, H, W)`` in [0, 1].

    The shorter side becomes ``short_side`` unless the longer one would pass ``max_size``. The image is resized to
    ``factor`` times that size (area mean when shrinking, linear when enlarging) and rounded to whole grey values. The
    model is given it at ``given`` times that size: with ``factor`` 2 and ``given`` 1 the mean of 2 x 2 pixels.
    """
    height, width = native.shape[:2]
    scale = min(rule["short_side"] / min(height, width), rule["max_size"] / max(height, width))
    factor = rule["factor"]
    rows, columns = (max(1, round(side * scale)) for side in (height, width))
    how = linear if factor * factor * rows * columns > height * width else area_mean
    down, right = how(height, factor * rows), how(width, factor * columns)
    # (rows, h) @ (h, w) @ (w, columns) for each colour
    grey = np.floor(down @ native.transpose(2, 0, 1).astype(np.float32) @ right.T + 0.5)  # as OpenCV rounds
    block = factor // rule["given"]
    blocks = grey.reshape(3, grey.shape[1] // block, block, grey.shape[2] // block, block)
    return (blocks.mean(axis=(2, 4)) / 255).astype(np.float32)


def area_mean(length: int, size: int) -> Array:
    """Weights ``(size, length)`` by which each new pixel is the mean of what it covers of the old ones."""
    edges = np.arange(size + 1)[:, None] * (length / size)
    covered = np.clip(edges - np.arange(length), 0, 1)  # of each old pixel, up to each edge
    return (np.diff(covered, axis=0) * (size / length)).astype(np.float32)


def linear(length: int, size: int) -> Array:
    """Weights ``(size, length)`` of linear interpolation between pixel centres."""
    centres = np.clip((np.arange(size) + 0.5) * (length / size) - 0.5, 0, length - 1)
    return np.clip(1 - np.abs(centres[:, None] - np.arange(length)), 0, 1).astype(np.float32)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) == 4 else 0.5)
