"""What a training does between its steps: resume points that survive a kill, and an end where it diverges."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import Tensor
from torch.optim import Optimizer

from efpn.errors import Interrupted, UserError
from efpn.runs.files import RESUME_FILE, naming
from efpn.signals import TIME_UP, SignalWatch, requeue
from efpn.tasks.base import DetectorTask
from efpn.weights import first_non_finite, state_bytes

SMALLEST_SCALE = 1.0  # of the loss in 16-mixed: from here on it is no overflow of half precision any more


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


class StopNonFinite(pl.Callback):
    """Ends the training at the first loss, gradient or weight that is not finite, on all processes at once.

    The step is not saved: what stands in the phase's folder is the resume point before it. In ``16-mixed`` a gradient
    may overflow, Lightning leaves that step out and lowers the loss's scale; only a scale that falls without end stops.
    """

    def __init__(self, phase: str) -> None:
        self.phase = phase  # name, for the message

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the loss and its terms."""
        assert isinstance(pl_module, DetectorTask)
        self.check(trainer, "loss", pl_module.losses.items())

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Look at the gradients that the step will take (summed over processes)."""
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is None or scaler.get_scale() < SMALLEST_SCALE:
            gradients = ((name, p.grad) for name, p in pl_module.named_parameters() if p.grad is not None)
            self.check(trainer, "gradient of", gradients)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: object) -> None:
        """Look at what the step made of the weights, and at batch-norm's statistics."""
        assert isinstance(pl_module, DetectorTask)
        self.check(trainer, "weight", pl_module.detector.state_dict().items())

    def check(self, trainer: pl.Trainer, kind: str, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Raise `UserError` if one of the named tensors is not finite, here or on another process."""
        fault = first_non_finite(tensors)
        if not trainer.strategy.reduce_boolean_decision(fault is not None, all=False):
            return
        what = f"{kind} {fault}" if fault else f"a {kind.split()[0]} on another process is not finite"
        raise UserError(
            f"phase={self.phase}, step {trainer.global_step}: {what}. Training ends here and this step is not "
            f"saved. Lower phases.{self.phase}.task.optimizer.lr (overwrite=true starts again), or go on from the last "
            "resume point with resume=true and trainer.gradient_clip_val=10 or trainer.precision=32-true"
        )
