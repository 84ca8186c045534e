"""Measuring several things side by side: interleaved in one process, so that a slow minute of the machine hits all."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any, TypeVar

import torch
from torch import nn

from efpn.benchmark.proposals import FixedProposals
from efpn.benchmark.stages import REST, StageClock, Stages, stopwatch

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


@dataclass(frozen=True)
class Workload:
    """Something to measure, ready to run.

    Attributes:
        model: whose parameters and stages are meant.
        run: does the work once; its argument counts the turns from 0.
        stages: of ``model``.
        proposals: that stand in for those of its RPN, if any do.
    """

    model: nn.Module
    run: Callable[[int], Any]
    stages: Stages
    proposals: FixedProposals | None = None


@dataclass(frozen=True)
class Reading:
    """One run: ``seconds`` by the wall clock, and by stage."""

    seconds: float
    stages: Mapping[str, float]


@dataclass(frozen=True)
class Spread:
    """What several runs took, in seconds."""

    median: float
    least: float
    lower_quartile: float
    upper_quartile: float
    runs: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """Median, minimum and quartiles; of a single run all are the same."""
        low, _, high = quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else [seconds[0]] * 3
        return cls(median(seconds), min(seconds), low, high, len(seconds))

    def as_record(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


def interleave(things: Mapping[K, Callable[[int], T]], repeats: int, warmup: int) -> dict[K, list[T]]:
    """Run each thing once a turn, in an order that rotates; returns what they gave after the warm-up.

    Args:
        things: called with the turn, from 0; warm-up turns have the numbers that the real ones begin with.
        repeats: turns that count.
        warmup: turns before them that do not.
    """
    names = list(things)
    given: dict[K, list[T]] = {name: [] for name in names}
    for turn in range(-warmup, repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            result = things[name](turn % repeats)
            if turn >= 0:
                given[name].append(result)
    return given


def stop_watched(work: Workload, device: torch.device) -> Callable[[int], Reading]:
    """A function that runs ``work`` once and says what it took."""
    clock = stopwatch(device)

    def measured(turn: int) -> Reading:
        synchronise(device)
        start = time.perf_counter()
        with work.stages.counted_by(clock):
            work.run(turn)
        synchronise(device)
        return Reading(time.perf_counter() - start, clock.read())

    return measured


def synchronise(device: torch.device) -> None:
    """Wait for all that the device has been given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def stage_medians(readings: Sequence[Reading], order: Iterable[str]) -> dict[str, float]:
    """The median seconds of every stage that ran, in ``order``, the rest last."""
    return {
        name: median(reading.stages.get(name, 0.0) for reading in readings)
        for name in (*order, REST)
        if any(name in reading.stages for reading in readings)
    }


def stage_share(readings: Sequence[Reading]) -> float:
    """How much of the wall-clock time the stages explain together, the worst of all runs; 1 if all of it."""
    shares = [sum(reading.stages.values()) / reading.seconds for reading in readings]
    return max(shares, key=lambda share: abs(share - 1))


def count(work: Workload, now: Callable[[], float]) -> dict[str, float]:
    """Run ``work`` once and add up, by stage, what ``now`` counts."""
    clock = StageClock(now)
    with work.stages.counted_by(clock):
        work.run(0)
    return clock.read()
