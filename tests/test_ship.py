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


def test_a_missing_run_is_one_line(tmp_path: Path) -> None:
    done = run_here("docs/ship.py", str(tmp_path / "nowhere"), str(tmp_path))
    assert done.returncode == 2 and "no such file or folder" in done.stderr and "Traceback" not in done.stderr
