"""A mistake is one line that names the option, before anything is built."""

from __future__ import annotations

import pytest
import torch
from helpers import benchmark_setting, config, run_here

from efpn.benchmark.inference import run
from efpn.benchmark.setting import choose, read_setting, read_size
from efpn.benchmark.small_proposals import run as run_small_proposals
from efpn.benchmark.training import run as run_training
from efpn.errors import UserError
from efpn.ranges import BENCHMARK, check_values

TRAINED = ("run=x", "images=y")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["proposals.total=100"], "proposals.total=100: fewer than proposals.small=300; raise it or lower"),
        (["size=64"], "small_roi_below=56: must be from 8 to 0.8 of the image's shorter side (51.2 here)"),
        (["device=gpu"], "device=gpu: not to be had here; use cpu"),
        (["models=[efpn,fpn3x]"], "models=['efpn', 'fpn3x']: unknown fpn3x; choose from fpn-1x, fpn-2x, oracle"),
        (["run=outputs/x"], "run= and images=: a trained run detects in real images; give both"),
        ([*TRAINED, "ftt_width=64"], "ftt_width=64: a trained run= has its own; leave it out"),
        ([*TRAINED, "detector=fcos"], "detector=fcos: a trained run= has its own"),
        ([*TRAINED, "backbone=resnet18"], "backbone=resnet18: a trained run= has its own"),
        ([f"+rows.{'x' * 200}={{}}"], "name is not given, and all that was given makes too long a one"),
    ],
)
def test_what_contradicts_itself_is_named(words, message):
    cfg = config("benchmark", *words)
    cfg.words = words
    with pytest.raises(UserError) as caught:
        run(cfg)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_more_models_than_a_figure_tells_apart_are_refused_before_they_are_timed():
    with pytest.raises(UserError, match="models: a figure tells 6 apart, 8 are asked for"):
        run_small_proposals(config("benchmark", "what=small-proposals", "models=null"))


def test_an_unknown_step_is_named():
    with pytest.raises(UserError, match=r"steps=\['warm'\]: unknown warm; choose from baseline"):
        run_training(config("benchmark", "what=training", "steps=[warm]"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ratios=null"], "ratios=None: must be a list of one or more, each {name, of, to: text"),
        (["size=16"], "size=16: must be pixels, at least 32, or HEIGHTxWIDTH such as 700x1000"),
        (["siz=64"], "siz: the config has no such key (did you mean size?)"),
        (["model.chanels=64"], "model.chanels: the config has no such key (did you mean model.channels?)"),
        (["what=trainig"], "Could not find 'what/trainig'"),
        (["what=small-proposals", "run=x"], "run: the config has no such key"),
        (["backbone.arch=resnet19", "memory=false"], "backbone.arch=resnet19: unknown; use resnet10 or torchvision's"),
        (["what=loader", "file_size=64"], "file_size=64: smaller than size"),
        (["run=nowhere", "images=nowhere"], "run=nowhere: no such file or folder"),
        (["out=README.md/x"], "README.md: Not a directory; something else stands there"),
    ],
)
def test_one_line_and_status_2(words, message):
    done = run_here("benchmark.py", *words)
    assert done.returncode == 2 and message in done.stderr
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr


def test_a_gpu_that_is_not_there_is_named():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match="device=cuda: not to be had here"):
        read_setting(config("benchmark", "device=cuda"))


def test_lists_keep_the_order_of_the_known():
    assert choose("models", ["c", "a"], ["a", "b", "c"]) == ["a", "c"] and choose("models", None, ["a"]) == ["a"]
    assert read_size(700) == (700, 700) and read_size("700X1000") == (700, 1000)


def test_a_file_is_named_by_what_was_given():
    words = ["threads=1", "size=64x80", "precision=bf16", "small_roi_below=16", "model.tiles.grid=2"]
    cfg = config("benchmark", *words)
    cfg.words = words
    assert read_setting(cfg).file_name == "inference-cpu-64x80-bf16-model.tiles.grid-2-small_roi_below-16"
    assert benchmark_setting().file_name == "small"


def test_a_ratio_that_cannot_be_taken_is_refused_before_anything_is_measured():
    check_values(config("benchmark"), BENCHMARK)
    for ratio in ("{name: a, of: efpn, to: fpn-1x, what: speed, target: 1}", "{name: a, of: efpn, to: fpn-1x}"):
        with pytest.raises(UserError, match=r"ratios=.*must be a list of one or more, each \{name, of, to"):
            check_values(config("benchmark", f"ratios=[{ratio}]"), BENCHMARK)
