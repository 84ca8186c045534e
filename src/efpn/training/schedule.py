"""Learning-rate schedules by optimizer step; partial in the config, called with the optimizer."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

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

    def factor(step: int) -> float:
        falls = sum(step >= share * max_steps for share in milestones)
        return _warmup(step, warmup_steps) * gamma**falls

    _warn_of_a_long_warmup(max_steps, warmup_steps)
    return LambdaLR(optimizer, factor)


def warmup_cosine(optimizer: Optimizer, max_steps: int, warmup_steps: int = 0, final: float = 0.01) -> LambdaLR:
    """Linear warm-up, then half a cosine down to ``final`` of the base rate at ``max_steps``."""

    def factor(step: int) -> float:
        progress = min(1.0, max(0, step - warmup_steps) / max(1, max_steps - warmup_steps))
        cosine = final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2
        return _warmup(step, warmup_steps) * cosine

    _warn_of_a_long_warmup(max_steps, warmup_steps)
    return LambdaLR(optimizer, factor)


def _warmup(step: int, warmup_steps: int) -> float:
    if step >= warmup_steps:
        return 1.0
    return WARMUP_START + (1 - WARMUP_START) * step / warmup_steps


def _warn_of_a_long_warmup(max_steps: int, warmup_steps: int) -> None:
    if 0 < max_steps <= warmup_steps:
        log.warning(
            "the warm-up of %d steps does not end within the phase's %d: the learning rate never reaches its value; "
            "lower task.schedule.warmup_steps of the phase",
            warmup_steps,
            max_steps,
        )
