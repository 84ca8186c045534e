"""The comparison of Table III's models, end to end at a tiny size."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from helpers import SMALL_BENCHMARK, SMALL_NAME, benchmark_options
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from efpn.benchmark import inference, memory
from efpn.benchmark.cli import build_parser, main
from efpn.benchmark.detectors import RandomDetectors
from efpn.benchmark.inputs import fixed_boxes
from efpn.benchmark.machine import command
from efpn.benchmark.operations import multiply_adds
from efpn.benchmark.stages import Stages
from efpn.benchmark.timing import Workload

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """All models, through the command line; the folder."""
    out = tmp_path_factory.mktemp("benchmarks")
    assert main([*SMALL_BENCHMARK, "--no-memory", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def record(measured):
    return json.loads((measured / f"inference-cpu-64-32-{SMALL_NAME}.json").read_text())


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
    usual = {"trunk", "fpn", "rpn", "heads", "post", "rest"}
    assert {name: set(m["stages"]) - usual for name, m in models.items() if set(m["stages"]) != usual} == {
        name: {"extension"} for name in (*extended, "efpn-whole")
    }
    assert all(m["stages"][stage] > 0 for m in models.values() for stage in m["stages"])
    assert all(m["stage_share"] == pytest.approx(1, abs=0.05) for m in models.values())
    assert all(m["seconds"]["runs"] == 2 and m["seconds"]["least"] <= m["seconds"]["median"] for m in models.values())


def test_multiply_adds_by_hand(record):
    counted = {name: model["multiply_adds"] for name, model in record["models"].items()}
    c, w, cells = 16, 8, (16 * 16, 8 * 8, 4 * 4, 2 * 2)
    fpn = sum(c_in * c * n for c_in, n in zip((64, 128, 256, 512), cells, strict=True)) + 9 * c * c * sum(cells)
    assert counted["fpn-1x"]["fpn"] == counted["torchvision"]["fpn"] == counted["efpn"]["fpn"] == fpn
    assert counted["fpn-2x"]["fpn"] == 4 * fpn and counted["oracle"]["fpn"] == 5 * fpn
    nearest = (64 * c + 9 * c * c) * 32 * 32
    assert 0 < counted["efpn-nearest"]["extension"] <= nearest  # on windows where that is less
    content = 9 * (c * w + 4 * w * w + w * 4 * w) * 8 * 8
    texture = 9 * ((c + w) * w + 4 * w * w + w * w + w * c) * 16 * 16
    assert counted["efpn-whole"]["extension"] == nearest + content + texture >= counted["efpn"]["extension"] > 0
    assert counted["efpn-whole"]["trunk"] - counted["fpn-1x"]["trunk"] == 4 * 9 * 64 * 64 * 32 * 32  # C2'
    head = 40 * (c * 49 * 1024 + 1024 * 1024 + 1024 * (3 + 12))
    assert all(model["heads"] == head for model in counted.values())


def test_multiply_adds_of_one_convolution():
    model = torch.nn.Conv2d(3, 5, 3, padding=1, bias=False)
    work = Workload(model, lambda turn: model(torch.rand(2, 3, 10, 12)), Stages(model))
    assert multiply_adds(work) == {"rest": 2 * 3 * 5 * 9 * 10 * 12}


def test_the_report_begins_with_ratios_and_targets(measured):
    text = (measured / f"inference-cpu-64-32-{SMALL_NAME}.md").read_text()
    assert text.index("| time, EFPN-1x / FPN-2x |") < text.index("| FPN-1x + P2-2x |") < text.index("Time by stage")
    assert "<= 0.45" in text and "n/a" in text


def test_no_path_of_the_machine_is_told(measured, record):
    assert not [path for path in measured.iterdir() if str(measured.parent) in path.read_text()]
    assert record["machine"]["command"].endswith(f"--out {measured.name}")
    assert command(["loader", "--out=/a/b/c", "--size", "64"]) == "python -m efpn.benchmark loader --out=c --size 64"


def test_torchvision_is_its_own_function():
    ours = RandomDetectors(benchmark_options("--backbone", "resnet50", "--channels", "256")).reference()
    theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3)
    shapes = {name: value.shape for name, value in theirs.state_dict().items() if "num_batches" not in name}
    assert {name: value.shape for name, value in ours.state_dict().items()} == shapes
    assert ours.transform.min_size == (64,) and ours.transform.max_size == 64


@pytest.mark.parametrize(("name", "scale"), [("fpn-1x", 1), ("fpn-2x", 2), ("oracle", 1), ("torchvision", 1)])
def test_each_models_heads_see_the_same_boxes_in_its_own_pixels(name, scale):
    options = benchmark_options("--batch", "2")
    work = inference.prepare(name, options)
    detector, seen = getattr(work.model, "detector", work.model), []
    run = detector.roi_heads.forward

    def watched(features, proposals, shapes, *rest):
        seen.append((proposals, shapes))
        return run(features, proposals, shapes, *rest)

    detector.roi_heads.forward = watched
    found = work.run(0)
    proposals, shapes = seen[0]
    assert len(found) == 2 and shapes == [(64 * scale, 64 * scale)] * 2
    expected = fixed_boxes(options, 1)
    assert not torch.equal(expected[0], expected[1])
    assert all(torch.equal(a, scale * b) for a, b in zip(proposals, expected, strict=True))


def test_random_weights_keep_their_maps_finite_in_half_precision():
    options = benchmark_options("--backbone", "resnet50", "--precision", "fp16")
    backbone = RandomDetectors(options).efpn().eval().backbone
    with torch.no_grad():
        maps = backbone.whole(torch.rand(1, 3, 64, 64))
    assert all(float(one.abs().max()) < 1000 for one in maps.values())


def test_memory_is_that_of_the_work():
    """A piece of work that needs 64 MB needs 64 MB, in a process of its own."""
    code = (
        "import torch; from torch import nn; from efpn.benchmark.memory import peak_bytes\n"
        "from efpn.benchmark.stages import Stages; from efpn.benchmark.timing import Workload\n"
        "model = nn.Identity(); big = torch.ones(32 << 20)\n"  # 128 MB before the first run: no part of it
        "del big\n"
        "work = Workload(model, lambda turn: torch.ones(16 << 20).sum(), Stages(model))\n"
        "print(peak_bytes(work, torch.device('cpu')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 60e6 < int(done.stdout) < 85e6


def test_memory_is_measured_by_a_child_of_the_same_words(tmp_path, monkeypatch):
    asked = []

    def child(command, **options):
        asked.append((command, options["env"]["MALLOC_MMAP_THRESHOLD_"]))
        return memory.subprocess.CompletedProcess(command, 0, 'noise\n{"peak_bytes": 123}\n', "")

    monkeypatch.setattr(memory.subprocess, "run", child)
    assert memory.peak_of_a_fresh_process(["inference", "--size", "64"], "efpn") == 123
    command, threshold = asked[0]
    assert command[1:] == ["-m", "efpn.benchmark", "inference", "--size", "64", "--peak-of", "efpn"]
    assert int(threshold) == 1 << 20


def test_peak_memory_through_the_command_line(tmp_path):
    words = ["--size", "256", "--small-below", "56", "--models", "fpn-1x,fpn-2x", "--repeats", "1"]
    assert main([*SMALL_BENCHMARK, *words, "--out", str(tmp_path)]) == 0
    record = json.loads(next(tmp_path.glob("*.json")).read_text())
    peaks = {name: model["peak_bytes"] for name, model in record["models"].items()}
    # the stem's output alone: 64 channels at half of the picture's size, in float32
    assert all(peaks[name] > 64 * side**2 * 4 for name, side in (("fpn-1x", 128), ("fpn-2x", 256)))
    assert peaks["fpn-1x"] < peaks["fpn-2x"]


def test_what_the_child_answers(capsys):
    assert main(["inference", *SMALL_BENCHMARK, "--peak-of", "efpn-nearest"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer) == {"peak_bytes"} and answer["peak_bytes"] >= 0


def test_a_child_that_fails_is_told(monkeypatch):
    failed = memory.subprocess.CompletedProcess([], 9, "", "a\nKilled\n")
    monkeypatch.setattr(memory.subprocess, "run", lambda *args, **options: failed)
    with pytest.raises(RuntimeError, match="memory of efpn failed: Killed"):
        memory.peak_of_a_fresh_process([], "efpn")


def test_a_trained_run_on_real_pictures(trained, data, tmp_path):
    words = ["--run", str(trained), "--pictures", str(data), "--models", "fpn-1x,fpn-2x,oracle,efpn-nearest,efpn"]
    few = ["--repeats", "2", "--warmup", "0", "--no-memory", "--out", str(tmp_path)]
    assert main([*words, *few]) == 0
    file = tmp_path / "inference-cpu-demo-seed0-32.json"
    record = json.loads(file.read_text())
    assert list(record["models"]) == words[-1].split(",") and record["setting"]["run"] == "demo/seed0"
    assert str(trained) not in file.read_text()
    proposals, small = (record["setting"][name] for name in ("proposals", "small"))
    assert proposals >= small > 0
    assert main([*words[:-1], "efpn", *few, "--objectness", "1"]) == 0
    none_left = json.loads((tmp_path / "inference-cpu-demo-seed0-32-objectness1.json").read_text())["setting"]
    assert (none_left["proposals"], none_left["small"], none_left["objectness"]) == (0, 0, 1.0)
    options = inference.check(_given(words, few))[0]
    work = inference.prepare("efpn", options)
    one, two = work.run(0), work.run(1)
    assert work.proposals is None
    assert len(one[0]["boxes"]) != len(two[0]["boxes"]) or not torch.equal(one[0]["boxes"], two[0]["boxes"])


def _given(*words):
    return build_parser().parse_args(["inference", *(word for part in words for word in part)])
