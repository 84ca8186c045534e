"""The paper's class balance: "each class augmented to about 1000 instances by random crops and color jitter".

In one pass over the data every image comes once, and some come again for the sake of a class; a transform that crops
(``data.train_transform.repeat_crop``) shows of these a window around a random object of that class. The plan says
which, how often, and for which class. It is deterministic. No torch.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from efpn.data.records import Index

Size = tuple[int, int] | None  # (height, width) of an image where they are known
WindowOf = Callable[[Size], float]
MAX_REPEATS = 30  # above the 1000 / 70 that TT100K's rarest evaluated class needs when each image has one instance


def make_plan(index: Index, target: int, window: WindowOf) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Repeat images until each evaluated class has about `target` instances.

    Classes are served from the rarest on, so that what a rare class's images bring along counts for the commoner
    ones. A class takes its images in turn, each time the one repeated least, and among those the one that adds the
    fewest instances of classes already at the target. Such a class is never repeated for its own sake, and an image
    comes at most `MAX_REPEATS` times. `window` gives the native side of the square that a repeat of an image of that
    size shows; infinite for the whole image.

    Returns:
        The record numbers of one pass ``(n,)``, and for the sake of which class each comes, 0 the first time ``(n,)``.
    """
    counts = count_matrix(index)
    before = counts.sum(axis=0)
    after, times = before.astype(np.float64), np.ones(len(index), np.int64)
    order, labels = [np.arange(len(index))], [np.zeros(len(index), np.int64)]
    evaluated = [label for label in index.categories.evaluated_labels if before[label - 1]]
    for label in sorted(evaluated, key=lambda label: (before[label - 1], label)):
        if after[label - 1] >= target:
            continue
        gains = expected_in_windows(index, label, counts, window)
        full, missing, rows = gains[:, after >= target].sum(axis=1), target - float(after[label - 1]), []
        queue = [(times[row], full[row], row) for row in np.flatnonzero(gains[:, label - 1])]
        heapq.heapify(queue)
        while queue and missing > 0:
            count, swells, row = heapq.heappop(queue)
            if count < MAX_REPEATS:
                times[row] = count + 1
                rows.append(row)
                missing -= gains[row, label - 1]
                heapq.heappush(queue, (count + 1, swells, row))
        order.append(np.array(rows, np.int64))
        labels.append(np.full(len(rows), label))
        after += gains[order[-1]].sum(axis=0)
    joined = np.concatenate(order)
    place = np.argsort(joined, kind="stable")
    return joined[place], np.concatenate(labels)[place]


def count_matrix(index: Index) -> NDArray[np.int64]:
    """Instances without crowds by image and class, ``(images, K)``."""
    counts = np.zeros((len(index), len(index.categories)), np.int64)
    for row, record in enumerate(index.records):
        np.add.at(counts[row], record.labels[record.trainable] - 1, 1)
    return counts


def expected_in_windows(index: Index, label: int, counts: NDArray[np.int64], window: WindowOf) -> NDArray[np.float64]:
    """Instances to be expected in a window around a random object of the class `label`, by image and class.

    ``(images, K)``. An object counts as in the window if its centre is; the rows of images without the class are 0.
    """
    gains = np.zeros(counts.shape)
    for row in np.flatnonzero(counts[:, label - 1]):
        record = index.records[row]
        side = window(record.size)
        if np.isinf(side):
            gains[row] = counts[row]
            continue
        boxes, labels = record.boxes[record.trainable], record.labels[record.trainable]
        own = np.flatnonzero(labels == label)
        chance = np.ones((len(own), len(boxes)))  # that a window around each of `own` shows each box
        for axis in (0, 1):  # along each, it starts anywhere where it holds its object and stays in the image
            room = max(record.size[1 - axis] - side, 0.0) if record.size else np.inf
            ends = np.sort([boxes[own, 2 + axis] - side, boxes[own, axis]], axis=0)
            low, high = (np.clip(end, 0.0, room)[:, None] for end in ends)
            centre = (boxes[:, axis] + boxes[:, 2 + axis])[None] / 2
            shared = np.minimum(high, centre) - np.maximum(low, centre - side)
            span = np.maximum(high - low, 1.0)  # a start is a whole pixel
            chance *= np.clip((shared + (high - low < 1.0)) / span, 0.0, 1.0)
        chance[np.arange(len(own)), own] = 1.0
        np.add.at(gains[row], labels - 1, chance.mean(axis=0))
    return gains
