"""Frozen means no gradient *and* eval mode, held whatever ``train()`` is called with."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from efpn.errors import UserError


def train_only(model: nn.Module, patterns: Sequence[str]) -> None:
    """Leave a gradient only to the parameters whose name matches a pattern (``backbone.extension.*``).

    A parameter that the model itself froze (the backbone's first stages) stays frozen.

    Raises:
        UserError: a pattern matches no parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    idle = [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]
    if idle:
        parts = sorted({".".join(name.split(".")[:2]) + ".*" for name in names})
        raise UserError(f"trainable: {idle} matches no parameter; the model has {', '.join(parts)}")
    for name, parameter in model.named_parameters():
        if not any(fnmatchcase(name, pattern) for pattern in patterns):
            parameter.requires_grad_(False)


def hold_frozen(model: nn.Module) -> None:
    """Put every module that has parameters or buffers but nothing to learn into eval mode.

    Batch-norm would otherwise go on updating its running statistics, and a frozen RPN would go on sampling anchors.
    """
    for module in model.modules():
        parameters = list(module.parameters())
        has_state = bool(parameters) or any(True for _ in module.buffers())
        if has_state and not any(parameter.requires_grad for parameter in parameters):
            module.eval()
