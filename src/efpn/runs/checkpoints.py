"""Resume points that survive a kill, and the checkpoint that a finished phase leaves for the next."""

from __future__ import annotations

import io
import math
import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from efpn import __version__
from efpn.errors import Interrupted, UserError
from efpn.models import EFPNDetector
from efpn.runs.files import CHECKPOINT_FILE, RESUME_FILE, naming, write_bytes
from efpn.signals import TIME_UP, SignalWatch, requeue


@dataclass(frozen=True)
class Checkpoint:
    """What a finished phase leaves for the next."""

    state_dict: dict[str, Tensor]  # all weights of the detector
    phase: str  # that made it
    classes: list[str]  # class names in label order
    config_hash: str  # of the run's resolved config
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
    largest = torch.stack([norm.float() for norm in torch._foreach_norm([t for _, t in named], math.inf)])
    if largest.isfinite().all():  # the one time that a GPU is waited for
        return None
    found = largest.isfinite().logical_not().nonzero()[0].item()
    name, tensor = named[int(found)]
    return f"{name} is {'nan' if tensor.isnan().any() else 'inf'}"


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


class ResumePoint(pl.Callback):
    """Saves ``last.ckpt`` after every stretch of steps, by rename, so that a kill never leaves half a file.

    Stretches are Lightning's epochs: the data stream is cut into them, so a resumed run sees exactly what is left. A
    signal ends the run after the step under way; what is saved then lies inside a stretch, and Lightning's count of
    its batches says where in the stream to go on.
    """

    def __init__(self, folder: Path, watch: SignalWatch) -> None:
        self.path = folder / RESUME_FILE
        self.watch = watch
        self.step = 0  # last optimizer step seen
        self.stretch_ends = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals back from Lightning, whose handlers stop or save in the middle of a step."""
        self.watch.install()
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Save at a stretch's end, before its validation, and after any whole step when a signal has come."""
        stepped, self.step = trainer.global_step != self.step, trainer.global_step
        self.stretch_ends = trainer.is_last_batch or trainer.global_step >= trainer.max_steps
        stopping = self.asked_to_stop(trainer)
        if self.stretch_ends or (stopping and stepped):
            self.save(trainer)
            if stopping:
                self.stop(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """As at the start of training: a validation of its own has Lightning's handlers again."""
        self.watch.install()

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Stop when a signal has come; all steps are saved."""
        if self.asked_to_stop(trainer):
            self.stop(trainer)

    def asked_to_stop(self, trainer: pl.Trainer) -> bool:
        """Whether a signal has reached any of the processes."""
        return trainer.strategy.reduce_boolean_decision(self.watch.received is not None, all=False)

    def save(self, trainer: pl.Trainer) -> None:
        """Save, on every process (Lightning's call is collective), and rename on the first."""
        partial = self.path.with_suffix(".partial")
        try:
            there = self.path.is_file()
            with naming(self.path, self.path.stat().st_size if there else state_bytes(trainer.lightning_module)):
                trainer.save_checkpoint(partial, weights_only=False)
        except OSError:
            partial.unlink(missing_ok=True)  # the one before stays
            raise
        if trainer.is_global_zero:
            partial.replace(self.path)

    def stop(self, trainer: pl.Trainer) -> None:
        """Raise `Interrupted`; where SLURM has announced the end of the job's time, ask for more."""
        number = self.watch.received or signal.SIGTERM  # another process has received it
        more = requeue() if number in TIME_UP and trainer.is_global_zero else ""
        message = f"{number.name} at step {trainer.global_step} of {trainer.max_steps}: saved {self.path}{more}"
        raise Interrupted(number, message)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """At a stretch's end, turn the loop's progress from "after epoch e's last batch" into "before epoch e + 1".

        As Lightning saves it, a resumed run takes one step too many and counts one epoch twice wherever it does not
        validate after every epoch.
        """
        if not self.stretch_ends:
            return
        progress = checkpoint["loops"]["fit_loop"]
        batches = progress["epoch_loop.batch_progress"]
        for counter in (*progress["epoch_progress"].values(), batches["total"]):
            counter["processed"] = counter["completed"] = counter["ready"]
        batches["is_last_batch"] = False
        progress["epoch_loop.state_dict"]["_batches_that_stepped"] += 1
        steps = progress["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]
        for counter in (batches, progress["epoch_loop.scheduler_progress"], steps["step"], steps["zero_grad"]):
            counter["current"] = dict.fromkeys(counter["current"], 0)
