"""Damaged files and a machine that refuses to write: named in one line, with a way out, and nothing lost."""

from __future__ import annotations

import errno
import json
import resource
import shutil
from pathlib import Path

import pytest
import torch
from helpers import TINY, run, tiny
from hydra.errors import InstantiationException

from efpn.entry import WAYS_OUT, in_one_line
from efpn.errors import UserError
from efpn.runs import files
from efpn.runs.saved import saved_runs
from efpn.tasks.base import DetectorTask
from efpn.training.run import train
from efpn.weights import read_tensors

pytestmark = pytest.mark.slow


def stop_at(patch: pytest.MonkeyPatch, step: int, do) -> None:
    """Call ``do`` at the first batch of that step."""
    original = DetectorTask.on_train_batch_start

    def start(self, batch, batch_idx):
        if self.global_step == step:
            do()
        return original(self, batch, batch_idx)

    patch.setattr(DetectorTask, "on_train_batch_start", start)


class Stop(Exception):
    pass


@pytest.fixture(scope="module")
def begun(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outputs with a baseline that was stopped after its first resume point."""

    def stop():
        raise Stop

    outputs = tmp_path_factory.mktemp("begun")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        stop_at(patch, 3, stop)
        train(tiny(outputs, data, "phase=baseline"))
    return outputs


@pytest.fixture
def interrupted(begun: Path, tmp_path: Path) -> Path:
    """A copy of it: the phase's folder."""
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    return tmp_path / "demo/seed0/baseline"


@pytest.mark.parametrize("text", ["", "name: demo\n", "a: [1\n", "\x00\x01", "- 1\n", b"\xff\xfe\x00"])
def test_a_damaged_config_is_named_with_a_way_out(text: str | bytes, interrupted: Path, data: Path) -> None:
    (interrupted / "config.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    outputs = interrupted.parents[2]
    with pytest.raises(UserError, match=r"baseline/config\.yaml: damaged \(.*overwrite=true"):
        train(tiny(outputs, data, "phase=baseline", "resume=true"))
    (interrupted / "weights.ckpt").touch()
    with pytest.raises(UserError, match=r"baseline/config\.yaml: damaged \("):
        saved_runs(str(interrupted))
    assert (interrupted / "last.ckpt").is_file()


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '{"phase": "base'])
def test_a_damaged_record_is_named_before_training_and_can_be_removed(text: str, interrupted: Path, data: Path) -> None:
    record, outputs = interrupted / "metrics.json", interrupted.parents[2]
    record.write_text(text)
    with pytest.raises(UserError, match=r"baseline/metrics\.json: .*remove it to go on"):
        train(tiny(outputs, data, "phase=baseline", "resume=true"))
    if text == "{":
        record.unlink()
        train(tiny(outputs, data, "phase=baseline", "resume=true"))
        assert json.loads(record.read_text())["phase"] == "baseline"


def test_what_is_no_resume_point_is_named(interrupted: Path, data: Path, tmp_path: Path) -> None:
    point = interrupted / "last.ckpt"
    torch.save({"state_dict": {}, "epoch": 0}, point)
    with pytest.raises(UserError, match=r"last\.ckpt: nothing to resume from \(without .*loops.*ckpt_path=FILE"):
        train(tiny(tmp_path, data, "phase=baseline", "resume=true"))


def test_a_resume_point_of_another_model_is_named(interrupted: Path, data: Path, tmp_path: Path) -> None:
    options = [f"ckpt_path={interrupted / 'last.ckpt'}", "name=other", "model.channels=16"]
    with pytest.raises(UserError, match=r"resume point .*last\.ckpt does not fit: .*instead of"):
        train(tiny(tmp_path, data, "phase=baseline", *options))


def test_a_resume_point_goes_on_in_another_folder(interrupted: Path, data: Path, tmp_path: Path) -> None:
    train(tiny(tmp_path, data, "phase=baseline", f"ckpt_path={interrupted / 'last.ckpt'}", "name=other"))
    record = json.loads((tmp_path / "other/seed0/baseline/metrics.json").read_text())
    assert record["steps"] == 4 and record["started_from"] is None
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyError):
        patch.setattr(DetectorTask, "on_train_batch_start", lambda *args: {}["killed at once"])
        again = [f"ckpt_path={interrupted / 'last.ckpt'}", "name=other", "overwrite=true"]
        train(tiny(tmp_path, data, "phase=baseline", *again))
    assert not (tmp_path / "other/seed0/baseline/weights.ckpt").exists()  # which would count as finished


def test_a_step_of_other_images_is_refused(interrupted: Path, data: Path, tmp_path: Path) -> None:
    options = ["phase=baseline", "resume=true", "trainer.accumulate_grad_batches=2"]
    with pytest.raises(UserError, match="phase=baseline is under way with 2 images a step, not 4; go on with as many"):
        train(tiny(tmp_path, data, *options))


def test_a_full_disk_leaves_the_checkpoint_before(data: Path, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    narrow = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))  # noqa: E731
    folder = tmp_path / "demo/seed0/baseline"
    try:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError) as caught:
            stop_at(patch, 3, narrow)
            train(tiny(tmp_path, data, "phase=baseline"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = in_one_line(caught.value)
    assert said and said.startswith(f"{folder / 'last.ckpt'}: File too large: ") and "B free; free some space" in said
    assert read_tensors(folder / "last.ckpt")["global_step"] == 2
    assert {path.name for path in folder.iterdir()} == {"last.ckpt", "config.yaml", "metrics.json"}
    train(tiny(tmp_path, data, "phase=baseline", "resume=true"))


def test_a_disk_that_is_too_small_is_foreseen(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: usage._replace(free=10**6))
    with pytest.raises(
        UserError, match=r"baseline: saving phase=baseline needs at least .* 1\.0 MB are free, .* missing"
    ):
        train(tiny(tmp_path, data, "phase=baseline"))
    assert not list((tmp_path / "demo/seed0/baseline").iterdir())


def test_outputs_that_are_no_folder_are_named_before_the_data_are_read(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("a file")
    done = run("train.py", *TINY, f"paths.outputs={tmp_path / 'outputs'}", f"data.root={tmp_path / 'data'}")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"error: {tmp_path / 'outputs'}" in done.stderr and "paths.outputs=FOLDER" in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("option", ["backbone.weights", "init_ckpt", "ckpt_path"])
@pytest.mark.parametrize("content", [None, b"cut off"])
def test_what_a_phase_starts_from_is_read_before_the_data_are(
    option: str, content: bytes | None, tmp_path: Path
) -> None:
    start, data = tmp_path / "start.ckpt", tmp_path / "data"
    if content is not None:
        start.write_bytes(content)
    with pytest.raises((UserError, InstantiationException), match=r"start\.ckpt: (not found|damaged or truncated)"):
        train(tiny(tmp_path, data, "phase=baseline", f"{option}={start}"))
    assert not data.exists()


@pytest.mark.parametrize("number", WAYS_OUT)
def test_what_the_machine_refuses_is_one_line(number: int) -> None:
    said = in_one_line(OSError(number, "refused", "outputs/x"))
    assert said and said.startswith("outputs/x: refused; ") and "\n" not in said


def test_other_errors_of_the_system_are_bugs() -> None:
    assert in_one_line(OSError(errno.EPIPE, "broken pipe")) is None and in_one_line(ValueError("x")) is None
