"""Training steps, end to end at a tiny size."""

from __future__ import annotations

import json

import pytest
import torch
from helpers import SMALL_BENCHMARK, benchmark_setting, run_here

from efpn.benchmark.training import workload

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    out = tmp_path_factory.mktemp("benchmarks")
    done = run_here("benchmark.py", "what=training", *SMALL_BENCHMARK, f"out={out}")
    assert done.returncode == 0, done.stderr
    text = (out / "small.md").read_text()
    assert "time, baseline / torchvision in a bare loop" in text and "<= 1.05" in text
    return json.loads((out / "small.json").read_text())


def test_the_ratios_are_those_of_the_medians(record):
    seconds = {name: step["seconds"]["median"] for name, step in record["models"].items()}
    values = {ratio["name"]: (ratio["value"], ratio["target"]) for ratio in record["ratios"]}
    assert values == {
        "time, baseline / torchvision in a bare loop": (
            pytest.approx(seconds["baseline"] / seconds["torchvision"]),
            1.05,
        ),
        "time, distillation / its bare forward": (pytest.approx(seconds["distill"] / seconds["bare-forward"]), 1.3),
        "time, distillation / its bare forward and backward": (
            pytest.approx(seconds["distill"] / seconds["bare-backward"]),
            None,
        ),
        "time, distillation / baseline on 2x images": (pytest.approx(seconds["distill"] / seconds["fpn-2x"]), None),
    }


def test_stages_name_the_parts_of_a_step(record):
    steps = record["models"]
    assert set(steps["distill"]["stages"]) == {"backbone", "fpn", "extension", "backward", "update", "rest"}
    assert set(steps["bare-forward"]["stages"]) == {"backbone", "fpn", "extension", "rest"}
    assert {"rpn", "heads", "backward", "update"} <= set(steps["baseline"]["stages"]) & set(steps["finetune"]["stages"])
    assert all(step["stage_share"] == pytest.approx(1, abs=0.05) for step in steps.values())


def test_the_bare_passes_are_those_of_the_step(record):
    counted = {name: step["multiply_adds"] for name, step in record["models"].items()}
    forward = ("backbone", "fpn", "extension")
    assert {s: counted["distill"][s] for s in forward} == {s: counted["bare-forward"][s] for s in forward}
    assert counted["distill"]["backward"] == counted["bare-backward"]["backward"] > counted["distill"]["extension"]
    assert counted["bare-forward"].get("backward", 0) == 0


def test_ours_and_torchvisions_do_the_same_work(record):
    ours, theirs = (record["models"][name] for name in ("baseline", "torchvision"))
    counted = [{stage: n for stage, n in step["multiply_adds"].items() if n} for step in (ours, theirs)]
    assert counted[0] == counted[1] and ours["parameters"] == theirs["parameters"]


LEARNS = {
    "baseline": ("backbone.body.layer2", "backbone.fpn", "rpn", "roi_heads"),
    "torchvision": ("backbone.body.layer2", "backbone.fpn", "rpn", "roi_heads"),
    "distill": ("backbone.extension",),
    "finetune": ("roi_heads.small_head",),
}


@pytest.mark.parametrize("name", LEARNS)
def test_a_step_trains_what_its_phase_trains(name):
    work = workload(benchmark_setting(), name)
    before = {key: value.clone() for key, value in work.model.state_dict().items()}
    work.run(0)
    moved = {key for key, value in work.model.state_dict().items() if not torch.equal(value, before[key])}
    assert all(any(key.startswith(part) for key in moved) for part in LEARNS[name])
    whole = name in ("baseline", "torchvision")
    allowed = (*LEARNS[name], "backbone.body.layer3", "backbone.body.layer4") if whole else LEARNS[name]
    assert all(key.startswith(allowed) for key in moved)


def test_the_bare_passes_train_nothing_but_the_second_has_gradients():
    for name, has in (("bare-forward", False), ("bare-backward", True)):
        work = workload(benchmark_setting(), name)
        before = {key: value.clone() for key, value in work.model.state_dict().items()}
        work.run(0)
        assert all(torch.equal(value, before[key]) for key, value in work.model.state_dict().items())
        gradients = {key for key, value in work.model.named_parameters() if value.grad is not None}
        assert bool(gradients) == has and all(key.startswith("backbone.extension") for key in gradients)
