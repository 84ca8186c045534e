"""Measuring several models side by side, and where in a forward pass their time goes.

A clock of our own in place of torch's, because ``torch.utils.benchmark.Timer`` times one model in a block, where a slow
minute of the machine hits that one alone (here every turn runs all of them), and ``torch.profiler`` slows down each
operator by more than some of them take.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any, Final, TypeVar

import torch
from torch import nn

from efpn.benchmark.inputs import FixedProposals
from efpn.models import Backbone

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

STAGES: Final = ("backbone", "fpn", "extension", "rpn", "heads", "post")  # in the order of a forward pass
REST: Final = "rest"  # what no stage claims: normalising, padding, the glue between the parts

# Methods by stage, looked up on the detector; what a model does not have is passed over. Parts of parts are listed
# where a model may call them by themselves (what the extension does tile by tile; the backbone's, see `Stages`).
METHODS: Final = (
    ("backbone.body.forward", "backbone"),
    *(
        (f"backbone.body.{part}.forward", "backbone")
        for part in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2")
    ),
    ("backbone.fpn.forward", "fpn"),
    ("backbone.extension.forward", "extension"),
    ("backbone.extension.upsampler.content_of", "extension"),
    ("backbone.extension.upsampler.texture_of", "extension"),
    ("backbone.extension.with_c3", "extension"),
    ("backbone.extension.merge", "extension"),
    ("rpn.forward", "rpn"),
    ("roi_heads.forward", "heads"),
    ("head.forward", "heads"),
    ("small_head.forward", "heads"),
    ("roi_heads.ranked", "post"),
    ("transform.postprocess", "post"),
    ("postprocess_detections", "post"),
)


class StageClock:
    """Adds up, for each stage, what passes between the marks at which it is the innermost one.

    A stage that is entered while another runs stops the other's clock until it ends: an extension that RoI pooling
    calls counts as extension, not as pooling.
    """

    def __init__(self, now: Callable[[], Any], between: Callable[[Any, Any], float] | None = None) -> None:
        self._now = now  # takes a mark
        self._between = between or (lambda earlier, later: later - earlier)
        self._running: list[str] = []
        self._marks: list[tuple[Any, str | None]] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what happens inside as ``name``, but for the stages that begin in it."""
        self._running.append(name)
        self._mark()
        try:
            yield
        finally:
            self._running.pop()
            self._mark()

    def read(self) -> dict[str, float]:
        """The amounts since the last reading, by stage; starts anew."""
        spent: dict[str, float] = {}
        for (start, name), (end, _) in zip(self._marks, self._marks[1:], strict=False):
            if name is not None:
                spent[name] = spent.get(name, 0.0) + self._between(start, end)
        self._marks.clear()
        return spent

    def _mark(self) -> None:
        self._marks.append((self._now(), self._running[-1] if self._running else None))


def stopwatch(device: torch.device) -> StageClock:
    """A clock in seconds. On CUDA its marks are events in the stream, so that taking them does not stop the device."""
    if device.type != "cuda":
        return StageClock(time.perf_counter)

    def mark() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    return StageClock(mark, lambda start, end: start.elapsed_time(end) / 1000)


class Stages:
    """The timed parts of a detector, or of a module that holds one; without a clock they run as they always do.

    The methods are replaced on the instance, once: a compiled part around them is traced without them.
    """

    def __init__(self, model: nn.Module) -> None:
        self.clock: StageClock | None = None  # that counts now, or None
        detector = getattr(model, "detector", model)
        for path, stage in METHODS:
            *parts, name = path.split(".")
            owner: Any = detector
            for part in parts:
                owner = getattr(owner, part, None)
            if hasattr(owner, name):
                setattr(owner, name, self._timed(getattr(owner, name), stage))
        body: Any = getattr(getattr(detector, "backbone", None), "body", None)
        if isinstance(body, Backbone):  # its entry and first stages are run by themselves for C2' and C3'
            for layer in (layer for part in (body.entry, *body.stages[:2]) for layer in part.children()):
                layer.forward = self._timed(layer.forward, "backbone")

    @contextmanager
    def counted_by(self, clock: StageClock) -> Iterator[None]:
        """Let ``clock`` count what runs inside; what is in no stage is the rest."""
        self.clock = clock
        try:
            with clock.stage(REST):
                yield
        finally:
            self.clock = None

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Count what happens inside as ``name``, if there is a clock."""
        return nullcontext() if self.clock is None else self.clock.stage(name)

    def _timed(self, method: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            if torch.compiler.is_compiling():
                return method(*args, **options)
            with self.stage(stage):
                return method(*args, **options)

        return timed


@dataclass(frozen=True)
class Workload:
    """Something to measure, ready to run."""

    model: nn.Module  # whose parameters and stages are meant
    run: Callable[[int], Any]  # does the work once; its argument counts the turns from 0
    stages: Stages  # of ``model``
    proposals: FixedProposals | None = None  # that stand in for those of its RPN, if any do


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
    def of(cls, readings: Sequence[Reading]) -> Spread:
        """Median, minimum and quartiles; of a single run all are the same."""
        seconds = [reading.seconds for reading in readings]
        low, _, high = quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else seconds * 3
        return cls(median(seconds), min(seconds), low, high, len(seconds))


def interleave(things: Mapping[K, Callable[[int], T]], repeats: int, warmup: int) -> dict[K, list[T]]:
    """Run each thing with the number of its turn, in an order that rotates; what they gave after the warm-up.

    Warm-up turns take the last numbers.
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
