"""A mistake is one line that names the option, and status 2."""

from __future__ import annotations

import pytest
import torch

from efpn.benchmark.cli import main
from efpn.benchmark.words import choose, read_size, whole_numbers
from efpn.errors import UserError


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "big"], "--size=big: must be pixels, at least 32"),
        (["--size", "16"], "--size=16: must be pixels, at least 32"),
        (["--size", "64x64x64"], "--size=64x64x64: must be pixels"),
        (["--precision", "int8"], "--precision: invalid choice: 'int8'"),
        (["--batch", "0"], "--batch=0: must be a whole number, at least 1"),
        (["--batch", "two"], "--batch: invalid int value: 'two'"),
        (["--ftt-width", "-1"], "--ftt-width=-1: must be a whole number, at least 1"),
        (["--proposals", "100"], "--proposals=100: fewer than --small=300; raise it or lower --small"),
        (["--proposals", "0", "--small", "0"], "--proposals=0: must be a whole number, at least 1"),
        (["--run", "x", "--pictures", "y", "--channels", "64"], "--channels=64: a trained --run has its own"),
        (["--size", "64"], "--small-below=56: must be from 8 to 0.8 of the picture's shorter side (51.2 here)"),
        (["--device", "gpu"], "--device=gpu: not to be had here; use cpu"),
        (["--models", "efpn,fpn3x"], "--models=efpn,fpn3x: unknown fpn3x; choose from fpn-1x, fpn-2x, oracle"),
        (["--objectness", "0.1"], "--objectness: untrained detectors have none that means anything; give --run"),
        (["--run", "x", "--pictures", "y", "--objectness", "2"], "--objectness=2.0: must be a number from 0 to 1"),
        (["--run", "outputs/x"], "--run and --pictures: a trained run detects in real pictures; give both"),
        (["--backbone", "resnet19"], "backbone.arch=resnet19: unknown; torchvision offers"),
        (["--siz", "64"], "unrecognized arguments: --siz"),
        (["trainig"], "invalid choice: 'trainig'"),
        (["training", "--steps", "warm"], "--steps=warm: unknown warm; choose from baseline"),
        (["loader", "--workers", "a"], "--workers=a: must be whole numbers with commas"),
        (["loader", "--file-size", "64"], "--file-size=64: smaller than --size"),
        (["small-proposals", "--counts", "1,-2"], "--counts=1,-2: must be whole numbers with commas"),
        (["small-proposals", "--no-memory"], "unrecognized arguments: --no-memory"),
    ],
)
def test_one_line_and_status_2(words, message, capsys):
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and message in said.err and said.err.count("\n") == 1
    assert not said.out


def test_a_missing_run_is_named(capsys):
    assert main(["--run", "nowhere", "--pictures", "nowhere"]) == 2
    assert "run=nowhere: no such file or folder" in capsys.readouterr().err


def test_a_gpu_that_is_not_there_is_named(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main(["--device", "cuda"]) == 2
    assert "--device=cuda: not to be had here" in capsys.readouterr().err


def test_help_tells_how_to_call(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    said = capsys.readouterr().out
    assert end.value.code == 0 and "python -m efpn.benchmark loader --size 512" in said
    assert all(name in said for name in ("inference", "training", "loader", "small-proposals"))


def test_lists_keep_the_order_of_the_known():
    assert choose("--models", "c, a", ["a", "b", "c"]) == ["a", "c"] and choose("--models", None, ["a"]) == ["a"]
    with pytest.raises(UserError, match="--models=,"):
        choose("--models", ",", ["a"])
    assert whole_numbers("--workers", "2,0,2") == [0, 2]
    assert read_size("700") == (700, 700) and read_size("700X1000") == (700, 1000)
