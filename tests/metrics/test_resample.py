"""Resampled metrics: the whole set gives `score`'s own numbers, a resample those of the images that it draws."""

from __future__ import annotations

import numpy as np
import pytest

from efpn.metrics.resample import Resampled, column_names
from efpn.metrics.score import score

THRESHOLDS = (0.5, 0.7)
COLUMNS = column_names()


def scene(images=12, classes=3, seed=0):
    """Objects of all sizes and crowds among them; hits, poor boxes, wrong classes and false alarms."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for image in range(1, images + 1):
        for _ in range(rng.integers(0, 5)):
            side, category = float(rng.choice([12.0, 32.0, 50.0, 130.0])), int(rng.integers(1, classes + 1))
            box = [*rng.uniform(0, 300, 2).tolist(), side, side]
            common = {"image_id": image, "category_id": category}
            truth.append({**common, "id": len(truth) + 1, "bbox": box, "iscrowd": int(rng.random() < 0.1)})
            for _ in range(rng.integers(0, 3)):
                near = (np.array(box) + rng.normal(0, side / 20, 4)).tolist()
                found.append({**common, "bbox": near, "score": round(float(rng.random()), 2)})
        for _ in range(rng.integers(0, 4)):
            box = [*rng.uniform(0, 300, 2).tolist(), 20.0, 20.0]
            found.append({"image_id": image, "category_id": 1, "bbox": box, "score": round(float(rng.random()), 2)})
    categories = [{"id": k, "name": str(k)} for k in range(1, classes + 2)]  # the last has no object
    return {"images": [{"id": i} for i in range(1, images + 1)], "annotations": truth, "categories": categories}, found


def scored(truth, found):
    fixed, best = (score(truth, found, score_threshold=at) for at in THRESHOLDS)
    said = {name: fixed.get(name, best.get(name.removeprefix("best_"))) for name in COLUMNS}
    return np.array([np.nan if said[name] is None else said[name] for name in COLUMNS])


def copied(truth, found, counts):
    """The data set that a resample stands for: each image as often as it was drawn."""
    images, boxes, detections = [], [], []
    for image, count in zip(truth["images"], counts, strict=True):
        for _ in range(count):
            images.append({"id": (number := len(images) + 1)})
            boxes += [{**box, "image_id": number} for box in truth["annotations"] if box["image_id"] == image["id"]]
            detections += [{**box, "image_id": number} for box in found if box["image_id"] == image["id"]]
    return {**truth, "images": images, "annotations": boxes}, detections


@pytest.mark.parametrize("seed", range(3))
def test_each_image_once_is_the_evaluation_itself(seed):
    truth, found = scene(seed=seed)
    one = Resampled(truth, found, [1, 2, 3, 4], COLUMNS, THRESHOLDS)
    np.testing.assert_allclose(one(np.ones((1, 12), int))[0], scored(truth, found), rtol=0, atol=1e-14)


def test_a_resample_is_the_evaluation_of_the_images_that_it_draws():
    truth, found = scene()
    # no two scores alike, whose order copies would change
    found = [{**box, "score": 0.01 + 0.98 * n / len(found)} for n, box in enumerate(found)]
    counts = np.random.default_rng(1).multinomial(12, np.full(12, 1 / 12), 5)
    values = Resampled(truth, found, [1, 2, 3, 4], COLUMNS, THRESHOLDS)(counts)
    for one, line in zip(counts, values, strict=True):
        np.testing.assert_allclose(line, scored(*copied(truth, found, one)), rtol=0, atol=1e-14)


def test_what_does_not_exist_is_nan(simple, perfect):
    one = Resampled(simple, perfect, [4, 9], ["AP", "AP_S", "AP_L", "acc", "best_F1"], (0.5, None))
    values = one(np.array([[1, 1], [0, 2]]))
    np.testing.assert_array_equal(values, [[1, 1, np.nan, 1, np.nan], [np.nan] * 5])


def test_a_hit_in_an_image_drawn_twice_counts_twice(simple, perfect):
    simple["annotations"].append({**simple["annotations"][0], "id": 3, "image_id": 2})
    one = Resampled(simple, perfect, [4], ["AR", "rec", "acc"], (0.5, None))
    # of class 4 one object in each image, that of the first found
    np.testing.assert_allclose(
        one(np.array([[1, 1], [2, 1], [0, 3]])), [[1 / 2, 1 / 2, 1], [2 / 3, 2 / 3, 1], [0, 0, np.nan]]
    )
