"""kill -9 in the middle of each phase or of a sweep, then resume: it ends as one that was never killed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from helpers import TINY
from scripts import Call

from efpn.runs.checkpoints import read_checkpoint
from efpn.weights import read_tensors

pytestmark = pytest.mark.slow

STEPS, STRETCH = 12, 2
PHASES = ("baseline", "distill", "finetune")
LONGER = [
    *(f"phases.{phase}.max_steps={STEPS}" for phase in PHASES),
    *(f"phases.{phase}.checkpoint_every={STRETCH}" for phase in PHASES),
    *(f"phases.{phase}.val_every={STEPS}" for phase in PHASES),
]


def start(outputs: Path, *words: str) -> Call:
    where = [f"paths.outputs={outputs}", f"data.root={outputs.parent / 'data'}"]
    arguments = [*(words or ("resume=true",)), *TINY, *LONGER, *where]
    outputs.mkdir(exist_ok=True)
    return Call("train.py", arguments, outputs / "said")


def kill_inside(phase: str, outputs: Path) -> int:
    """Start the run, kill it once ``phase`` has a resume point, and return the step that it stands at."""
    return kill_once(start(outputs), outputs / "demo/seed0" / phase / "last.ckpt")


def kill_once(call: Call, point: Path) -> int:
    """Kill a call once there is a resume point, and return the step that it stands at."""
    deadline = time.monotonic() + 240
    while not point.exists():
        assert call.running and time.monotonic() < deadline, f"{point}: no such resume point"
        time.sleep(0.005)
    os.kill(call.pid, signal.SIGKILL)
    assert call.wait().returncode == -signal.SIGKILL
    return int(read_tensors(point)["global_step"])


def test_killed_in_every_phase_and_resumed(tmp_path: Path) -> None:
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    assert start(unbroken).wait().returncode == 0
    for phase in PHASES:
        assert STRETCH <= kill_inside(phase, broken) < STEPS
    assert start(broken).wait().returncode == 0
    for phase in PHASES:
        whole, resumed = (read_checkpoint(o / "demo/seed0" / phase / "weights.ckpt") for o in (unbroken, broken))
        assert whole.steps == resumed.steps == STEPS
        for key, value in whole.state_dict.items():
            torch.testing.assert_close(resumed.state_dict[key], value, rtol=1e-4, atol=1e-5, msg=f"{phase}: {key}")


def test_a_sweep_killed_in_its_second_row_goes_on_there(tmp_path: Path) -> None:
    words, outputs = ["-m", "+sweep=table2", "+row=control,undistilled"], tmp_path / "outputs"
    row = outputs / "demo/undistilled/seed0/finetune"
    killed_at = kill_once(start(outputs, *words), row / "last.ckpt")
    first = [outputs / "demo/seed0" / phase / "weights.ckpt" for phase in ("baseline", "control")]
    before = [path.stat().st_mtime_ns for path in first]
    assert STRETCH <= killed_at < STEPS and not (row / "weights.ckpt").exists()
    again = start(outputs, *words)
    assert again.wait().returncode == 0
    assert [path.stat().st_mtime_ns for path in first] == before
    assert read_checkpoint(row / "weights.ckpt").steps == STEPS
    said = again.out.read_text()
    assert f"python summarise.py sweep={outputs}/demo table=table2" in said and "last.ckpt" in said
