"""Small data sets on disk, and the real ones beside the checkout where they are."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from efpn.data.records import Categories, Index, Record


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "shared_data" in getattr(item, "fixturenames", ()):
            item.add_marker("shared")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


@pytest.fixture
def conf(root: Path) -> Path:
    return root / "conf"


@pytest.fixture
def shared_data(shared: Path) -> Path:
    return shared / "data"


def save_image(path: Path, width: int = 40, height: int = 30, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path, quality=95)
    return path


def sign(category: str = "pn", box: tuple[float, float, float, float] = (4, 5, 14, 17)) -> dict:
    return {"category": category, "bbox": dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))}


@pytest.fixture
def image() -> Callable[..., Path]:
    return save_image


@pytest.fixture
def tt100k(tmp_path: Path) -> Callable[..., Path]:
    """Writes a TT100K layout: per split, image id -> objects; `ids` overrides the lists of ids."""

    def write(
        splits: dict[str, dict[int, list]], types=("pn", "pl50", "w1"), ids=None, name="annotations.json"
    ) -> Path:
        root = tmp_path / "signs"
        listing = {}
        for split, images in splits.items():
            for image_id, objects in images.items():
                path = f"{split}/{image_id}.jpg"
                save_image(root / path, seed=image_id)
                listing[str(image_id)] = {"id": image_id, "path": path, "objects": objects}
            listed = (ids or {}).get(split, list(images))
            (root / split).mkdir(parents=True, exist_ok=True)
            (root / split / "ids.txt").write_text("\n".join(map(str, listed)) + "\n")
        (root / name).write_text(json.dumps({"types": list(types), "imgs": listing}))
        return root

    return write


@pytest.fixture
def tt100k_sign() -> Callable[..., dict]:
    return sign


@pytest.fixture
def coco(tmp_path: Path) -> Callable[..., Path]:
    """Writes ``train.json`` and its images; the lists given replace those of a sound file of two images."""

    def write(**changes) -> Path:
        root = tmp_path / "things"
        content = {
            "images": [{"id": 7, "file_name": "a.jpg", "width": 40, "height": 30}, {"id": 3, "file_name": "b.jpg"}],
            "annotations": [
                {"id": 1, "image_id": 7, "category_id": 90, "bbox": [4, 5, 10, 12], "area": 120, "iscrowd": 0},
                {"id": 2, "image_id": 7, "category_id": 4, "bbox": [0, 0, 40, 30], "area": 1200, "iscrowd": 1},
            ],
            "categories": [{"id": 90, "name": "lamp"}, {"id": 4, "name": "car"}],
        }
        content |= changes
        root.joinpath("train").mkdir(parents=True, exist_ok=True)
        for image in content["images"] or ():
            if isinstance(image, dict) and isinstance(image.get("file_name"), str):
                save_image(root / "train" / image["file_name"])
        (root / "train.json").write_text(json.dumps(content))
        return root

    return write


@pytest.fixture
def index(tmp_path: Path) -> Callable[..., Index]:
    """An index of one record per list of boxes; images are 40 x 30 unless `size` (width, height) says otherwise."""

    def make(*boxes: list, labels=None, size=(40, 30), names=("a", "b"), evaluated=None) -> Index:
        records = []
        for number, rows in enumerate(boxes):
            path = save_image(tmp_path / "images" / f"{number}.jpg", *size, seed=number)
            ones = [1] * len(rows) if labels is None else labels[number]
            records.append(Record(number, path, rows, ones))
        flags = evaluated or (True,) * len(names)
        return Index(
            "set/train", tmp_path / "file.json", Categories(names, (1, 2)[: len(names)], flags), tuple(records)
        )

    return make
