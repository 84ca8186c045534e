from __future__ import annotations

import numpy as np
import pytest

from efpn.metrics.evaluation import Evaluation
from efpn.metrics.score import score

NAMES = {4: "pl40", 9: "pn"}


@pytest.fixture
def ground_truth():
    """Three images: a small and a medium box, a large one, none; and a class that is not evaluated."""
    rows = [(1, 4, [10, 10, 20, 20]), (1, 9, [100, 100, 50, 50]), (2, 4, [20, 20, 120, 110]), (2, 7, [0, 0, 9, 9])]
    boxes = [
        {"id": n, "image_id": i, "category_id": c, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for n, (i, c, box) in enumerate(rows, start=1)
    ]
    categories = [{"id": number, "name": name} for number, name in {**NAMES, 7: "others"}.items()]
    return {"images": [{"id": i} for i in (1, 2, 3)], "annotations": boxes, "categories": categories}


@pytest.fixture
def detections():
    """A hit on the small box, a wrong class on the medium one, nothing on the large, a false alarm in image 3."""
    return [
        {"image_id": 1, "category_id": 4, "bbox": [11.0, 10.0, 20.0, 20.0], "score": 0.9},
        {"image_id": 1, "category_id": 4, "bbox": [100.0, 100.0, 50.0, 50.0], "score": 0.8},
        {"image_id": 3, "category_id": 9, "bbox": [5.0, 5.0, 30.0, 30.0], "score": 0.7},
        {"image_id": 2, "category_id": 4, "bbox": [20.0, 20.0, 120.0, 110.0], "score": 0.2},
    ]


@pytest.fixture
def metrics(ground_truth, detections):
    return score(ground_truth, detections, score_threshold=0.5, category_ids=[4, 9])


@pytest.fixture
def facts():
    return {
        "seed": 3,
        "commit": "abc123",
        "command": "python evaluate.py run=x",
        "seconds": 12.25,
        "hardware": "2 CPU cores",
        "more": {"phase": "finetune"},
    }


@pytest.fixture
def load_image():
    return lambda image_id: np.full((200, 200, 3), 40 * image_id, np.uint8)


@pytest.fixture
def evaluation(tmp_path, ground_truth, detections, facts, load_image):
    """``evaluation(name=..., ...)``: the detections scored against the ground truth, but for what is given."""

    def make(**given):
        options = {
            "name": "EFPN",
            "split": "toy/test",
            "truth": ground_truth,
            "detections": detections,
            "threshold": 0.5,
            "evaluated": [4, 9],
            "load_image": load_image,
            "folder": tmp_path,
            "facts": facts,
        }
        return Evaluation(**(options | given))

    return make
