"""One process in a phase's folder; dead ones do not keep it."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from helpers import tiny

from efpn.errors import UserError
from efpn.runs.lock import SILENT, Owner, birth, lock, refuse_or_clear
from efpn.runs.phases import phase_run
from efpn.training.run import run_or_keep, train

pytestmark = pytest.mark.slow


def leave(folder: Path, owner: Owner, silent: float = 0.0) -> Path:
    """A lock as another process has left it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    path.write_text(json.dumps(asdict(owner)))
    os.utime(path, (time.time() - silent,) * 2)
    return path


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_second_run_is_refused_in_one_line_and_leaves_the_first_alone(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo/seed0/baseline"
    with lock(folder):
        for more in ([], ["resume=true"], ["overwrite=true"]):
            with pytest.raises(UserError, match=rf"demo/seed0/baseline: in use by process {os.getpid()} on ") as caught:
                train(tiny(tmp_path, data, "phase=baseline", *more))
            assert "name=OTHER" in str(caught.value) and "\n" not in str(caught.value)
        assert [path.name for path in folder.iterdir()] == [".lock"]
    train(tiny(tmp_path, data, "phase=baseline"))
    assert (folder / "weights.ckpt").is_file() and not (folder / ".lock").exists()


def test_a_job_that_shares_a_phase_waits_for_the_one_that_trains_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("efpn.runs.lock.LOOK", 0.01)
    caplog.set_level(logging.INFO)
    got = threading.Event()

    def second() -> None:
        with lock(tmp_path, wait=True):
            got.set()

    waiting = threading.Thread(target=second)
    with lock(tmp_path):
        waiting.start()
        assert not got.wait(0.2)
    assert got.wait(10)
    waiting.join()
    assert caplog.text.count("waiting: ") == 1 and f"in use by process {os.getpid()}" in caplog.text
    assert not (tmp_path / ".lock").exists()


def test_a_job_that_waited_keeps_what_the_other_has_trained(
    trained: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = tiny(trained.parents[1], data, "resume=true", "phase=baseline")
    run = replace(phase_run(cfg, "baseline"), shared=True)
    done, aside = run.folder / "weights.ckpt", run.folder / "aside"
    done.rename(aside)

    @contextmanager
    def other_finishes(folder: Path, wait: bool) -> Iterator[None]:
        assert wait
        aside.rename(done)
        yield

    monkeypatch.setattr("efpn.training.run.lock", other_finishes)
    before = done.stat().st_mtime_ns if done.exists() else aside.stat().st_mtime_ns
    metrics, _ = run_or_keep(cfg, run)
    assert "val/AP" in metrics and done.stat().st_mtime_ns == before


def test_a_process_that_is_only_waited_for_is_dead() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    deadline = time.monotonic() + 30
    while birth(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)  # it ends, and nobody asks for its status
    assert birth(process.pid) == "" and birth(os.getpid())
    process.wait()


def test_an_error_gives_the_folder_back(tmp_path: Path) -> None:
    with pytest.raises(KeyError), lock(tmp_path):
        raise KeyError
    assert not list(tmp_path.iterdir())


STALE = {
    "a dead process": (lambda: replace(Owner.me(), pid=dead_process()), 0.0, {}),
    "another process of its number": (lambda: replace(Owner.me(), born="1"), 0.0, {}),
    "a silent one elsewhere": (lambda: replace(Owner.me(), host="node7"), SILENT + 60, {}),
    "the same job before": (
        lambda: replace(Owner.me(), host="node7", job="77"),
        0.0,
        {"SLURM_JOB_ID": "77", "SLURM_RESTART_COUNT": "1"},
    ),
}


@pytest.mark.parametrize("owner, silent, environment", STALE.values(), ids=STALE)
def test_a_stale_lock_is_taken_over(
    owner, silent, environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    left = owner()
    leave(tmp_path, left, silent)
    with caplog.at_level(logging.WARNING), lock(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text()) == asdict(Owner.me())
    assert f"taken over from process {left.pid} on {left.host}, which is dead" in caplog.text
    assert not list(tmp_path.iterdir())


def test_one_elsewhere_that_shows_signs_of_life_keeps_it(tmp_path: Path) -> None:
    leave(tmp_path, Owner("node7", 4711, "5", None), silent=60)
    with (
        pytest.raises(UserError, match=r"in use by process 4711 on node7, last sign of life 6\d s ago"),
        lock(tmp_path),
    ):
        pass


@pytest.mark.parametrize("damage", [b"{", b"\xff\xfe{", b'{"host": "a", "pid": "7", "born": "", "job": null}'])
def test_a_damaged_lock_counts_until_it_is_old(damage: bytes, tmp_path: Path) -> None:
    path = leave(tmp_path, Owner.me())
    path.write_bytes(damage)
    with pytest.raises(UserError, match="in use by an unknown process"), lock(tmp_path):
        pass
    os.utime(path, (0, 0))
    with lock(tmp_path):
        pass


@pytest.mark.parametrize("third", [None, Owner("node9", 4713, "7", None)], ids=["no links", "a third process"])
def test_the_new_lock_of_a_faster_process_is_put_back(
    third: Owner | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rename = leave(tmp_path, Owner("node7", 4711, "5", None), SILENT + 60), Path.rename
    faster = Owner("node8", 4712, "6", None)

    def late(self: Path, target: Path) -> Path:
        leave(tmp_path, faster)
        moved = rename(self, target)
        if third:
            leave(tmp_path, third)
        return moved

    def no_links(*args: object) -> None:
        raise PermissionError(errno.EPERM, "a file system without links")

    monkeypatch.setattr(Path, "rename", late)
    if not third:
        monkeypatch.setattr(os, "link", no_links)
    refuse_or_clear(path)
    assert json.loads(path.read_text()) == asdict(third or faster)
    assert [file.name for file in tmp_path.iterdir()] == [".lock"]
