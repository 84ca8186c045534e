"""The flat table of a run, and the choice of a threshold on validation."""

from __future__ import annotations

import time

import numpy as np
import pytest

from efpn.metrics.coco import coco_metrics
from efpn.metrics.matching import Matcher
from efpn.metrics.score import best_f1_threshold, score

RATES = [f"{rate}{tail}" for tail in ("", "_S", "_M", "_L") for rate in ("acc", "rec", "F1")]


def big_scene(count=450, detections=100, classes=45):
    rng = np.random.default_rng(0)
    images = [{"id": i, "height": 512, "width": 512} for i in range(1, count + 1)]
    truth, found = [], []
    for image in images:
        for _ in range(rng.integers(0, 6)):
            side = float(rng.uniform(6, 120))
            box = [*rng.uniform(0, 380, 2).tolist(), side, side]
            category = int(rng.integers(1, classes + 1))
            truth.append({"id": len(truth) + 1, "image_id": image["id"], "category_id": category, "bbox": box})
        for k in range(detections):
            real = k < 20 and truth and truth[-1]["image_id"] == image["id"]
            box = truth[-1]["bbox"] if real else [*rng.uniform(0, 380, 2).tolist(), 20.0, 20.0]
            box = (np.array(box) + rng.normal(0, 1, 4)).tolist()
            category = truth[-1]["category_id"] if real else int(rng.integers(1, classes + 1))
            value = float(rng.uniform(0.3, 1) if real else rng.uniform(0, 0.5))
            found.append({"image_id": image["id"], "category_id": category, "bbox": box, "score": value})
    categories = [{"id": c, "name": str(c)} for c in range(1, classes + 1)]
    return {"images": images, "annotations": truth, "categories": categories}, found


def test_flat_table_holds_both_protocols(simple, perfect):
    table = score(simple, perfect, score_threshold=0.7)
    merged = {"AP_any", "AP_S_any", "AP_M_any", "AP_L_any"}
    assert table.keys() == coco_metrics(simple, perfect).keys() | merged | set(RATES)
    assert {name: table[name] for name in RATES} == {
        **{"acc": 1.0, "rec": 0.5, "F1": pytest.approx(2 / 3)},
        **{"acc_S": 1.0, "rec_S": 1.0, "F1_S": 1.0},
        **{"acc_M": None, "rec_M": 0.0, "F1_M": 0.0},  # the medium box lies below the threshold: nothing to be right
        **{"acc_L": None, "rec_L": None, "F1_L": None},
    }


def test_threshold_does_not_touch_ap(simple, perfect):
    strict, loose = (score(simple, perfect, score_threshold=t) for t in (0.99, 0.0))
    assert strict["AP"] == loose["AP"] == pytest.approx(1.0)
    assert (strict["rec"], loose["rec"]) == (0.0, 1.0)


def test_only_evaluated_categories_count(simple, perfect):
    table = score(simple, perfect, score_threshold=0.7, category_ids=iter([4]))
    assert (table["AP"], table["rec"], table["F1"]) == pytest.approx((1.0, 1.0, 1.0))


def test_crowds_are_left_out_of_the_counts(simple, perfect):
    simple["annotations"][1]["iscrowd"] = 1
    assert score(simple, perfect[:1], score_threshold=0.0)["rec"] == 1.0


def test_agrees_with_counts_by_the_protocol_and_is_fast_enough():
    gt, found = big_scene()
    start = time.process_time()
    table = score(gt, found, score_threshold=0.4)
    assert time.process_time() - start < 5
    official = Matcher.of(gt, found).count(0.4)
    for one, tail in zip(official, ("", "_S", "_M", "_L"), strict=True):
        assert one.ground_truths > 0
        assert [table[f"{rate}{tail}"] for rate in ("acc", "rec", "F1")] == [one.accuracy, one.recall, one.f1]


def test_order_of_images_does_not_matter():
    gt, found = big_scene(count=20, detections=30)
    shuffled = {**gt, "images": gt["images"][::-1], "annotations": gt["annotations"][::-1]}
    assert score(shuffled, found[::-1], score_threshold=0.4) == pytest.approx(score(gt, found, score_threshold=0.4))


def test_best_threshold_lies_between_hits_and_false_alarms(simple, perfect):
    """Hits at 0.8 and 0.6, a false alarm at 0.3: every threshold in (0.3, 0.6] gives F1 = 1."""
    alarm = {"image_id": 2, "category_id": 4, "bbox": [0, 0, 20, 20], "score": 0.3}
    chosen = best_f1_threshold(simple, [*perfect, alarm])
    assert 0.3 < chosen <= 0.6
    assert chosen == pytest.approx(0.45, abs=0.02)  # the middle, not the rim
    assert score(simple, [*perfect, alarm], score_threshold=chosen)["F1"] == 1.0


def test_best_threshold_is_a_maximum():
    gt, found = big_scene(count=40)
    chosen = best_f1_threshold(gt, found)
    tried = [score(gt, found, score_threshold=t)["F1"] for t in (0.2, 0.4, 0.5, 0.6, chosen)]
    assert tried[-1] == max(tried)


def test_nothing_to_choose_from(simple):
    assert best_f1_threshold({**simple, "annotations": []}, []) == 0.0
    assert best_f1_threshold(simple, []) == 0.0


def test_classes_as_one_by_hand() -> None:
    """Two objects of two classes, each found under the other's name: no AP by class, all of it without."""
    truth = {
        "images": [{"id": 1, "width": 100, "height": 100}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}, {"id": 3, "name": "not evaluated"}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": n, "bbox": [20 * n, 10, 10, 10], "area": 100, "iscrowd": 0}
            for n in (1, 2, 3)
        ],
    }
    found = [{"image_id": 1, "category_id": 3 - n, "bbox": [20 * n, 10, 10, 10], "score": 0.9} for n in (1, 2)]
    metrics = score(truth, found, score_threshold=0.5, category_ids=[1, 2])
    assert metrics["AP_S"] == 0 and metrics["AP_S_any"] == pytest.approx(1) and metrics["AP_any"] == pytest.approx(1)
    assert metrics["AP_L_any"] is None
