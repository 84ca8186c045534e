"""The command line from end to end on a tiny run, the example on its file, and what a user can get wrong."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, config, run_here
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.nn.functional import avg_pool2d

from deploy.conftest import SIZES, agrees, noise, spread
from efpn.data.dataset import image_pair
from efpn.data.transforms import EvalTransform
from efpn.deploy.formats import Onnx, Torch, check_packages
from efpn.deploy.run import NO_BOXES, export
from efpn.errors import UserError
from efpn.prediction.images import find_images, given_images
from efpn.prediction.run import predict
from efpn.runs.checkpoints import read_checkpoint
from efpn.runs.rebuild import rebuild_detector
from efpn.runs.saved import SavedRun, latest_run

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("export")]  # what is exported once serves all


@pytest.fixture(scope="session")
def larger(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained run, with weights that detect, told to see its images at 96 px: 64 are too few for an export."""
    folder = tmp_path_factory.mktemp("larger") / "demo" / "seed0"
    shutil.copytree(trained / "finetune", folder / "finetune")
    path = folder / "finetune" / "config.yaml"
    cfg = OmegaConf.load(path)
    cfg.data.eval_transform.update({"short_side": 96, "max_size": 160})
    cfg.small_roi_below = cfg.phases.finetune.model.small.below = 8.1  # nearly all RoIs are around 8 px
    OmegaConf.save(cfg, path)
    checkpoint = read_checkpoint(folder / "finetune" / "weights.ckpt")
    detector = rebuild_detector(latest_run(str(folder)), checkpoint)
    spread(detector)
    replace(checkpoint, state_dict=detector.state_dict()).save(folder / "finetune" / "weights.ckpt")
    return folder


@pytest.fixture(scope="session")
def signs(data: Path, trained: Path) -> list[Path]:
    """Drawn images, 128 px."""
    return sorted((next(data.glob("signs-*")) / "test").glob("*.jpg"))


