"""The comparison of Table III's models, end to end at a tiny size."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from helpers import SMALL_BENCHMARK, benchmark_setting, config, run_here
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from efpn.benchmark import measure
from efpn.benchmark.inference import workload
from efpn.benchmark.inputs import fixed_boxes
from efpn.benchmark.measure import multiply_adds
from efpn.benchmark.models import build_row
from efpn.benchmark.report import command
from efpn.benchmark.setting import Setting, read_setting
from efpn.benchmark.timing import Stages, Workload
from efpn.errors import UserError
from efpn.models import Tiles

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """All models, through the command line; the folder."""
    out = tmp_path_factory.mktemp("benchmarks")
    done = run_here("benchmark.py", *SMALL_BENCHMARK, f"out={out}")
    assert done.returncode == 0 and done.stdout.endswith((out / "small.md").read_text() + "\n"), done.stderr
    return out


@pytest.fixture(scope="module")
def record(measured):
    return json.loads((measured / "small.json").read_text())


def test_the_ratios_are_those_of_the_medians(record):
    seconds = {name: model["seconds"]["median"] for name, model in record["models"].items()}
    values = {ratio["name"]: (ratio["value"], ratio["target"], ratio["met"]) for ratio in record["ratios"]}
    expected = seconds["efpn"] / seconds["fpn-2x"]
    assert values["time, EFPN-1x / FPN-2x"] == (pytest.approx(expected), 0.45, expected <= 0.45)
    assert values["time, EFPN-1x / FPN-1x"][0] == pytest.approx(seconds["efpn"] / seconds["fpn-1x"])
    assert not any("memory" in name for name in values)


def test_every_model_is_there_with_its_stages(record):
    models = record["models"]
    plain, extended = ["fpn-1x", "fpn-2x", "oracle"], ["efpn-nearest", "efpn", "second-pass", "second-pass-doubled"]
    assert list(models) == [*plain, *extended, "efpn-whole", "torchvision"]
    usual = {"backbone", "fpn", "rpn", "heads", "post", "rest"}
    assert {name: set(m["stages"]) - usual for name, m in models.items() if set(m["stages"]) != usual} == {
        name: {"extension"} for name in (*extended, "efpn-whole")
    }
    assert all(m["stages"][stage] > 0 for m in models.values() for stage in m["stages"])
    assert all(m["stage_share"] == pytest.approx(1, abs=0.05) for m in models.values())
    assert all(m["seconds"]["runs"] == 3 and m["seconds"]["least"] <= m["seconds"]["median"] for m in models.values())


def test_multiply_adds_by_hand(record):
    counted = {name: model["multiply_adds"] for name, model in record["models"].items()}
    c, w, cells = 16, 8, (16 * 16, 8 * 8, 4 * 4, 2 * 2)
    fpn = sum(c_in * c * n for c_in, n in zip((64, 128, 256, 512), cells, strict=True)) + 9 * c * c * sum(cells)
    assert counted["fpn-1x"]["fpn"] == counted["torchvision"]["fpn"] == counted["efpn"]["fpn"] == fpn
    assert counted["fpn-2x"]["fpn"] == 4 * fpn and counted["oracle"]["fpn"] == 5 * fpn
    nearest = (64 * c + 9 * c * c) * 32 * 32
    assert 0 < counted["efpn-nearest"]["extension"] <= nearest  # on tiles where that is less
    content = 9 * (c * w + 4 * w * w + w * 4 * w) * 8 * 8
    texture = 9 * ((c + w) * w + 4 * w * w + w * w + w * c) * 16 * 16
    assert counted["efpn-whole"]["extension"] == nearest + content + texture >= counted["efpn"]["extension"] > 0
    assert counted["efpn-whole"]["backbone"] - counted["fpn-1x"]["backbone"] == 4 * 9 * 64 * 64 * 32 * 32  # C2'
    head = 40 * (c * 49 * 1024 + 1024 * 1024 + 1024 * (3 + 12))
    assert all(model["heads"] == head for model in counted.values())


def test_multiply_adds_of_one_convolution():
    model = torch.nn.Conv2d(3, 5, 3, padding=1, bias=False)
    work = Workload(model, lambda turn: model(torch.rand(2, 3, 10, 12)), Stages(model))
    assert multiply_adds(work) == {"rest": 2 * 3 * 5 * 9 * 10 * 12}


def test_the_report_begins_with_ratios_and_targets(measured):
    text = (measured / "small.md").read_text()
    assert text.index("| time, EFPN-1x / FPN-2x |") < text.index("| FPN-1x + P2-2x |") < text.index("Time by stage")
    assert "<= 0.45" in text and "n/a" in text


def test_no_path_of_the_machine_is_told(measured, record):
    assert not [path for path in measured.iterdir() if str(measured.parent) in path.read_text()]
    assert record["machine"]["command"].endswith(f" out={measured.name}")
    assert command(["what=loader", "out=/a/b/c", "size=64"]) == "python benchmark.py what=loader out=c size=64"


def test_torchvision_is_its_own_function():
    ours = build_row(benchmark_setting("backbone=resnet50", "model.channels=256"), "torchvision")
    theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3)
    shapes = {name: value.shape for name, value in theirs.state_dict().items() if "num_batches" not in name}
    assert {name: value.shape for name, value in ours.state_dict().items()} == shapes
    assert ours.transform.min_size == (64,) and ours.transform.max_size == 64


@pytest.mark.parametrize(("name", "scale"), [("fpn-1x", 1), ("fpn-2x", 2), ("oracle", 1), ("torchvision", 1)])
def test_each_models_heads_see_the_same_boxes_in_its_own_pixels(name, scale):
    setting = benchmark_setting("batch=2")
    work = workload(setting, name)
    detector, seen = getattr(work.model, "detector", work.model), []
    run = detector.roi_heads.forward

    def watched(features, proposals, shapes, *rest):
        seen.append((proposals, shapes))
        return run(features, proposals, shapes, *rest)

    detector.roi_heads.forward = watched
    found = work.run(0)
    proposals, shapes = seen[0]
    assert len(found) == 2 and shapes == [(64 * scale, 64 * scale)] * 2
    expected = fixed_boxes(setting, 1)
    assert not torch.equal(expected[0], expected[1])
    assert all(torch.equal(a, scale * b) for a, b in zip(proposals, expected, strict=True))


def test_random_weights_keep_their_maps_finite_in_half_precision():
    backbone = build_row(benchmark_setting("backbone=resnet50"), "efpn").backbone
    with torch.no_grad():
        maps = backbone.whole(torch.rand(1, 3, 64, 64))
    assert all(float(one.abs().max()) < 1000 for one in maps.values())


def test_memory_is_that_of_the_work():
    """A piece of work that needs 64 MB needs 64 MB, in a process of its own."""
    code = (
        "import torch; from torch import nn; from efpn.benchmark.measure import peak_bytes\n"
        "from efpn.benchmark.timing import Stages, Workload\n"
        "model = nn.Identity(); big = torch.ones(32 << 20)\n"  # 128 MB before the first run: no part of it
        "del big\n"
        "work = Workload(model, lambda turn: torch.ones(16 << 20).sum(), Stages(model))\n"
        "print(peak_bytes(work, torch.device('cpu')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 60e6 < int(done.stdout) < 85e6


def test_peak_memory_is_measured_by_a_child_of_the_same_config():
    setting = benchmark_setting("size=256", "small_roi_below=56", "proposals.total=20")
    # the stem's output alone: 64 channels at half of the image's size, in float32
    assert measure.peak_of("fpn-1x", workload, setting) > 64 * 128**2 * 4


def refused(setting: Setting, name: str) -> Workload:
    raise UserError(f"{name} at {setting.size_name} px by {os.getpid()}: {os.environ['MALLOC_MMAP_THRESHOLD_']}")


def ended(setting: Setting, name: str) -> Workload:
    os._exit(9)


def test_what_the_child_is_told_and_says():
    """A process of its own, with the same config and with a C library that gives memory back."""
    with pytest.raises(UserError, match=rf"^efpn at 64 px by (?!{os.getpid()}:)\d+: {1 << 20}$"):
        measure.peak_of("efpn", refused, benchmark_setting())
    with pytest.raises(RuntimeError, match="measuring the memory of efpn failed: its process was ended"):
        measure.peak_of("efpn", ended, benchmark_setting())
    assert "MALLOC_MMAP_THRESHOLD_" not in os.environ


def test_a_row_of_ones_own_is_measured():
    """A model that differs in the config alone needs no line of code."""
    setting = benchmark_setting("+rows.narrow={title: narrow, phase: finetune, model: {channels: 8}}")
    narrow, usual = (multiply_adds(workload(setting, name))["fpn"] for name in ("narrow", "efpn"))
    assert 0 < narrow < usual


def test_a_row_changes_a_key_of_a_node_and_leaves_its_neighbours():
    setting = benchmark_setting(
        "model.tiles.dense_from=0.5", "+rows.coarser={title: coarser, phase: finetune, model: {tiles: {grid: 2}}}"
    )
    assert build_row(setting, "coarser").backbone.tiles == Tiles(grid=2, dense_from=0.5)


TRAINED = ["repeats=2", "warmup=0", "memory=false"]


def test_a_trained_run_on_real_images(trained, data, tmp_path):
    names = ["fpn-1x", "fpn-2x", "oracle", "efpn-nearest", "efpn", "efpn-whole"]
    words = [f"run={trained}", f"images={data}", f"out={tmp_path}", *TRAINED]
    done = run_here("benchmark.py", *words)
    assert done.returncode == 0, done.stderr
    file = tmp_path / "inference-cpu-demo-seed0-32.json"
    record = json.loads(file.read_text())
    assert list(record["models"]) == names and record["setting"]["run"] == "demo/seed0"
    assert str(trained) not in file.read_text()
    assert record["setting"]["proposals"] >= record["setting"]["small"] > 0
    assert run_here("benchmark.py", *words, "models=[efpn]", "model.rpn.score_thresh=1").returncode == 0
    none_left = json.loads((tmp_path / f"{file.stem}-model.rpn.score_thresh-1.json").read_text())["setting"]
    assert (none_left["proposals"], none_left["small"], none_left["objectness"]) == (0, 0, 1.0)


def test_a_trained_run_detects_in_one_image_after_another(trained, data, tmp_path):
    words = [f"run={trained}", f"images={data}", f"out={tmp_path}", *TRAINED]
    cfg = config("benchmark", *words)
    cfg.words = words
    work = workload(read_setting(cfg), "efpn")
    one, two = work.run(0), work.run(1)
    assert work.proposals is None
    assert len(one[0]["boxes"]) != len(two[0]["boxes"]) or not torch.equal(one[0]["boxes"], two[0]["boxes"])
