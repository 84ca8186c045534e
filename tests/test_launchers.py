"""Sweeps whose jobs run in other processes or are chosen by Optuna, and what a sweep leaves in Weights & Biases."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, TINY, config, one_step, run
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from efpn.entry import check_sweep
from efpn.errors import UserError
from efpn.evaluation.dashboard import dashboard
from efpn.runs.rebuild import make_trainer


@pytest.mark.slow
@pytest.mark.parametrize("launcher, rows", [("joblib", "fpn,nearest"), ("submitit", "fpn"), ("ray", "fpn,nearest")])
def test_jobs_in_other_processes_lie_where_they_should_and_those_that_fail_are_listed(
    launcher: str, rows: str, data: Path, tmp_path: Path
) -> None:
    if launcher == "ray":
        pytest.importorskip("ray", reason="not beside joblib: `make test-ray`")
    words = {
        "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
        "submitit": ["hydra/launcher=submitit_local"],
        "ray": ["hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2"],
    }
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "nearest").touch()  # in the way of this job
    where = [f"paths.outputs={tmp_path}", f"data.root={data}", *one_step("baseline")]
    table = ["+sweep=table3", f"+row={rows}"]
    command = [sys.executable, "train.py", "-m", *TINY, *where, *table, *words[launcher]]  # not forked
    # By itself Ray lets its jobs run at nice 15: beside the other tests they would get a hundredth of a core
    env = {**os.environ, "RAY_worker_niceness": "0"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == (2 if "nearest" in rows else 0), done.stderr
    if "nearest" in rows:
        assert "error: 1 of the sweep's jobs failed; the same command does only what is missing" in done.stderr
        assert f"\n  +row=nearest: {folder}/nearest" in done.stderr
    assert [str(path.relative_to(folder)) for path in folder.glob("**/weights.ckpt")] == ["seed0/baseline/weights.ckpt"]
    assert [path.parts[-3] for path in folder.glob("*/seed0/row.json")] == ["fpn"]


def multirun(monkeypatch: pytest.MonkeyPatch, *words: str):
    """What a job of a sweep with these words is composed of, and its launcher."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", ["hydra.mode=MULTIRUN", *words], return_hydra_config=True)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", cfg)
    return cfg


def test_a_slurm_job_has_a_task_for_each_device_of_several_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "4")
    per_job = ["hydra.launcher.nodes=2", "hydra.launcher.tasks_per_node=4", "hydra.launcher.gpus_per_node=4"]
    cfg = multirun(monkeypatch, "trainer=slurm", "trainer.num_nodes=2", "hydra/launcher=slurm", *per_job)
    check_sweep(cfg)
    launcher = OmegaConf.to_container(cfg.hydra.launcher, resolve=False)
    asked = {key: launcher[key] for key in ("nodes", "tasks_per_node", "gpus_per_node", "timeout_min")}
    assert asked == {"nodes": 2, "tasks_per_node": 4, "gpus_per_node": 4, "timeout_min": 1440}
    assert launcher["_target_"].endswith("SlurmLauncher") and launcher["max_num_timeout"] > 0
    assert make_trainer(cfg.trainer, accelerator="cpu", logger=False).world_size == 8


def test_the_sbatch_script_of_the_docs_is_the_recipe_on_two_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs/reproduce.md").read_text()
    asked = dict(re.findall(r"--([\w-]+)=(\S+)", "".join(re.findall(r"^#SBATCH.*\n", text, re.MULTILINE))))
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", asked["ntasks-per-node"])
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", asked["nodes"])
    call = re.search(r"^srun python train.py (.*)$", text, re.MULTILINE)
    cfg = config("train", *shlex.split(call[1]))
    trainer = make_trainer(cfg.trainer, accelerator="cpu", logger=False)
    assert (trainer.num_nodes, trainer.world_size) == (2, 8) and asked["gpus-per-node"] == asked["ntasks-per-node"]
    assert trainer.world_size * trainer.accumulate_grad_batches * cfg.data.batch_size == 16
    assert asked["signal"].startswith("SIGUSR1@") and "--requeue" in text


