"""Multiply-adds and parameters."""

from __future__ import annotations

from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from efpn.benchmark.timing import Workload, count


def multiply_adds(work: Workload) -> dict[str, int]:
    """Multiply-adds of one run by stage: convolutions and matrix products, which torch counts two operations each.

    RoIAlign, interpolation, activations and NMS have none.
    """
    with FlopCounterMode(display=False) as counter:
        spent = count(work, counter.get_total_flops)
    return {stage: int(flops) // 2 for stage, flops in spent.items()}


def parameters(model: nn.Module) -> int:
    """How many numbers are learned, or were before they were frozen; frozen batch-norm counts as buffers, not here."""
    return sum(parameter.numel() for parameter in model.parameters())
