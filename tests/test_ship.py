"""A run made ready to be published: half precision, no place of the machine, and open as any run is."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from helpers import ROOT, run_here
from omegaconf import OmegaConf

from efpn.runs.checkpoints import read_checkpoint


@pytest.mark.slow
def test_a_shipped_run_has_halves_and_no_place_of_the_machine_and_predicts(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    spec = importlib.util.spec_from_file_location("ship", ROOT / "docs" / "ship.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = module.ship(str(trained / "finetune"), tmp_path / "models")
    assert folder == tmp_path / "models" / "seed0" / "finetune"
    own, shipped = (read_checkpoint(place / "weights.ckpt") for place in (trained / "finetune", folder))
    for name, weight in own.state_dict.items():
        half = shipped.state_dict[name]
        assert half.dtype == (torch.float16 if weight.is_floating_point() else weight.dtype)
        torch.testing.assert_close(half.to(weight.dtype), weight, rtol=1e-3, atol=1e-6)
    config = (folder / "config.yaml").read_text()
    assert str(trained.parents[2]) not in config and "root: data/synthetic" in config and "outputs: outputs" in config
    own_config = OmegaConf.load(trained / "finetune" / "config.yaml")
    own_config.data.source.splits = {"train": {"images": ["/mnt/elsewhere/x", str(Path(own_config.data.root) / "a")]}}
    listed = module.placeless(own_config).data.source.splits.train.images
    assert listed == ["x", f"data/{Path(own_config.data.root).name}/a"]
    images = next(data.glob("signs-*")) / "test"
    options = [f"images={images}", f"out={tmp_path}", "draw=false", "trainer.accelerator=cpu"]
    done = run_here("predict.py", f"run={folder}", *options)
    assert done.returncode == 0 and json.loads((tmp_path / "detections.json").read_text()), done.stderr


# what is drawn in three of the images that come along: class and corners, native pixels
SIGNS = {
    "3102.jpg": {"warn_lights": (141, 71, 151, 81), "warn_bend": (14, 130, 64, 182), "limit80": (119, 115, 149, 150)},
    "3103.jpg": {"limit60": (53, 82, 79, 110), "limit50": (61, 215, 80, 240), "no_stopping": (3, 86, 17, 101)},
    "3104.jpg": {"limit50": (32, 190, 62, 224), "no_parking": (308, 31, 319, 45), "go_straight": (152, 172, 197, 228)},
}


def test_the_model_that_comes_along_finds_drawn_signs_without_a_word(tmp_path: Path) -> None:
    done = run_here("predict.py", f"out={tmp_path}", "trainer.accelerator=cpu", "trainer.precision=32-true")
    assert done.returncode == 0, done.stderr
    images = json.loads((tmp_path / "images.json").read_text())
    files = {one["id"]: one["file_name"] for one in images["images"]}
    classes = {one["id"]: one["name"] for one in images["categories"]}
    found: dict[str, dict[str, list[float]]] = {name: {} for name in files.values()}
    for one in json.loads((tmp_path / "detections.json").read_text()):
        if one["score"] >= 0.5:
            x, y, width, height = one["bbox"]
            found[files[one["image_id"]]].setdefault(classes[one["category_id"]], [x, y, x + width, y + height])
    for name, signs in SIGNS.items():
        for kind, box in signs.items():
            assert found[name][kind] == pytest.approx(box, abs=5), (name, kind)
    assert (tmp_path / "images" / "3102.jpg").is_file()
    weights = ROOT / "models/signs/seed0/finetune/weights.ckpt"
    assert weights.stat().st_size < 3e6


def test_a_missing_run_is_one_line(tmp_path: Path) -> None:
    done = run_here("docs/ship.py", str(tmp_path / "nowhere"), str(tmp_path))
    assert done.returncode == 2 and "no such file or folder" in done.stderr and "Traceback" not in done.stderr
