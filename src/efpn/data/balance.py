"""The paper's class balance: "each class augmented to about 1000 instances by random crops and color jitter".

The plan says how often each picture comes in one pass over the data; the crops and the jitter of the repeats are drawn
by the transform. It is deterministic, and no torch is needed to make or print it:
``python -m efpn.data.balance FOLDER --target 1000``.
"""

from __future__ import annotations

import argparse
import heapq
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efpn.data.records import Index
from efpn.data.tt100k import TT100K
from efpn.errors import UserError

MAX_REPEATS = 30  # above the 1000 / 70 that TT100K's rarest evaluated class needs when each picture has one instance


@dataclass(frozen=True, eq=False)
class BalancePlan:
    """How often each picture comes in one pass.

    Attributes:
        repeats: ``(pictures,)`` int64, >= 1.
        names: class names.
        before: ``(K,)`` instances without repeats.
        after: ``(K,)`` instances with repeats.
    """

    repeats: NDArray[np.int64]
    names: tuple[str, ...]
    before: NDArray[np.int64]
    after: NDArray[np.int64]

    @property
    def order(self) -> NDArray[np.int64]:
        """Record numbers of one pass, each as often as planned."""
        return np.repeat(np.arange(len(self.repeats)), self.repeats)

    def table(self) -> str:
        """Text table of class, instances before and after, rarest first; the last row is the sum."""
        rows = sorted(zip(self.before.tolist(), self.names, self.after.tolist(), strict=True))
        lines = [f"{name:<24}{before:>8}{after:>8}" for before, name, after in rows if before]
        pictures = f"{'pictures':<24}{len(self.repeats):>8}{int(self.repeats.sum()):>8}"
        total = f"{'all instances':<24}{int(self.before.sum()):>8}{int(self.after.sum()):>8}"
        return "\n".join([f"{'class':<24}{'before':>8}{'after':>8}", *lines, total, pictures])


def make_plan(index: Index, target: int, max_repeats: int = MAX_REPEATS) -> BalancePlan:
    """Repeat pictures until each evaluated class has about `target` instances.

    Classes are served from the rarest on, so that what a rare class's pictures bring along counts for the commoner
    ones. A class takes its pictures in turn, each time the one repeated least, and among those the one that adds the
    fewest instances of classes already at the target. Such a class is never repeated for its own sake, and a picture
    comes at most `max_repeats` times.
    """
    counts = count_matrix(index)
    before = counts.sum(axis=0)
    repeats = np.ones(len(index), np.int64)
    evaluated = [label - 1 for label in index.categories.evaluated_labels if before[label - 1]]
    for column in sorted(evaluated, key=lambda column: (before[column], column)):
        full = (repeats @ counts) >= target
        _fill(repeats, counts[:, column], counts[:, full].sum(axis=1), target, max_repeats)
    return BalancePlan(repeats, index.categories.names, before, repeats @ counts)


def count_matrix(index: Index) -> NDArray[np.int64]:
    """Instances without crowds by picture and class, ``(pictures, K)``."""
    counts = np.zeros((len(index), len(index.categories)), np.int64)
    for row, record in enumerate(index.records):
        np.add.at(counts[row], record.labels[record.trainable] - 1, 1)
    return counts


def _fill(
    repeats: NDArray[np.int64], own: NDArray[np.int64], side: NDArray[np.int64], target: int, max_repeats: int
) -> None:
    """Raise `repeats` in place until the class with `own` instances per picture has `target` or all are at the cap."""
    missing = target - int(repeats @ own)
    queue = [(int(repeats[row]), int(side[row]), int(row)) for row in np.flatnonzero(own) if repeats[row] < max_repeats]
    heapq.heapify(queue)
    while queue and missing > 0:
        count, collateral, row = heapq.heappop(queue)
        repeats[row] = count + 1
        missing -= int(own[row])
        if count + 1 < max_repeats:
            heapq.heappush(queue, (count + 1, collateral, row))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the plan for a folder in the TT100K layout; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m efpn.data.balance", description="Print a class-balance plan.")
    parser.add_argument("root", help="folder in the TT100K layout")
    parser.add_argument("--split", default="train")
    parser.add_argument("--target", type=int, default=1000, help="instances per evaluated class")
    parser.add_argument("--min-count", type=int, default=100, help="instances in train and test that make it evaluated")
    parser.add_argument("--max-repeats", type=int, default=MAX_REPEATS, help="of one picture")
    given = parser.parse_args(arguments)
    try:
        source = TT100K(given.root, evaluated={"min_count": given.min_count, "splits": ["train", "test"]})
        print(make_plan(source.load(given.split), given.target, given.max_repeats).table())
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
