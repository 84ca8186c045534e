"""What a run says of itself: what it is about to do, and its progress on a terminal or in a log file."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar

from efpn.data.datamodule import DetectionDataModule
from efpn.data.transforms import Transform, size_factor
from efpn.models import EFPNDetector
from efpn.runs.phases import PhaseRun
from efpn.runs.tracking import COLUMNS

log = logging.getLogger(__name__)
EARLY = 10  # steps after which a process tells for the first time how long it will take
DEPTH = 2  # of the parameter table: backbone.extension, roi_heads.small_head ...


def progress(every: int = 50) -> pl.Callback:
    """A bar where there is a terminal, else a line every ``every`` steps."""
    return RichProgressBar() if sys.stdout.isatty() else LogProgress(every)


class LogProgress(pl.Callback):
    """Logs step, loss, seconds a step and the time left; and the main validation metrics."""

    def __init__(self, every: int) -> None:
        self.every = every  # steps between lines
        self.start = 0  # optimizer steps that were done when this process began
        self.since = (0, 0.0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self.start = trainer.global_step
        self.since = (self.start, time.perf_counter())

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Log a line every so many optimizer steps."""
        step, (last, clock) = trainer.global_step, self.since
        early = step == self.start + EARLY and last == self.start
        if step == last or (step % self.every and not early) or not trainer.is_global_zero:
            return
        now = time.perf_counter()
        pace = (now - clock) / (step - last)
        loss = float(trainer.callback_metrics.get("train/loss", float("nan")))
        left = pace * (trainer.max_steps - step) / 60
        log.info(
            "step %d/%d  loss %.4f  %.2f s/step  %.0f min left of this phase", step, trainer.max_steps, loss, pace, left
        )
        self.since = (step, now)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the validation metrics, and keep their time out of the pace."""
        found = {k.removeprefix("val/"): float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        if trainer.is_global_zero:
            told = "  ".join(f"{name} {found[name]:.3f}" for name in COLUMNS if name in found)
            log.info("validation at step %d: %s", trainer.global_step, told or "nothing to score")
        self.since = (trainer.global_step, time.perf_counter())


def said_size(size: tuple[int, int], transform: Transform) -> str:
    """To which size files of this ``(height, width)`` are brought, and whether the 2x image is beyond their pixels."""
    factor = size_factor(*size, transform.short_side, transform.max_size)
    height, width = (round(factor * side) for side in size)
    beyond = "; at 2x the file is enlarged" if 2 * factor > 1 else ""
    return f"{width} x {height} px, most files {size[1]} x {size[0]}{beyond}"


def print_summary(run: PhaseRun, data: DetectionDataModule, model: EFPNDetector, start: object) -> None:
    """Print phase, data, image size, where it starts and writes, how P2' is computed, each part's parameters."""
    rows = {}
    for role in ("train", "val"):
        index = data.index(role)
        rows[role] = f"{len(index)} images, {index.box_count} boxes ({index.name})"
    if sizes := Counter(record.size for record in data.index("train").records if record.size is not None):
        rows["1x image"] = said_size(sizes.most_common(1)[0][0], data.train_transform)
    rows["classes"] = f"{len(data.categories)}, {sum(data.categories.evaluated)} of them evaluated"
    rows["starts from"] = str(start)
    rows["output"] = str(run.folder)
    if model.backbone.extension is not None:
        whole = model.backbone.whole_because
        rows["P2'"] = f"whole: {whole}" if whole else "in testing on tiles under small proposals alone"
    counts: dict[str, tuple[int, int]] = {}  # parameters of each part, all and trainable
    for name, parameter in model.named_parameters():
        part = ".".join(name.split(".")[:DEPTH])
        total, trains = counts.get(part, (0, 0))
        counts[part] = total + parameter.numel(), trains + parameter.numel() * parameter.requires_grad
    for part, (total, trains) in counts.items():
        state = "trains" if trains == total else (f"{trains / 1e6:.2f} M of it trains" if trains else "frozen")
        rows[part] = f"{total / 1e6:.2f} M parameters, {state}"
    width = max(map(len, rows))
    lines = (f"{key:{width}}  {row}" for key, row in rows.items())
    print(f"phase {run.name}: {run.config.max_steps} steps", *lines, sep="\n")
