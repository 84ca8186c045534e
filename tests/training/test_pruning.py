"""Jobs of a sweep that fall behind the others are given up, by what those have left on disk."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest

from efpn.errors import Pruned, UserError
from efpn.runs.files import PRUNING_FILE, write_json
from efpn.training.pruning import Pruning, read_job, refuse_pruned

SEQUENCE = ["baseline", "distill", "finetune"]


def left(folder: Path, *values: float, pruned: bool = False, metric: str = "F1_S") -> None:
    """What a job has left of its validations, one after every ten steps of distillation."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {f"distill {10 * (n + 1)}": value for n, value in enumerate(values)}
    found = {"metric": metric, "values": named, "value": values[-1], "pruned": pruned}
    write_json(folder / PRUNING_FILE, found)


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
    refuse_pruned(tmp_path / "own/seed0" / PRUNING_FILE, "F1_S")
    with pytest.raises(Pruned, match="distill at step 10 of 20"):
        validate(job(tmp_path, folder="other/seed0"), 0.64)
    file = tmp_path / "other/seed0" / PRUNING_FILE
    assert read_job(file, "F1_S")["value"] == 0.64
    with pytest.raises(Pruned, match="earlier"):
        refuse_pruned(file, "F1_S")
    refuse_pruned(file, "AP")  # given up by another metric


def test_its_best_so_far_is_compared_with_the_others_at_the_same_step(tmp_path: Path) -> None:
    for number in range(4):
        left(tmp_path / f"lambda-{number}/seed0", 0.1, 0.6)
    validate(job(tmp_path), 0.7)
    validate(job(tmp_path), 0.3, step=20)  # it has been above 0.6
    validate(job(tmp_path, folder="second/seed0"), 0.2)
    validate(job(tmp_path, folder="second/seed0"), 0.2)  # the same once more, after a stop
    file = tmp_path / "second/seed0" / PRUNING_FILE
    assert read_job(file, "F1_S")["values"] == {"distill 10": 0.2}
    with pytest.raises(Pruned):
        validate(job(tmp_path, folder="second/seed0"), 0.5, step=20)
    late = job(tmp_path, folder="third/seed0")  # its first validation was lost
    with pytest.raises(Pruned):
        validate(late, 0.5, step=20)


def test_a_later_phase_is_compared_with_that_phase(tmp_path: Path) -> None:
    for number in range(4):
        left(tmp_path / f"lambda-{number}/seed0", 0.9, 0.9)
    validate(job(tmp_path, "finetune"), 0.1, step=10)  # the others have not come there


@pytest.mark.parametrize("others", [[(0.9,)] * 3, [(0.9,)] * 3 + [(0.9, True)], [(0.9,)] * 3 + [(0.9, False, "AP")]])
def test_nothing_is_given_up_before_enough_others_are_there(others: list[tuple[Any, ...]], tmp_path: Path) -> None:
    for number, (value, *rest) in enumerate(others):
        left(tmp_path / f"lambda-{number}/seed0", value, **dict(zip(("pruned", "metric"), rest, strict=False)))
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
        validate(job(tmp_path), 0.1)


def test_at_the_end_of_distillation_finetuning_is_saved(tmp_path: Path) -> None:
    for number in range(4):
        left(tmp_path / f"lambda-{number}/seed0", 0.1, 0.9)
    with pytest.raises(Pruned, match="distill at step 20 of 20"):
        validate(job(tmp_path), 0.1, step=20)


def test_the_first_process_decides_for_all(tmp_path: Path) -> None:
    strategy = SimpleNamespace(reduce_boolean_decision=lambda decision, all: True)  # the first one's
    trainer: Any = SimpleNamespace(
        callback_metrics={"val/F1_S": 0.5}, is_global_zero=False, global_step=10, max_steps=20, strategy=strategy
    )
    with pytest.raises(Pruned):
        job(tmp_path).on_validation_end(trainer, None)  # type: ignore[arg-type]
    assert not (tmp_path / "own/seed0" / PRUNING_FILE).exists()


def test_another_jobs_damaged_file_is_passed_over_and_its_own_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left(tmp_path / "other/seed0", 0.5)
    (tmp_path / "other/seed0" / PRUNING_FILE).write_text("{}")
    validate(job(tmp_path), 0.5)
    assert "other/seed0/pruning.json: damaged" in caplog.text
    with pytest.raises(UserError, match=r"other/seed0/pruning.json: damaged .*remove it"):
        refuse_pruned(tmp_path / "other/seed0" / PRUNING_FILE, "F1_S")
