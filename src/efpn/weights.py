"""Files of tensors: read, held against a module's own weights, and looked at for what is not finite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import torch
from torch import Tensor, nn

from efpn.errors import UserError

RUN_AGAIN: Final = "delete it and run its phase again"


def read_tensors(path: Path, what: str = "checkpoint", fix: str = RUN_AGAIN) -> dict[str, Any]:
    """Load a dict that ``torch.save`` wrote, ``weights_only=True``, or a ``.safetensors`` file, on the CPU.

    Raises:
        UserError: it is missing, damaged or holds something else; with ``what`` it is and how to ``fix`` it.
    """
    if not path.is_file():
        raise UserError(f"{what} {path}: not found; check the path")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise TypeError(f"it holds a {type(state).__name__}")
        return state
    except ImportError as error:
        raise UserError(f"{what} {path}: needs safetensors, not installed here; pip install safetensors") from error
    except Exception as error:  # torch raises half a dozen types for a damaged file
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, UnpicklingError):
            first = f"no {what}, or one that is more than numbers and text"  # torch's advice is to run its code
        raise UserError(f"{what} {path}: damaged or truncated ({first}); {fix}, or copy it anew") from error


def require_fit(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], what: str, fix: str, may_lack: Sequence[str] = ()
) -> None:
    """Refuse a state dict that has not the keys and shapes of a module's ``own`` (raises `UserError`).

    What begins with one of ``may_lack`` may be missing from it.
    """
    faults = {
        "missing": [key for key in own if key not in state and not key.startswith(tuple(may_lack))],
        "unexpected": [key for key in state if key not in own],
        "of another shape": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
            for key in own
            if key in state and state[key].shape != own[key].shape
        ],
    }
    if any(faults.values()):
        told = [
            f"{len(keys)} {fault} ({', '.join(keys[:3])}{' ...' if len(keys) > 3 else ''})"
            for fault, keys in faults.items()
            if keys
        ]
        raise UserError(f"{what} does not fit: {', '.join(told)}; {fix}")


def first_non_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """The first of the named tensors that holds NaN or infinity, as ``name is nan``; None where all are finite."""
    named = [(name, tensor) for name, tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    if not named:
        return None
    sizes = torch.stack([norm.float() for norm in torch._foreach_norm([t for _, t in named])])
    if sizes.isfinite().all():  # the one time that a GPU is waited for
        return None
    for at in sizes.isfinite().logical_not().nonzero().flatten().tolist():  # a sum of squares may overflow by itself
        name, tensor = named[at]
        if not tensor.isfinite().all():
            return f"{name} is {'nan' if tensor.isnan().any() else 'inf'}"
    return None


def state_bytes(model: nn.Module, optimizer: bool = False) -> int:
    """Bytes of a model's weights and buffers, and at the least of an optimizer's memory of what trains."""
    tensors = [*model.state_dict().values(), *(p for p in model.parameters() if optimizer and p.requires_grad)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
