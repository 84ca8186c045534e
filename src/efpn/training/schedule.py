"""Learning-rate schedules by optimizer step; partial in the config, called with the optimizer."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

log = logging.getLogger(__name__)

WARMUP_START = 0.001  # share of the base rate at the first step, as in Detectron


def warmup_multistep(
    optimizer: Optimizer,
    max_steps: int,
    warmup_steps: int = 0,
    milestones: Sequence[float] = (2 / 3, 8 / 9),
    gamma: float = 0.1,
) -> LambdaLR:
    """Linear warm-up, then a fall by ``gamma`` at each milestone (shares of ``max_steps``; Detectron's by default)."""

    return _warmed_up(
        optimizer, max_steps, warmup_steps, lambda step: gamma ** sum(step >= share * max_steps for share in milestones)
    )


def warmup_cosine(optimizer: Optimizer, max_steps: int, warmup_steps: int = 0, final: float = 0.01) -> LambdaLR:
    """Linear warm-up, then half a cosine down to ``final`` of the base rate at ``max_steps``."""

    def cosine(step: int) -> float:
        progress = min(1.0, max(0, step - warmup_steps) / max(1, max_steps - warmup_steps))
        return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2

    return _warmed_up(optimizer, max_steps, warmup_steps, cosine)


def _warmed_up(optimizer: Optimizer, max_steps: int, warmup_steps: int, share: Callable[[int], float]) -> LambdaLR:
    """The base rate's ``share`` of each step, after a linear warm-up."""
    if 0 < max_steps <= warmup_steps:
        log.warning(
            "the warm-up of %d steps does not end within the phase's %d: the learning rate never reaches its value; "
            "lower task.schedule.warmup_steps of the phase",
            warmup_steps,
            max_steps,
        )

    def factor(step: int) -> float:
        start = 1.0 if step >= warmup_steps else WARMUP_START + (1 - WARMUP_START) * step / warmup_steps
        return start * share(step)

    return LambdaLR(optimizer, factor)
