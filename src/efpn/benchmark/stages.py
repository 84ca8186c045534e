"""Where the time of a forward pass goes: exclusive timers around the parts of a detector.

A stage that is entered while another runs stops the other's clock until it ends. So an extension that RoI pooling calls
counts as extension, not as pooling, wherever a model chooses to run it.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import nn

STAGES: Final = ("trunk", "fpn", "extension", "rpn", "heads", "post")  # in the order of a forward pass
REST: Final = "rest"  # what no stage claims: normalising, padding, the glue between the parts

# Methods by stage, looked up on the detector; what a model does not have is passed over. Parts of parts are listed
# where a model may call them by themselves (the trunk's first stages, what the extension does window by window).
METHODS: Final = (
    ("backbone.body.forward", "trunk"),
    ("backbone.body.pooled_stem", "trunk"),
    ("backbone.body.layer1.forward", "trunk"),
    ("backbone.body.layer2.forward", "trunk"),
    ("backbone.fpn.forward", "fpn"),
    ("backbone.extension.forward", "extension"),
    ("backbone.extension.upsampler.content_of", "extension"),
    ("backbone.extension.upsampler.texture_of", "extension"),
    ("backbone.extension.with_c3", "extension"),
    ("backbone.extension.merge", "extension"),
    ("rpn.forward", "rpn"),
    ("roi_heads.forward", "heads"),
    ("roi_heads.postprocess_detections", "post"),
    ("transform.postprocess", "post"),
)

Now = Callable[[], Any]
Between = Callable[[Any, Any], float]


class StageClock:
    """Adds up, for each stage, what passes between the marks at which it is the innermost one.

    Args:
        now: takes a mark.
        between: ``(earlier, later) -> amount``; by default their difference.
    """

    def __init__(self, now: Now, between: Between | None = None) -> None:
        self._now = now
        self._between: Between = between or (lambda earlier, later: operator.sub(later, earlier))
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
    if device.type == "cuda":
        return StageClock(_cuda_mark, lambda start, end: start.elapsed_time(end) / 1000)
    return StageClock(time.perf_counter)


def _cuda_mark() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


class Stages:
    """The timed parts of one model; without a clock they run as they always do.

    The methods are replaced on the instance, once: a compiled part around them is traced without them.

    Args:
        model: a detector, or a module that holds one as ``detector``.

    Attributes:
        clock: that counts now, or None.
    """

    def __init__(self, model: nn.Module) -> None:
        self.clock: StageClock | None = None
        detector = getattr(model, "detector", model)
        for path, stage in METHODS:
            owner, name = _find(detector, path)
            if owner is not None:
                setattr(owner, name, self._timed(getattr(owner, name), stage))

    @contextmanager
    def counted_by(self, clock: StageClock) -> Iterator[None]:
        """Let ``clock`` count what runs inside; what is in no stage is the rest."""
        self.clock = clock
        try:
            with clock.stage(REST):
                yield
        finally:
            self.clock = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what happens inside as ``name``, if there is a clock."""
        if self.clock is None:
            yield
        else:
            with self.clock.stage(name):
                yield

    def _timed(self, method: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            if torch.compiler.is_compiling():
                return method(*args, **options)
            with self.stage(stage):
                return method(*args, **options)

        return timed


def _find(detector: nn.Module, path: str) -> tuple[Any, str]:
    """The object that a method's dotted path leads to, None where the path breaks off, and the method's name."""
    *parts, name = path.split(".")
    owner: Any = detector
    for part in parts:
        owner = getattr(owner, part, None)
    return (owner if hasattr(owner, name) else None), name
