from __future__ import annotations

import json
from pathlib import Path

import pytest

PROTOCOL = Path(__file__).parents[3] / "shared" / "data" / "tt100k_protocol"
LABELS = PROTOCOL.parent / "tt100k_labels"


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="session")
def protocol():
    """The official toolkit's answers."""
    if not PROTOCOL.is_dir():
        pytest.skip("needs the official toolkit's answers, ../shared/data/tt100k_protocol beside the checkout")
    return PROTOCOL


@pytest.fixture(scope="session")
def published(protocol):
    """A published detector's results on the test split, and the ground truth they belong to."""
    if not LABELS.is_dir():
        pytest.skip("needs the real labels, ../shared/data/tt100k_labels beside the checkout")
    labels, results = read(LABELS / "annotations.json"), read(protocol / "published_detections.json")
    test = {key: labels["imgs"][key] for key in (LABELS / "test" / "ids.txt").read_text().split()}
    without_labels = {key: {"objects": []} for key in results["imgs"] if key not in test}
    return {"imgs": test | without_labels}, results


@pytest.fixture
def simple():
    """Two images in COCO's layout: a small and a medium box in the first, none in the second."""
    return {
        "images": [{"id": 1, "height": 200, "width": 200}, {"id": 2, "height": 200, "width": 200}],
        "categories": [{"id": 4, "name": "four"}, {"id": 9, "name": "nine"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 4, "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 9, "bbox": [100, 100, 50, 50], "area": 2500, "iscrowd": 0},
        ],
    }


@pytest.fixture
def perfect(simple):
    """Detections that repeat the ground truth of ``simple``, with scores 0.8 and 0.6."""
    kept = ("image_id", "category_id", "bbox")
    boxes = [{key: box[key] for key in kept} for box in simple["annotations"]]
    return [{**box, "score": score} for box, score in zip(boxes, (0.8, 0.6), strict=True)]
