"""Signals: a training saves where it is, says how to go on, and goes on as if nothing had been."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import TINY, config, tiny
from scripts import Call

from efpn.errors import Interrupted
from efpn.runs.checkpoints import Checkpoint, read_checkpoint
from efpn.tasks.base import DetectorTask
from efpn.training.run import settled, train
from efpn.weights import read_tensors

pytestmark = pytest.mark.slow
PLACE = "demo/seed0/baseline/weights.ckpt"
ONE_STRETCH = ["phase=baseline", "phases.baseline.max_steps=6", "phases.baseline.checkpoint_every=6"]
LONG = ["phase=baseline", *(f"phases.baseline.{key}=4000" for key in ("max_steps", "checkpoint_every", "val_every"))]


def signal_at(patch: pytest.MonkeyPatch, step: int, number: int) -> None:
    """Let the process signal itself at the first batch of that step."""
    original, sent = DetectorTask.on_train_batch_start, []

    def start(self, batch, batch_idx):
        if self.global_step == step and not sent:
            sent.append(number)
            os.kill(os.getpid(), number)
        return original(self, batch, batch_idx)

    patch.setattr(DetectorTask, "on_train_batch_start", start)


@pytest.mark.parametrize("more", [[], ["trainer.accumulate_grad_batches=2", "data.num_workers=2"]])
def test_stopped_inside_a_stretch_it_ends_as_an_unbroken_run(more: list[str], data: Path, tmp_path: Path) -> None:
    options = [*ONE_STRETCH, "phases.baseline.val_every=6", *more]
    train(tiny(tmp_path / "unbroken", data, *options))
    whole = read_checkpoint(tmp_path / "unbroken" / PLACE)
    for number in (signal.SIGTERM, signal.SIGINT):
        stopped_and_resumed(number, whole, options, data, tmp_path / number.name)


def stopped_and_resumed(number: signal.Signals, whole: Checkpoint, options: list[str], data: Path, own: Path) -> None:
    """Stop a run in the folder `own` by a signal, resume it, and hold what it ends with against the unbroken one's."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted) as caught:
        signal_at(patch, 3, number)
        train(tiny(own, data, *options))
    point = own / "demo/seed0/baseline/last.ckpt"
    assert caught.value.message == f"{number.name} at step 4 of 6: saved {point}"
    assert read_tensors(point)["global_step"] == 4
    train(tiny(own, data, *options, "resume=true"))
    resumed = read_checkpoint(own / PLACE)
    assert resumed.steps == 6 and whole.metrics.keys() == resumed.metrics.keys()
    for key, value in whole.state_dict.items():
        torch.testing.assert_close(resumed.state_dict[key], value, rtol=1e-5, atol=1e-6, msg=key)


def test_stopped_at_a_stretchs_last_step_it_goes_on_with_the_next(trained: Path, data: Path, tmp_path: Path) -> None:
    options = ["phase=baseline", "phases.baseline.val_every=2"]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted, match="at step 2 of 4"):
        signal_at(patch, 1, signal.SIGTERM)
        train(tiny(tmp_path, data, *options))
    train(tiny(tmp_path, data, *options, "resume=true"))
    whole, resumed = (read_checkpoint(path) for path in (trained / "baseline/weights.ckpt", tmp_path / PLACE))
    for key, value in whole.state_dict.items():
        torch.testing.assert_close(resumed.state_dict[key], value, rtol=1e-5, atol=1e-6, msg=key)


def start(outputs: Path, data: Path, *more: str, **environment: str) -> Call:
    words = [*TINY, *LONG, "data.num_workers=2", f"paths.outputs={outputs}", f"data.root={data}", *more]
    words += ["callbacks=default", "callbacks.progress.every=1"]
    return Call("train.py", words, outputs.with_name("said"), **environment)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_ends_it_quietly(number: signal.Signals, data: Path, tmp_path: Path) -> None:
    call = start(tmp_path, data)
    call.wait_for("step 2/")
    os.killpg(call.pid, number)  # as a terminal and SLURM do: the workers receive it too
    done = call.wait()
    stderr = done.stderr
    assert done.returncode == 128 + number
    assert f"{number.name} at step " in stderr and "last.ckpt; go on with `python train.py experiment=demo" in stderr
    assert "resume=true`" in stderr and "Traceback" not in stderr and "DataLoader worker" not in stderr
    assert (tmp_path / "demo/seed0/baseline/last.ckpt").is_file()


STOPPED = """
from omegaconf import OmegaConf
from torch.utils.data import DataLoader
from efpn.entry import call
from efpn.errors import Interrupted
from efpn.signals import leave_to_main

loader = DataLoader(range(4), num_workers=1, persistent_workers=True, worker_init_fn=leave_to_main)

def stopped(cfg):
    next(iter(loader))
    raise Interrupted(15, "stopped")

call(stopped, OmegaConf.create())
"""


def test_a_worker_that_nobody_has_ended_holds_nothing_up() -> None:
    """As where a signal comes while a run validates: the training loader's worker waits for its next batch."""
    done = subprocess.run([sys.executable, "-c", STOPPED], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, "stopped\n")


def test_a_slurm_job_requeues_itself_and_goes_on_by_itself(data: Path, tmp_path: Path) -> None:
    tools, calls = tmp_path / "bin", tmp_path / "calls"
    tools.mkdir()
    (tools / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    (tools / "scontrol").chmod(0o755)
    one = dict.fromkeys(("NTASKS", "NTASKS_PER_NODE", "JOB_NUM_NODES"), "1") | dict.fromkeys(
        ("PROCID", "LOCALID", "NODEID"), "0"
    )
    number = str(os.getpid())  # Lightning takes the job's port from it
    job = {f"SLURM_{key}": value for key, value in one.items()} | {"SLURM_JOB_ID": number, "SLURM_JOB_NAME": "train"}
    job |= {"SLURM_NODELIST": "localhost", "PATH": f"{tools}:{os.environ['PATH']}"}
    slurm = ["trainer=slurm", "trainer.accelerator=cpu", "phases.baseline.task.schedule.warmup_steps=1"]
    call = start(tmp_path / "out", data, *slurm, **job)
    call.wait_for("step 2/")
    os.killpg(call.pid, signal.SIGUSR1)
    done = call.wait()
    assert done.returncode == 128 + signal.SIGUSR1, done.stderr
    assert (
        calls.read_text() == f"requeue {number}\n" and f"job {number} is requeued and goes on by itself" in done.stderr
    )
    step = read_tensors(tmp_path / "out/demo/seed0/baseline/last.ckpt")["global_step"]
    again = start(tmp_path / "out", data, *slurm, **job, SLURM_RESTART_COUNT="1")  # the same command
    said = again.wait_for("/4000  loss")
    os.killpg(again.pid, signal.SIGUSR2)  # by which submitit has SLURM tell it
    assert again.wait().returncode == 128 + signal.SIGUSR2 and calls.read_text() == 2 * f"requeue {number}\n"
    assert f"step {step + 1}/4000" in next(line for line in said.splitlines() if "/4000  loss" in line)


@pytest.mark.parametrize("words", [["phase=baseline"], ["phase=all", "sequence=[baseline]"]])
def test_a_requeued_job_goes_on_with_its_own_point_and_no_longer_with_the_one_it_was_given(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    cfg = config("train", "experiment=demo", f"paths.outputs={tmp_path}", "ckpt_path=given.ckpt", *words)
    assert settled(cfg).ckpt_path == "given.ckpt"
    own = Path(cfg.paths.run, "baseline", "last.ckpt")
    own.parent.mkdir(parents=True)
    own.touch()
    assert settled(cfg).ckpt_path is None
