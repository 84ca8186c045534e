"""Detections are gathered over batches and processes, and each image is scored once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from scripts import SERVER

from efpn.metrics.accumulate import Collected, DetectionAccumulator

CATEGORIES = [10, 20, 30]


def found(*rows):
    """One image's detections from rows of x1, y1, x2, y2, score, label."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return {"boxes": table[:, :4], "scores": table[:, 4], "labels": table[:, 5].long()}


IMAGES = {
    7: found((0, 0, 10, 20, 0.5, 1), (5, 5, 6, 8, 0.25, 3)),
    3: found(),
    5: found((1, 2, 3, 4, 0.75, 2)),
    2**40: found((1, 1, 2, 2, 0.125, 1)),  # an id that float32 could not hold
}


def collect(*batches):
    metric = DetectionAccumulator(CATEGORIES)
    for ids in batches:
        metric.update(ids, [IMAGES[i] for i in ids])
    return metric.compute()


def test_boxes_become_coco_results_in_order_of_images():
    collected = collect([7, 3], [5])
    assert collected.image_ids == [3, 5, 7]
    assert collected.detections == [
        {"image_id": 5, "category_id": 20, "bbox": [1.0, 2.0, 2.0, 2.0], "score": 0.75},
        {"image_id": 7, "category_id": 10, "bbox": [0.0, 0.0, 10.0, 20.0], "score": 0.5},
        {"image_id": 7, "category_id": 30, "bbox": [5.0, 5.0, 1.0, 3.0], "score": 0.25},
    ]


def test_an_image_seen_twice_counts_once_even_side_by_side():
    assert collect([7, 7], [5, 7]) == collect([5], [7])


def test_the_first_visit_wins_when_a_repeat_differs():
    metric = DetectionAccumulator(CATEGORIES)
    metric.update([7], [IMAGES[7]])
    metric.update([7], [IMAGES[5]])
    assert metric.compute() == collect([7])


def test_large_ids_survive():
    assert collect([2**40]).detections[0]["image_id"] == 2**40


def test_images_without_detections_are_seen():
    assert collect([3]) == Collected([3], [])


@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
def test_nothing_seen_at_all():
    assert DetectionAccumulator(CATEGORIES).compute() == Collected([], [])


def test_reset_forgets():
    metric = DetectionAccumulator(CATEGORIES)
    metric.update([7], [IMAGES[7]])
    metric.reset()
    metric.update([5], [IMAGES[5]])
    assert metric.compute() == collect([5])


SHARES = {
    "padded with a repeat": [[[7, 5]], [[3], [7]]],
    "one process saw nothing": [[[7, 5, 3]], []],
    "one process found nothing": [[[3]], [[5, 7]]],
    "nobody found anything": [[[3]], [[3]]],
}


def _worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    metric, answers = DetectionAccumulator(CATEGORIES), {}
    for name, shares in SHARES.items():  # as epochs of one run
        metric.reset()
        for ids in shares[rank]:
            metric.update(ids, [IMAGES[i] for i in ids])
        answers[name] = tuple(metric.compute())
    torch.save(answers, Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def both_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    mp.start_processes(_worker, args=(str(folder),), nprocs=2, start_method=SERVER.get_start_method())
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


@pytest.mark.slow
@pytest.mark.xdist_group("two processes")
@pytest.mark.parametrize("name", SHARES)
def test_two_processes_agree_with_one(both_ranks, name):
    images = {i for share in SHARES[name] for batch in share for i in batch}
    for answers in both_ranks:
        assert Collected(*answers[name]) == collect(sorted(images))


def test_a_label_that_is_no_class_is_not_counted_as_one():
    for label in (0, 4):
        metric = DetectionAccumulator(CATEGORIES)
        metric.update([7], [found((0, 0, 10, 20, 0.5, label))])
        with pytest.raises(KeyError, match=str(label)):
            metric.compute()
