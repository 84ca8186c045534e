"""Ends the jobs of a sweep that fall behind its others on the validation split, by one of Optuna's pruners."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytorch_lightning as pl

from efpn.errors import Pruned, UserError
from efpn.runs.files import PRUNING_FILE, read_json, write_json

log = logging.getLogger(__name__)

PHASE: Final = 1_000_000  # steps between the first ones of two phases, as a pruner counts them


class Pruning(pl.Callback):
    """Asks a pruner after every validation of a sweep's job, and raises `Pruned` where that says so.

    Hydra's sweeper hears of a job when that has ended, so a job goes by what the others have left so far:
    `pruning.json` in the folder of each, its validations by phase and step. What jobs share is not pruned, nor what has
    reached the end of its last phase.

    Args:
        folder: of the job's run.
        unswept: where the phases lie that jobs share.
        phase: the one under way.
        sequence: all that the job runs, in order.
        metric: of the validation split, e.g. ``F1_S``; more is better.
        pruner: Optuna's ``MedianPruner``, ``PercentilePruner`` or ``ThresholdPruner``, which need no more than values.
    """

    def __init__(
        self, folder: str, unswept: str, phase: str, sequence: Sequence[str], metric: str, pruner: Any
    ) -> None:
        self.file, self.name_folder = Path(folder) / PRUNING_FILE, Path(unswept).parent
        self.shared, self.phase, self.sequence = folder == unswept, phase, list(sequence)
        self.metric, self.pruner = metric, pruner

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the value and compare; on the first process, for all."""
        if self.shared or (self.phase == self.sequence[-1] and trainer.global_step >= trainer.max_steps):
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
        for file in sorted(self.name_folder.glob(f"*/{self.file.parent.name}/{PRUNING_FILE}")):
            if file != self.file and (other := self.of_another(file)):
                told = {"state": optuna.trial.TrialState.PRUNED} if other["pruned"] else {"values": other["value"]}
                study.tell(self.reported(study, other), **told)
        own = read_job(self.file, self.metric)
        own["values"] = {**own["values"], f"{self.phase} {step}": value}
        own |= {"value": value, "pruned": self.reported(study, own).should_prune()}
        write_json(self.file, own)
        return own["pruned"]

    def of_another(self, file: Path) -> dict[str, Any] | None:
        """What another job has left; None if it has no value of the metric, or its file is damaged."""
        try:
            other = read_job(file, self.metric)
        except UserError as error:
            log.warning("not compared with: %s", error)
            return None
        return other if other["values"] else None

    def reported(self, study: Any, job: dict[str, Any]) -> Any:
        """A trial of an Optuna study that has reported a job's values."""
        trial = study.ask()
        for place, value in job["values"].items():
            phase, step = place.split()
            if phase in self.sequence:
                trial.report(value, PHASE * self.sequence.index(phase) + int(step))
        return trial


def read_job(file: Path, metric: str) -> dict[str, Any]:
    """What a job has noted of this ``metric``: ``values`` by phase and step, the last ``value``, whether ``pruned``."""
    blank: dict[str, Any] = {"metric": metric, "values": {}, "value": None, "pruned": False}
    if not file.is_file():
        return blank
    record = read_json(file, "remove it", "pruning", blank)
    return record if record["metric"] == metric else blank


def refuse_pruned(file: Path, metric: str) -> None:
    """Raise `Pruned` for a job that was given up when its sweep ran before."""
    if read_job(file, metric)["pruned"]:
        raise Pruned("in an earlier call")
