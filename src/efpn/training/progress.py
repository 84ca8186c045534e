"""Progress on a terminal and in a log file."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar

log = logging.getLogger(__name__)
TOLD = ("AP", "AP50", "AP_S", "AP_M", "AP_L", "AR_S", "F1_S")  # the rest is in metrics.json and with the loggers


def progress(every: int = 50) -> pl.Callback:
    """A bar where there is a terminal, else a line every ``every`` steps."""
    return RichProgressBar() if sys.stdout.isatty() else LogProgress(every)


class LogProgress(pl.Callback):
    """Logs step, loss, seconds a step and the time left; and the main validation metrics."""

    def __init__(self, every: int) -> None:
        self.every = every  # steps between lines
        self.since = (0, 0.0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self.since = (trainer.global_step, time.perf_counter())

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Log a line every so many optimizer steps."""
        step, (last, clock) = trainer.global_step, self.since
        if step == last or step % self.every or not trainer.is_global_zero:
            return
        now = time.perf_counter()
        pace = (now - clock) / (step - last)
        loss = float(trainer.callback_metrics.get("train/loss", float("nan")))
        left = pace * (trainer.max_steps - step) / 60
        log.info("step %d/%d  loss %.4f  %.2f s/step  %.0f min left", step, trainer.max_steps, loss, pace, left)
        self.since = (step, now)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the validation metrics, and keep their time out of the pace."""
        found = {k.removeprefix("val/"): float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        if trainer.is_global_zero:
            told = "  ".join(f"{name} {found[name]:.3f}" for name in TOLD if name in found)
            log.info("validation at step %d: %s", trainer.global_step, told or "nothing to score")
        self.since = (trainer.global_step, time.perf_counter())
