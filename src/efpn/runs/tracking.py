"""The end of a phase in Weights & Biases; with it goes the table of all rows of its sweeps, as far as they are."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytorch_lightning as pl
import wandb
from omegaconf import DictConfig
from pytorch_lightning.loggers import WandbLogger

from efpn.errors import Pruned, UserError
from efpn.runs.files import ROW_FILE, checkpoint_in, read_record
from efpn.runs.sweeps import read_row, rows_artifact

log = logging.getLogger(__name__)

# of the validation, told of a run; the rest is in metrics.json and with the loggers
COLUMNS: Final = ("AP", "AP50", "AP_S", "AP_M", "AP_L", "AR_S", "F1_S")


@contextmanager
def tracked_phase(trainer: pl.Trainer, cfg: DictConfig) -> Iterator[None]:
    """A phase as one run of W&B, where that is a logger: it ends with the context, as failed where an error ended that.

    W&B would write the next phase, or the sweep's next job, into a run that is open. After a phase that ended well the
    table of all rows goes with it.
    """
    failed = True
    try:
        yield
        failed = False
    except Pruned:
        failed = False
        raise
    finally:
        wanted = trainer.is_global_zero and any(isinstance(logger, WandbLogger) for logger in trainer.loggers)
        if wanted and (run := wandb.run) is not None:
            try:
                if not failed:
                    log_rows(run, Path(cfg.paths.unswept).parent, str(cfg.name))
            finally:
                run.finish(exit_code=int(failed))


def log_rows(run: Any, folder: Path, name: str) -> None:
    """Send a new version of the table of rows in ``outputs/<name>``: a line for each that is finished, if any is.

    ``run`` is of W&B; a row that cannot be read is passed over.
    """
    lines = []
    for path in sorted(folder.glob(f"*/seed*/{ROW_FILE}")):
        try:
            row = read_row(path)
            record = read_record(row["phase"]) if checkpoint_in(row["phase"]).is_file() else {}
        except UserError as error:
            log.warning("not in W&B's table of rows: %s", error)
            continue
        if metrics := record.get("metrics"):
            values = [metrics.get(f"val/{column}") for column in COLUMNS]
            lines.append([path.parent.parent.name, row["title"], record.get("seed"), row["phase"].name, *values])
    if lines:
        artifact = wandb.Artifact(rows_artifact(name), type="rows")
        artifact.add(wandb.Table(columns=["row", "title", "seed", "phase", *COLUMNS], data=lines), "rows")
        run.log_artifact(artifact)
