"""Jobs of a sweep that fall behind the others are given up, by what those have left on disk."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest

from efpn.errors import Pruned, UserError
from efpn.runs.files import PRUNING_FILE, read_json, write_json
from efpn.training.pruning import Pruning, pruned_value

SEQUENCE = ["baseline", "distill", "finetune"]


def left(folder: Path, *values: float, pruned: bool = False) -> None:
    """What a job has left of its validations, one after every ten steps of distillation."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {f"distill {10 * (n + 1)}": value for n, value in enumerate(values)}
    write_json(folder / PRUNING_FILE, {"values": named, "pruned": pruned})


def job(run: Path, phase: str = "distill", folder: str = "own/seed0") -> Pruning:
    """The callback of a job beside those in ``run``."""
    pruner = optuna.pruners.MedianPruner(n_startup_trials=4)
    (run / folder).mkdir(parents=True, exist_ok=True)
    return Pruning(str(run / folder), str(run / "seed0"), phase, SEQUENCE, "F1_S", pruner)


def validate(callback: Pruning, value: float | None, step: int = 10, of: int = 20) -> None:
    """One validation on the first of one process."""
    strategy = SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision)
    metrics = {} if value is None else {"val/F1_S": value}
    trainer: Any = SimpleNamespace(
        callback_metrics=metrics, is_global_zero=True, global_step=step, max_steps=of, strategy=strategy
    )
    callback.on_validation_end(trainer, None)  # type: ignore[arg-type]


def test_a_job_below_the_median_of_the_others_is_given_up(tmp_path: Path) -> None:
    for number, value in enumerate((0.5, 0.6, 0.7, 0.8)):  # median 0.65
        left(tmp_path / f"lambda-{number}/seed0", value)
    validate(job(tmp_path), 0.66)
    assert pruned_value(tmp_path / "own/seed0") is None
    with pytest.raises(Pruned, match="distill at step 10 of 20"):
        validate(job(tmp_path, folder="other/seed0"), 0.64)
    assert pruned_value(tmp_path / "other/seed0") == 0.64


def test_it_is_compared_by_its_best_value_with_the_others_at_the_same_validation(tmp_path: Path) -> None:
    for number in range(4):
        left(tmp_path / f"lambda-{number}/seed0", 0.1, 0.6)
    own = job(tmp_path)
    validate(own, 0.2)
    validate(own, 0.2)  # the same validation once more, after a stop
    assert read_json(own.file)["values"] == {"distill 10": 0.2}
    with pytest.raises(Pruned):
        validate(job(tmp_path, "finetune"), 0.3, step=5)
    assert read_json(own.file)["values"] == {"distill 10": 0.2, "finetune 5": 0.3}


@pytest.mark.parametrize("others", [[(0.9,)] * 3, [(0.9,)] * 3 + [(0.9, "pruned")]])
def test_nothing_is_given_up_before_enough_others_have_gone_on(others: list[tuple[Any, ...]], tmp_path: Path) -> None:
    for number, (value, *rest) in enumerate(others):
        left(tmp_path / f"lambda-{number}/seed0", value, pruned=bool(rest))
    validate(job(tmp_path), 0.1)


def test_other_seeds_shared_phases_the_end_and_a_missing_number_are_left_alone(tmp_path: Path) -> None:
    for number in range(4):
        left(tmp_path / f"lambda-{number}/seed0", 0.9)
    validate(job(tmp_path, folder="own/seed1"), 0.1)
    validate(job(tmp_path, "baseline", folder="seed0"), 0.1)
    validate(job(tmp_path, "finetune"), 0.1, step=20)
    validate(job(tmp_path), None)
    assert not (tmp_path / "seed0" / PRUNING_FILE).exists() and not (tmp_path / "own/seed0" / PRUNING_FILE).exists()
    with pytest.raises(Pruned):
        validate(job(tmp_path), 0.1, step=20)  # at the end of distillation, finetuning is saved


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    left(tmp_path / "other/seed0", 0.5)
    (tmp_path / "other/seed0" / PRUNING_FILE).write_text("{}")
    with pytest.raises(UserError, match=r"other/seed0/pruning.json: damaged .*remove it"):
        validate(job(tmp_path), 0.5)
