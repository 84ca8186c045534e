"""The checkpoint that a finished phase leaves for the next, and the point that an interrupted one goes on from."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from efpn import __version__
from efpn.errors import UserError
from efpn.models import EFPNDetector
from efpn.runs.files import CHECKPOINT_FILE, RESUME_FILE, write_bytes


@dataclass(frozen=True)
class Checkpoint:
    """What a finished phase leaves for the next."""

    state_dict: dict[str, Tensor]  # all weights of the detector
    phase: str  # that made it
    classes: list[str]  # class names in label order
    config_hash: str  # of what makes its config this one, and of the phases that it came from
    metrics: dict[str, float]  # last validation metrics
    steps: int  # optimizer steps of the phase
    version: str = __version__  # of this package

    def save(self, path: Path) -> None:
        """Write atomically: a file of this name is always whole (raises `UserError`: a weight is not finite)."""
        if fault := first_non_finite(self.state_dict.items()):
            raise UserError(f"phase={self.phase}: weight {fault}; {path} is not written")
        file = io.BytesIO()
        torch.save(asdict(self), file)
        write_bytes(path, file.getvalue())


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


def read_tensors(path: Path) -> dict[str, Any]:
    """Load a checkpoint of ours, ``weights_only=True`` (raises `UserError`: it is missing, damaged or none of ours)."""
    if not path.is_file():
        raise UserError(f"checkpoint {path}: not found; check the path")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise TypeError(f"it holds a {type(state).__name__}")
        return state
    except Exception as error:  # torch raises half a dozen types for a damaged file
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, UnpicklingError):
            first = "no checkpoint, or one that is more than numbers and text"  # torch's advice is to run its code
        raise UserError(
            f"checkpoint {path}: damaged or truncated ({first}); delete it and run its phase again, or copy it anew"
        ) from error


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a finished phase's checkpoint (raises `UserError`: the file is missing, damaged or not one of ours)."""
    state = read_tensors(path)
    if set(state) == {field.name for field in fields(Checkpoint)}:
        return Checkpoint(**state)
    raise UserError(
        f"checkpoint {path}: not a phase's checkpoint of this version (fields {sorted(map(str, state))[:5]}); give a "
        f"{CHECKPOINT_FILE}"
    )


def read_resume_point(path: Path) -> dict[str, Any]:
    """What an interrupted phase goes on from (raises `UserError`: the file is missing, damaged or no such thing)."""
    state = read_tensors(path)
    if lacking := {"state_dict", "loops", "optimizer_states", "lr_schedulers", "global_step", "epoch"} - set(state):
        raise UserError(
            f"checkpoint {path}: nothing to resume from (without {', '.join(sorted(lacking))}); give a {RESUME_FILE} "
            "with ckpt_path=FILE, or weights to start from with init_ckpt=FILE"
        )
    return state


def state_bytes(model: nn.Module, optimizer: bool = False) -> int:
    """Bytes of a model's weights and buffers, and at the least of an optimizer's memory of what trains."""
    tensors = [*model.state_dict().values(), *(p for p in model.parameters() if optimizer and p.requires_grad)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def require_same_shapes(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], what: str, may_lack: Sequence[str]
) -> None:
    """Raise `UserError` unless two state dicts have the same keys and shapes; ``may_lack`` are prefixes of keys."""
    lacking = [key for key in own if key not in state and not key.startswith(tuple(may_lack))]
    unexpected = [key for key in state if key not in own]
    reshaped = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if lacking or unexpected or reshaped:
        raise UserError(
            f"{what} is of another architecture: {len(lacking)} missing {lacking[:3]}, {len(unexpected)} unexpected "
            f"{unexpected[:3]}, {len(reshaped)} of another shape {reshaped[:2]}; use the backbone, extension and "
            "classes that it was trained with"
        )


def load_checkpoint(detector: EFPNDetector, checkpoint: Checkpoint, fresh: Sequence[str], source: Path) -> None:
    """Load strictly (raises `UserError`: any difference, and ``source``, the file).

    Only parts of ``fresh``, prefixes of `EFPNDetector.starters`, may be lacking: these are started.
    """
    state, own = checkpoint.state_dict, detector.state_dict()
    require_same_shapes(state, own, f"checkpoint {source} (phase {checkpoint.phase})", fresh)
    missing = [key for key in own if key not in state]
    detector.load_state_dict(state, strict=False)
    for prefix, start in detector.starters().items():
        if any(key.startswith(prefix) for key in missing):
            start()
