"""The paper's class balance: "each class augmented to about 1000 instances by random crops and color jitter".

In one pass over the data every image comes once, and some come again for the sake of a class; a transform that crops
(``data.train_transform.repeat_crop``) shows of these a window around a random object of that class. The plan says
which, how often, and for which class. It is deterministic, and no torch is needed to make or print it:
``python -m efpn.data.balance FOLDER --target 1000 --window 1024``.
"""

from __future__ import annotations

import argparse
import heapq
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efpn.data.records import Index, Record
from efpn.data.tt100k import TT100K
from efpn.errors import UserError

WindowOf = Callable[[Record], float]
MAX_REPEATS = 30  # above the 1000 / 70 that TT100K's rarest evaluated class needs when each image has one instance


@dataclass(frozen=True, eq=False)
class BalancePlan:
    """How often each image comes in one pass."""

    order: NDArray[np.int64]  # ``(n,)`` record numbers of one pass
    labels: NDArray[np.int64]  # ``(n,)`` the class for whose sake each comes again, 0 the first time
    names: tuple[str, ...]
    before: NDArray[np.int64]  # ``(K,)`` instances without repeats
    after: NDArray[np.int64]  # ``(K,)`` instances with repeats; of crops, those to be expected in their windows

    @property
    def repeats(self) -> NDArray[np.int64]:
        """``(images,)`` how often each image comes in one pass, once or more."""
        return np.bincount(self.order)

    def table(self) -> str:
        """Text table of class, instances before and after, rarest first; the last row is the sum."""
        rows = sorted(zip(self.before.tolist(), self.names, self.after.tolist(), strict=True))
        lines = [f"{name:<24}{before:>8}{after:>8}" for before, name, after in rows if before]
        images = f"{'images':<24}{len(self.repeats):>8}{len(self.order):>8}"
        total = f"{'all instances':<24}{int(self.before.sum()):>8}{int(self.after.sum()):>8}"
        return "\n".join([f"{'class':<24}{'before':>8}{'after':>8}", *lines, total, images])


def whole(record: Record) -> float:
    """The window of a repeat that shows the whole image."""
    return np.inf


def make_plan(index: Index, target: int, max_repeats: int = MAX_REPEATS, window: WindowOf = whole) -> BalancePlan:
    """Repeat images until each evaluated class has about `target` instances.

    Classes are served from the rarest on, so that what a rare class's images bring along counts for the commoner
    ones. A class takes its images in turn, each time the one repeated least, and among those the one that adds the
    fewest instances of classes already at the target. Such a class is never repeated for its own sake, and an image
    comes at most `max_repeats` times. `window` gives the native side of the square that a repeat of a record shows;
    infinite for the whole image.
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
        side = gains[:, after >= target].sum(axis=1)
        rows = _fill(times, gains[:, label - 1], side, target - float(after[label - 1]), max_repeats)
        order.append(rows)
        labels.append(np.full(len(rows), label))
        after += gains[rows].sum(axis=0)
    joined = np.concatenate(order)
    place = np.argsort(joined, kind="stable")
    after = np.rint(after).astype(np.int64)
    return BalancePlan(joined[place], np.concatenate(labels)[place], index.categories.names, before, after)


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
        side = window(record)
        if np.isinf(side):
            gains[row] = counts[row]
            continue
        boxes, labels = record.boxes[record.trainable], record.labels[record.trainable]
        own = np.flatnonzero(labels == label)
        seen = _seen(boxes, own, side, record.size)
        np.add.at(gains[row], labels - 1, seen.mean(axis=0))
    return gains


def _seen(
    boxes: NDArray[np.float64], own: NDArray[np.int64], side: float, size: tuple[int, int] | None
) -> NDArray[np.float64]:
    """``(o, n)``: how likely a window around each of the objects `own` shows each of all `boxes`.

    A window's start is drawn evenly from where it holds its object and stays in the image, axis by axis.
    """
    chance = np.ones((len(own), len(boxes)))
    for axis in (0, 1):
        room = max(size[1 - axis] - side, 0.0) if size else np.inf
        ends = np.sort([boxes[own, 2 + axis] - side, boxes[own, axis]], axis=0)
        low, high = (np.clip(end, 0.0, room)[:, None] for end in ends)
        centre = (boxes[:, axis] + boxes[:, 2 + axis])[None] / 2
        shared = np.minimum(high, centre) - np.maximum(low, centre - side)
        span = np.maximum(high - low, 1.0)  # a start is a whole pixel
        chance *= np.clip((shared + (high - low < 1.0)) / span, 0.0, 1.0)
    chance[np.arange(len(own)), own] = 1.0
    return chance


def _fill(
    times: NDArray[np.int64], own: NDArray[Any], side: NDArray[Any], missing: float, max_repeats: int
) -> NDArray[np.int64]:
    """Records to repeat until `missing` instances are there or all are at the cap.

    Of each image ``(images,)``: how often it comes so far, which is raised in place; instances of the class, and those
    of classes already full, that a repeat brings.
    """
    rows = []
    queue = [(int(times[row]), float(side[row]), int(row)) for row in np.flatnonzero(own) if times[row] < max_repeats]
    heapq.heapify(queue)
    while queue and missing > 0:
        count, collateral, row = heapq.heappop(queue)
        times[row] = count + 1
        rows.append(row)
        missing -= float(own[row])
        if count + 1 < max_repeats:
            heapq.heappush(queue, (count + 1, collateral, row))
    return np.array(rows, np.int64)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the plan for a folder in the TT100K layout; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m efpn.data.balance", description="Print a class-balance plan.")
    parser.add_argument("root", help="folder in the TT100K layout")
    parser.add_argument("--split", default="train")
    parser.add_argument("--target", type=int, default=1000, help="instances per evaluated class")
    parser.add_argument("--min-count", type=int, default=100, help="instances in train and test that make it evaluated")
    parser.add_argument("--window", type=float, default=np.inf, help="native side of the crops that repeats show")
    parser.add_argument("--max-repeats", type=int, default=MAX_REPEATS, help="of one image")
    given = parser.parse_args(arguments)
    try:
        source = TT100K(given.root, evaluated={"min_count": given.min_count, "splits": ["train", "test"]})
        plan = make_plan(source.load(given.split), given.target, given.max_repeats, lambda record: given.window)
        print(plan.table())
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