@pytest.fixture(scope="session")
def model(larger: Path) -> Path:
    """The ONNX file, by the command line."""
    done = run_here("export.py", f"run={larger}", "check.images=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "agrees on" in done.stdout and "Traceback" not in done.stderr
    return larger / "finetune" / "export" / "model.onnx"


def test_the_command_leaves_a_file_and_its_description(model, larger):
    assert sorted(path.name for path in model.parent.iterdir()) == ["model.onnx", "model.onnx.json"]
    facts = json.loads(model.with_name("model.onnx.json").read_text())
    assert facts["run"] == "demo/finetune" and facts["opset"] == 18 and len(facts["classes"]) > 1
    assert facts["input"]["short_side"] == 96 and facts["input"]["factor"] == 2
    assert facts["small_roi_below"] == latest_run(str(larger)).config.small_roi_below
    assert facts["check"]["views"] == 4 and facts["check"]["detections"] > 4
    assert facts["check"]["boxes"] <= 0.01 and facts["check"]["scores"] <= 1e-4


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_file_gives_what_the_detector_gives_at_any_size(model, larger, size):
    saved = latest_run(str(larger))
    detector = rebuild_detector(saved, read_checkpoint(saved.checkpoint)).eval().requires_grad_(False)
    image_2x = noise(2 * size[0], 2 * size[1])
    agrees(detector, Onnx().load(model), avg_pool2d(image_2x, 2), image_2x)


def test_the_example_prints_what_predict_finds(model, larger, signs, tmp_path):
    image = signs[0]
    script = [sys.executable, str(ROOT / "examples" / "onnx_runtime.py"), str(model), str(image), "0.0"]
    done = subprocess.run(script, capture_output=True, text=True, timeout=120, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]

    options = [f"run={larger}", f"images={image}", f"out={tmp_path}", "draw=false", "trainer.accelerator=cpu"]
    cfg = config("predict", *options, "+model.extension.margin=null")  # the file holds the whole map
    predict(cfg, latest_run(cfg.run), find_images([cfg.images], tmp_path))
    names = {one["id"]: one["name"] for one in json.loads((tmp_path / "images.json").read_text())["categories"]}
    expected = json.loads((tmp_path / "detections.json").read_text())
    assert len(lines) == len(expected) > 3
    # grey values of the two ways to resize differ by one at most, which moves a box by a fraction of a pixel
    strongest = sorted(expected, key=lambda one: -one["score"])[0]
    name, score, *box = lines[0]
    x, y, width, height = strongest["bbox"]
    assert name == names[strongest["category_id"]] and float(score) == pytest.approx(strongest["score"], abs=0.01)
    assert [float(side) for side in box] == pytest.approx([x, y, x + width, y + height], abs=0.5)


def test_the_example_needs_neither_torch_nor_this_project():
    code = (
        "import sys; sys.path.insert(0, 'examples'); import onnx_runtime; print({'torch', 'efpn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("size, short_side", [((120, 170), 96), ((300, 200), 70), ((90, 64), 80), ((128, 128), 64)])
def test_the_example_resizes_as_the_project_does(size, short_side, direct):
    spec = importlib.util.spec_from_file_location("onnx_runtime", ROOT / "examples" / "onnx_runtime.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    expected, _, _ = image_pair(EvalTransform(short_side, 130, direct=direct), image, NO_BOXES, seed=0)
    rule = {"short_side": short_side, "max_size": 130, "factor": 1 if direct else 2, "given": 1}
    got = example.resized(image, rule)
    assert got.shape == tuple(expected.shape) and got.dtype == np.float32
    assert np.abs(got - expected.numpy()).max() <= 1.01 / 255
    assert np.abs(got - expected.numpy()).mean() <= 0.15 / 255


class Shifted(Torch):
    """Writes nothing of use and, read back, says what it is told to."""

    def __init__(self, detector, shift):
        self.detector, self.shift = detector, shift

    def write(self, program, path):
        path.write_bytes(b"model")

    def load(self, path):
        assert path.read_bytes() == b"model"

        def run(image):
            found = self.detector([avg_pool2d(image, 2)], images_2x=[image])[0]
            return {**found, "boxes": found["boxes"] + self.shift}

        return run


@pytest.fixture
def shifted(larger, signs, tmp_path, monkeypatch):
    """An export whose file is off by some pixels, without the time that a trace takes."""
    monkeypatch.setattr("efpn.deploy.run.trace", lambda detector: None)
    cfg = config("export", f"run={larger}", f"out={tmp_path}")
    saved: SavedRun = latest_run(cfg.run)

    def start(shift):
        detector = rebuild_detector(saved, read_checkpoint(saved.checkpoint)).eval().requires_grad_(False)
        detector.backbone.tiles = None
        return export(cfg, saved, Shifted(detector, shift), signs[:1])

    return start


def test_a_file_that_says_something_else_is_not_left(shifted, tmp_path):
    assert shifted(0.0) == tmp_path / "model.pt2"
    assert {path.name for path in tmp_path.iterdir()} == {"model.pt2", "model.pt2.json"}
    with pytest.raises(UserError, match=r"(?s)does not say what the detector says: 2 problems.*is 0\.02 px and 0 of"):
        shifted(0.02)
    assert list(tmp_path.iterdir()) == []


def test_an_image_that_is_too_small_is_named(trained, signs, tmp_path, monkeypatch):
    monkeypatch.setattr("efpn.deploy.run.trace", lambda detector: None)
    cfg = config("export", f"run={trained}", f"out={tmp_path}")
    with pytest.raises(UserError, match=r"\.jpg: 64 x 64 px at 1x; an exported detector takes sides from 65"):
        export(cfg, latest_run(cfg.run), Shifted(None, 0.0), signs[:1])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", Onnx.needs)
def test_a_missing_package_is_named_with_the_command(name, monkeypatch):
    check_packages(Onnx())
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        UserError, match=rf"model\.onnx: needs {name}, not installed here; pip install -e '\.\[export\]'"
    ):
        check_packages(Onnx())
    check_packages(Torch())


def test_no_more_images_than_asked_for(signs, tmp_path):
    given = given_images(config("export", "run=x", f"images={signs[0].parent}", "check.images=3"), tmp_path)
    assert given == signs[:3]
    assert given_images(config("export", "run=x"), tmp_path) == []


@pytest.mark.parametrize("name, kind", [("onnx", Onnx), ("torch", Torch)])
def test_every_format_composes(name, kind):
    chosen = instantiate(config("export", "run=x", f"format={name}").format)
    assert isinstance(chosen, kind) and chosen.file.startswith("model.")
    assert {path.stem for path in (ROOT / "conf" / "format").glob("*.yaml")} == {"onnx", "torch"}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["format=onx", "run=outputs/nowhere"], "Could not find 'format/onx'"),
        (["run=outputs/nowhere"], "run=outputs/nowhere: no such file or folder"),
        (["run=conf"], "run=conf: no finished phase in it (no weights.ckpt)"),
        ([], "run is not given; run=VALUE, see --help"),
        (["check.box=1"], "check.box: the config has no such key (did you mean check.boxes?)"),
    ],
)
def test_what_cannot_be_exported_is_named_at_once(arguments, message):
    done = run_here("export.py", *arguments)
    assert done.returncode == 2 and message in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) < 8


def test_mistakes_are_answered_before_torch_is_imported():
    code = (
        "import sys, runpy\n"
        "sys.argv = ['export.py', 'run=nowhere']\n"
        "try: runpy.run_path('export.py', run_name='__main__')\n"
        "except SystemExit as e: print('status', e.code)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout.split() == ["status", "2", "False"]
