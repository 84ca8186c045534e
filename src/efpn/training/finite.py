"""Training that diverges stops at the step where it does, and says at what."""

from __future__ import annotations

from collections.abc import Iterable

import pytorch_lightning as pl
from torch import Tensor
from torch.optim import Optimizer

from efpn.errors import UserError
from efpn.runs.checkpoints import first_non_finite
from efpn.tasks.base import DetectorTask

SMALLEST_SCALE = 1.0  # of the loss in 16-mixed: from here on it is no overflow of half precision any more


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
