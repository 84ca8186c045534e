"""Measuring several models side by side, and where in a forward pass their time goes.

A clock of our own in place of torch's, because ``torch.utils.benchmark.Timer`` times one model in a block, where a slow
minute of the machine hits that one alone (here every turn runs all of them), and ``torch.profiler`` slows down each
operator by more than some of them take.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any, Final, NamedTuple, TypeVar

import torch
from torch import nn

from efpn.benchmark.inputs import FixedProposals
from efpn.models import Backbone

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
log = logging.getLogger(__name__)
GAP: Final = 0.05  # of the time of a run

REST: Final = "rest"  # what no stage claims: normalising, padding, the glue between the parts
# The methods of each stage, in the order of a forward pass, looked up on the detector; what a model does not have is
# passed over. Parts of parts are listed where a model may call them by themselves (what the extension does tile by
# tile; the backbone's, see `Stages`).
METHODS: Final = {
    "backbone": ["backbone.body.forward"],
    "fpn": ["backbone.fpn.forward"],
    "extension": [
        f"backbone.extension.{part}" for part in ("forward", "upsampler.content_of", "upsampler.texture_of", "merged")
    ],
    "rpn": ["rpn.forward"],
    "heads": ["roi_heads.forward", "head.forward", "small_head.forward"],
    "post": ["roi_heads.ranked", "transform.postprocess", "postprocess_detections"],
}
STAGES: Final = tuple(METHODS)


class StageClock:
    """Adds up, for each stage, what passes between the marks at which it is the innermost one.

    A stage that is entered while another runs stops the other's clock until it ends: an extension that RoI pooling
    calls counts as extension, not as pooling.
    """

    def __init__(self, now: Callable[[], Any], between: Callable[[Any, Any], float] = lambda a, b: b - a) -> None:
        self._now, self._between = now, between  # takes a mark; what passes from one mark to a later one
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
        for stage, paths in METHODS.items():
            for path in paths:
                *parts, name = path.split(".")
                owner: Any = detector
                for part in parts:
                    owner = getattr(owner, part, None)
                if hasattr(owner, name):
                    setattr(owner, name, self._timed(getattr(owner, name), stage))
        body: Any = getattr(getattr(detector, "backbone", None), "body", None)
        if isinstance(body, Backbone):  # its entry and stages are run by themselves for the second pass
            for layer in (layer for part in (body.entry, *body.stages) for layer in part.children()):
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


class Reading(NamedTuple):
    """One run: ``seconds`` by the wall clock, and by stage."""

    seconds: float
    stages: Mapping[str, float]


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


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """What several runs took: median, minimum and quartiles; of a single run all are the same."""
    low, _, high = quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else [*seconds] * 3
    ends = {"lower_quartile": low, "upper_quartile": high}
    return {"median": median(seconds), "least": min(seconds), **ends, "runs": len(seconds)}


def summed_up(readings: Sequence[Reading], order: Iterable[str], name: str = "") -> dict[str, Any]:
    """``seconds`` (`spread`), ``stages`` and ``stage_share`` of several runs of ``name``.

    Stages are the median seconds of each that ran, in ``order``, the rest last. The share is how much of the wall-clock
    time they explain together, as the median too: 1 if all of it. A process that loses its core between two readings
    of the clock spoils one run, not the share; if that is far from 1 it is warned of.
    """
    share = median(sum(reading.stages.values()) / reading.seconds for reading in readings)
    if abs(share - 1) > GAP:
        log.warning("%s: its stages add up to %.0f %% of the wall-clock time of a run", name, 100 * share)
    stages = {
        stage: median(reading.stages.get(stage, 0.0) for reading in readings)
        for stage in (*order, REST)
        if any(stage in reading.stages for reading in readings)
    }
    return {"seconds": spread([reading.seconds for reading in readings]), "stages": stages, "stage_share": share}
