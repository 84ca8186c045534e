"""A sweep whose jobs fail: the others have their turn, the failed ones are listed, and a rerun does what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import TINY, run

pytestmark = pytest.mark.slow
SWEEP = ["-m", *TINY, "phase=baseline", "sequence=[baseline]"]


def test_a_failed_job_does_not_end_a_sweep_and_a_rerun_does_what_is_missing(data: Path, tmp_path: Path) -> None:
    where = [f"paths.outputs={tmp_path}", f"data.root={data}", "model.roi.batch_size=0,8,16"]
    first = run("train.py", *SWEEP, *where)
    assert first.returncode == 2 and "Traceback" not in first.stderr
    assert "error: 1 of the sweep's jobs failed; the same command does only what is missing" in first.stderr
    assert "\n  model.roi.batch_size=0: model.roi.batch_size=0: must be a whole number, at least 1" in first.stderr
    handovers = {path: path.stat().st_mtime_ns for path in tmp_path.glob("demo/*/seed0/baseline/handover.ckpt")}
    assert {path.parts[-4] for path in handovers} == {"model.roi.batch_size-8", "model.roi.batch_size-16"}
    missing = min(handovers, key=str)
    missing.unlink()
    again = run("train.py", *SWEEP, *where[:2], "model.roi.batch_size=8,16")
    assert again.returncode == 0, again.stderr
    assert missing.is_file()
    kept = {path: time for path, time in handovers.items() if path != missing}
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items()) and "kept" in again.stdout


def test_a_bug_in_a_job_is_shown_and_counted(data: Path, tmp_path: Path) -> None:
    (tmp_path / "boom.py").write_text(
        "def boom(optimizer, max_steps, warmup_steps=0):\n    raise RuntimeError('boom')\n"
    )
    schedule = "phases.baseline.task.schedule._target_=boom.boom,efpn.training.schedule.warmup_cosine"
    done = run("train.py", *SWEEP, f"paths.outputs={tmp_path}", f"data.root={data}", schedule, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1 and "RuntimeError: boom" in done.stderr and "Traceback" in done.stderr
    assert "error: 1 of the sweep's jobs failed" in done.stderr
    assert len(list(tmp_path.glob("demo/*/seed0/baseline/handover.ckpt"))) == 1
