"""The end of a phase in Weights & Biases: with it goes the table of all rows of its sweeps, as far as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytorch_lightning as pl
import wandb
from omegaconf import DictConfig
from pytorch_lightning.loggers import WandbLogger

from efpn.runs.files import read_record
from efpn.runs.names import HANDOVER_FILE, ROW_FILE
from efpn.runs.sweeps import read_row, rows_artifact

COLUMNS: Final = ("AP", "AP50", "AP_S", "AP_M", "AP_L", "AR_S", "F1_S")  # on the validation split


def close_loggers(trainer: pl.Trainer, cfg: DictConfig) -> None:
    """End the logger's run with the phase; W&B would write the next phase into the same one."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and trainer.is_global_zero:
            if rows := rows_so_far(Path(cfg.paths.unswept).parent):
                table = wandb.Table(columns=["row", "title", "seed", "phase", *COLUMNS], data=rows)
                artifact = wandb.Artifact(rows_artifact(str(cfg.name)), type="rows")
                artifact.add(table, "rows")
                logger.experiment.log_artifact(artifact)  # of one name: its versions grow
            logger.experiment.finish()


def rows_so_far(folder: Path) -> list[list[Any]]:
    """A line for each finished row and seed of the sweeps below ``outputs/<name>``."""
    lines = []
    for path in sorted(folder.glob(f"*/seed*/{ROW_FILE}")):
        row = read_row(path)
        phase = row["phase"]
        if (phase / HANDOVER_FILE).is_file():
            record = read_record(phase)
            metrics = [record["metrics"].get(f"val/{column}") for column in COLUMNS]
            lines.append([path.parent.parent.name, row["title"], record["seed"], phase.name, *metrics])
    return lines
