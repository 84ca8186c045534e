"""A crowd of one class, as a COCO json: ``python examples/crowd.py data/tt100k_mosaic data/crowd``.

Crops of the objects of a TT100K-format set are pasted on windows over four of its images side by side, up to 50 to 114
objects in 640 px, nine in ten below 32 px; what the scenes hold already counts too. Train and test are made of the
set's own, so that no crop crosses. See docs/experiments.md, entry 11.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

SIDE = 640
MEDIAN, SPREAD = 15.0, 0.42  # of the objects' sides, pixels, and of their logarithm


def crowd(source: Path, split: str, target: Path, images: int, seed: int) -> None:
    """Write ``target/<split>/*.jpg`` and ``target/<split>.json``."""
    random = np.random.default_rng(seed)
    listed = json.loads((source / "annotations.json").read_text())["imgs"]
    scenes, crops = [], []
    for image_id in (source / split / "ids.txt").read_text().split():
        scene = cv2.imread(str(source / listed[image_id]["path"]))
        assert scene is not None, listed[image_id]["path"]
        boxes = [
            [thing["bbox"][key] for key in ("xmin", "ymin", "xmax", "ymax")] for thing in listed[image_id]["objects"]
        ]
        scenes.append((scene, boxes))
        for x0, y0, x1, y1 in np.round(boxes).astype(int).reshape(-1, 4):
            if min(x1 - x0, y1 - y0) >= 14:
                crops.append(scene[y0:y1, x0:x1])
    (target / split).mkdir(parents=True, exist_ok=True)
    listing: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "sign"}]}
    for number in range(images):
        image, boxes = quarters(scenes, random)
        paste(image, boxes, crops, random)
        name = f"{number:04d}.jpg"
        blurred = cv2.GaussianBlur(image, (0, 0), 0.5)
        cv2.imwrite(str(target / split / name), blurred, [cv2.IMWRITE_JPEG_QUALITY, 92])
        listing["images"].append({"id": number + 1, "file_name": name, "width": SIDE, "height": SIDE})
        for x0, y0, x1, y1 in boxes:
            whose = {"id": len(listing["annotations"]) + 1, "image_id": number + 1, "category_id": 1, "iscrowd": 0}
            size = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
            listing["annotations"].append(whose | size)
    (target / f"{split}.json").write_text(json.dumps(listing))


def quarters(scenes: list[Any], random: np.random.Generator) -> tuple[np.ndarray, list[list[float]]]:
    """A window of four scenes side by side, and the boxes in it."""
    whole, boxes = np.zeros((1024, 1024, 3), np.uint8), []
    for place in range(4):
        scene, own = scenes[random.integers(len(scenes))]
        top, left = 512 * (place // 2), 512 * (place % 2)
        whole[top : top + 512, left : left + 512] = cv2.resize(scene, (512, 512))
        wide, high = 512 / scene.shape[1], 512 / scene.shape[0]
        boxes += [[x0 * wide + left, y0 * high + top, x1 * wide + left, y1 * high + top] for x0, y0, x1, y1 in own]
    x, y = random.integers(0, 385, 2)
    inside = np.clip(np.array(boxes).reshape(-1, 4) - [x, y, x, y], 0, SIDE)
    seen = [box for box in inside.tolist() if box[2] - box[0] > 4 and box[3] - box[1] > 4]
    return whole[y : y + SIDE, x : x + SIDE].copy(), seen


def paste(image: np.ndarray, boxes: list[list[float]], crops: list[np.ndarray], random: np.random.Generator) -> None:
    """Paste crops, each where 15 % of it at most lie on what is there; both arguments grow."""
    wanted = random.integers(50, 115)
    for _ in range(1500):
        if len(boxes) >= wanted:
            return
        crop = crops[random.integers(len(crops))]
        side = float(np.clip(np.exp(random.normal(np.log(MEDIAN), SPREAD)), 6, 60))
        scale = side / np.sqrt(crop.shape[0] * crop.shape[1])
        width, height = (max(4, round(length * scale)) for length in crop.shape[1::-1])
        x, y = (int(random.integers(0, SIDE - length)) for length in (width, height))
        placed = np.array(boxes).reshape(-1, 4)
        common = np.minimum(placed[:, 2:], [x + width, y + height]) - np.maximum(placed[:, :2], [x, y])
        if (common.clip(min=0).prod(1) > 0.15 * width * height).any():
            continue
        small = cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
        image[y : y + height, x : x + width] = np.clip(small * random.uniform(0.6, 1.15), 0, 255)
        boxes.append([x, y, x + width, y + height])


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    for split, images, seed in (("train", 160, 0), ("test", 60, 1)):
        crowd(Path(sys.argv[1]), split, Path(sys.argv[2]), images, seed)
