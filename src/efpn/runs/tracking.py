"""The end of a phase in Weights & Biases; with it goes the table of all rows of its sweeps, as far as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytorch_lightning as pl
import wandb
from omegaconf import DictConfig
from pytorch_lightning.loggers import WandbLogger

from efpn.runs.files import read_record
from efpn.runs.names import ROW_FILE, checkpoint_in
from efpn.runs.sweeps import read_row, rows_artifact

COLUMNS: Final = ("AP", "AP50", "AP_S", "AP_M", "AP_L", "AR_S", "F1_S")  # on the validation split


def close_loggers(trainer: pl.Trainer, cfg: DictConfig) -> None:
    """End the logger's run with the phase; W&B would write the next phase into the same one."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and trainer.is_global_zero:
            log_rows(logger.experiment, Path(cfg.paths.unswept).parent)
            logger.experiment.finish()


def log_rows(run: Any, folder: Path) -> None:
    """Send a new version of the table of the sweeps' rows in ``outputs/<name>``: a line for each that is finished.

    Args:
        run: of W&B.
        folder: of the sweeps; without a finished row nothing is sent.
    """
    lines = []
    for path in sorted(folder.glob(f"*/seed*/{ROW_FILE}")):
        row = read_row(path)
        if checkpoint_in(row["phase"]).is_file():
            record = read_record(row["phase"])
            metrics = [record["metrics"].get(f"val/{column}") for column in COLUMNS]
            lines.append([path.parent.parent.name, row["title"], record["seed"], row["phase"].name, *metrics])
    if lines:
        artifact = wandb.Artifact(rows_artifact(folder.resolve().name), type="rows")
        artifact.add(wandb.Table(columns=["row", "title", "seed", "phase", *COLUMNS], data=lines), "rows")
        run.log_artifact(artifact)