@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_a_launcher_that_starts_one_process_a_job_takes_one_device(
    launcher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = multirun(monkeypatch, "trainer=ddp", "trainer.devices=2", f"hydra/launcher={launcher}")
    with pytest.raises(UserError, match="would each replay the sweep.*hydra/launcher=slurm"):
        check_sweep(cfg)


@pytest.mark.slow
def test_optuna_looks_for_the_best_f1_of_small_objects(data: Path, tmp_path: Path) -> None:
    where = [f"paths.outputs={tmp_path}", f"data.root={data}", *one_step("baseline"), "sequence=[baseline]"]
    done = run("train.py", "-m", *TINY, *where, "+sweep=optuna_lambda", "hydra.sweeper.n_trials=2")
    assert done.returncode == 0, done.stderr
    best = OmegaConf.load(tmp_path / "sweeps/demo/optimization_results.yaml")
    assert 0.25 <= best.best_params["loss.lambda_pos"] <= 2 and best.best_value == 0
    rows = list(tmp_path.glob("demo/loss.lambda_pos-*/seed0/row.json"))
    assert len(rows) == 2 and len(list(tmp_path.glob("demo/**/weights.ckpt"))) == 1


@pytest.mark.slow
def test_a_pruned_trial_counts_with_its_value_and_is_no_row(data: Path, tmp_path: Path) -> None:
    where = [f"paths.outputs={tmp_path}", f"data.root={data}", *one_step("baseline", "distill", "finetune")]
    pruner = ["callbacks.pruning.pruner._target_=optuna.pruners.ThresholdPruner", "+callbacks.pruning.pruner.lower=2"]
    below = [*pruner, "~callbacks.pruning.pruner.n_startup_trials", "hydra.sweeper.n_trials=1"]
    command = ["train.py", "-m", *TINY, *where, "+sweep=optuna_lambda", *below]
    for _ in range(2):  # the second time without training
        done = run(*command)
        assert done.returncode == 0, done.stderr
        assert "was pruned" in done.stdout and "evaluate and summarise" not in done.stdout
        assert OmegaConf.load(tmp_path / "sweeps/demo/optimization_results.yaml").best_value == 0
        assert [str(path.parent.relative_to(tmp_path)) for path in tmp_path.glob("**/weights.ckpt")] == [
            "demo/seed0/baseline"
        ]
        assert not [*tmp_path.glob("**/row.json")]
    done = run(*[word for word in command if "pruning" not in word], "callbacks.pruning=null")
    assert len([*tmp_path.glob("**/weights.ckpt")]) == 3 and len([*tmp_path.glob("**/row.json")]) == 1, done.stderr
    done = run(*command)  # what has come to its end stays
    assert "was pruned" not in done.stdout and len([*tmp_path.glob("**/row.json")]) == 1, done.stderr


def test_a_trainings_value_is_its_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = {"val/AP": 0.25, "val/F1_S": 0.5}
    monkeypatch.setattr("efpn.training.run.train", lambda cfg: (measured, {}))
    called = runpy.run_path(str(ROOT / "train.py"))["run"]
    cfg = multirun(monkeypatch, "experiment=demo", "+sweep=optuna_lambda")
    assert cfg.objective == "F1_S" and called(cfg) == 0.5
    del measured["val/F1_S"]
    with pytest.raises(UserError, match="objective=F1_S: the validation split has no such number"):
        called(cfg)
    assert called(multirun(monkeypatch, "experiment=demo", "objective=F1_S")) is None


def test_a_dashboard_has_a_panel_for_each_view_of_a_sweep() -> None:
    spec = dashboard("me", "signs", "my sweep")._to_model().model_dump(by_alias=True, mode="json")["spec"]
    panels = [panel for one in spec["section"]["panelBankConfig"]["sections"] for panel in one["panels"]]
    assert [one["viewType"] for one in panels[:3]] == ["Weave", "Bar Chart", "Scatter Plot"]
    assert "rows-my-sweep" in str(panels[0]) and panels[1]["config"]["metrics"] == ["val/AP_S"]
    assert panels[2]["config"]["xAxis"] == "config:loss.value.lambda_pos"
    assert panels[2]["config"]["yAxis"] == "summary:val/F1_S"
    assert [one["config"]["metrics"] for one in panels[3:]] == [["train/loss"], ["val/F1_S"]]
    (one,) = spec["section"]["runSets"][0]["filters"]["filters"]
    assert (one["key"]["name"], one["op"], one["value"]) == ("group", "=", "my sweep")
