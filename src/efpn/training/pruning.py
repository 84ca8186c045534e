"""Ends the jobs of a sweep that fall behind its others on the validation split, by one of Optuna's pruners."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from efpn.errors import Pruned
from efpn.runs.files import PRUNING_FILE, read_json, write_json


class Pruning(pl.Callback):
    """Asks a pruner after every validation of a sweep's job, and raises `Pruned` where that says so.

    Hydra's sweeper hears of a job when that has ended, so the jobs go by what the others have left: `pruning.json` in
    each one's folder, the values in the order of their validations, over all its phases. What jobs share is not pruned,
    nor what has reached the end of its last phase.

    Args:
        folder: of the job's run.
        unswept: where the phases lie that jobs share.
        phase: the one under way.
        sequence: all of the job's, in order.
        metric: of the validation split, e.g. ``F1_S``; more is better.
        pruner: e.g. ``optuna.pruners.MedianPruner``; a step of its is a validation.
    """

    def __init__(
        self, folder: str, unswept: str, phase: str, sequence: Sequence[str], metric: str, pruner: Any
    ) -> None:
        self.file = Path(folder) / PRUNING_FILE
        self.shared, self.phase, self.last = folder == unswept, phase, phase == sequence[-1]
        self.metric, self.pruner = metric, pruner

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the value and compare; on the first process, for all."""
        if self.shared or (self.last and trainer.global_step >= trainer.max_steps):
            return
        value = trainer.callback_metrics.get(f"val/{self.metric}")
        behind = value is not None and trainer.is_global_zero and self.is_behind(trainer.global_step, float(value))
        if trainer.strategy.reduce_boolean_decision(behind, all=False):
            raise Pruned(f"{self.phase} at step {trainer.global_step} of {trainer.max_steps}")

    def is_behind(self, step: int, value: float) -> bool:
        """Note the ``value`` of a validation and say whether the pruner gives the job up."""
        import optuna  # an extra: pip install -e '.[optuna]'

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(direction="maximize", pruner=self.pruner)
        jobs = self.file.parents[2].glob(f"*/{self.file.parent.name}/{PRUNING_FILE}")
        for other in (read_record(file) for file in sorted(jobs) if file != self.file):
            left = optuna.trial.TrialState.PRUNED if other["pruned"] else optuna.trial.TrialState.COMPLETE
            values = [*other["values"].values()]
            study.tell(reported(study, values), None if other["pruned"] else values[-1], left)
        own = read_record(self.file)["values"] | {f"{self.phase} {step}": value}
        behind = reported(study, [*own.values()]).should_prune()
        write_json(self.file, {"values": own, "pruned": behind})
        return behind


def reported(study: Any, values: Sequence[float]) -> Any:
    """A trial of an Optuna study that has reported these values."""
    trial = study.ask()
    for number, value in enumerate(values):
        trial.report(value, number)
    return trial


def read_record(file: Path) -> dict[str, Any]:
    """A job's ``values``, phase and step to the value in the order of validations, and whether it was ``pruned``."""
    if not file.is_file():
        return {"values": {}, "pruned": False}
    return read_json(file, "remove it", "pruning", ("values", "pruned"))


def pruned_value(folder: Path) -> float | None:
    """The last value of a job that was pruned; None of any other."""
    record = read_record(folder / PRUNING_FILE)
    return [*record["values"].values()][-1] if record["pruned"] else None
