"""The checkpoint that a finished phase leaves for the next, and the point that an interrupted one goes on from."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from efpn import __version__
from efpn.errors import UserError
from efpn.models import EFPNDetector
from efpn.runs.files import CHECKPOINT_FILE, RESUME_FILE, write_bytes
from efpn.weights import first_non_finite, read_tensors, require_fit

RENAMED: Final = {"extension.lateral.": "extension.laterals.0.", "extension.lateral3.": "extension.laterals.1."}
AS_TRAINED: Final = "use the backbone, extension and classes that it was trained with"


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


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a finished phase's checkpoint (raises `UserError`: the file is missing, damaged or not one of ours)."""
    state = read_tensors(path)
    if set(state) == {field.name for field in fields(Checkpoint)}:
        return Checkpoint(**{**state, "state_dict": _named_today(state["state_dict"])})
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


def _named_today(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of an extension that read C3' at most, brought to what they are called today."""
    renamed = {}
    for name, tensor in state_dict.items():
        for former, today in RENAMED.items():
            name = name.replace(former, today)
        renamed[name] = tensor
    return renamed


def load_checkpoint(detector: EFPNDetector, checkpoint: Checkpoint, fresh: Sequence[str], source: Path) -> None:
    """Load strictly (raises `UserError`: any difference, and ``source``, the file).

    Only parts of ``fresh``, prefixes of `EFPNDetector.starters`, may be lacking: these are started.
    """
    state = checkpoint.state_dict
    require_fit(state, detector.state_dict(), f"checkpoint {source} (phase {checkpoint.phase})", AS_TRAINED, fresh)
    missing = detector.load_state_dict(state, strict=False).missing_keys
    for prefix, start in detector.starters().items():
        if any(key.startswith(prefix) for key in missing):
            start()
