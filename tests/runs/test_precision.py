"""precision=auto takes bf16 where the device is made for it; the saved config says which it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import config, tiny
from omegaconf import OmegaConf

from efpn.runs import rebuild
from efpn.runs.rebuild import make_trainer, settled_precision
from efpn.training.run import train


@pytest.mark.parametrize(
    "accelerator, gpu, gpu_bf16, cpu_bf16, chosen",
    [
        ("cpu", True, True, False, "32-true"),
        ("cpu", False, False, True, "bf16-mixed"),
        ("auto", True, True, False, "bf16-mixed"),
        ("gpu", True, False, True, "32-true"),
        ("auto", False, False, False, "32-true"),
        ("mps", False, False, True, "32-true"),
    ],
)
def test_it_depends_on_the_device(
    accelerator: str, gpu: bool, gpu_bf16: bool, cpu_bf16: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: gpu_bf16)
    monkeypatch.setattr(rebuild, "cpu_has_bf16", lambda: cpu_bf16)
    assert settled_precision({"precision": "auto", "accelerator": accelerator}) == chosen
    assert settled_precision({"precision": "16-mixed", "accelerator": accelerator}) == "16-mixed"


@pytest.mark.parametrize("experiment", ["demo", "mosaic_efpn", "carla_efpn"])
def test_the_small_experiments_leave_it_to_the_device(experiment: str) -> None:
    assert config("train", f"experiment={experiment}").trainer.precision == "auto"


def test_any_other_call_understands_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    node = config("evaluate", "run=x", "trainer.precision=auto", "trainer.accelerator=cpu").trainer
    monkeypatch.setattr(rebuild, "cpu_has_bf16", lambda: False)
    assert make_trainer(node, logger=False).precision == "32-true"


@pytest.mark.slow
def test_the_saved_config_says_which_and_another_machine_is_not_another_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "cpu_has_bf16", lambda: False)
    train(tiny(tmp_path, data, "phase=baseline", "trainer.precision=auto"))
    saved = OmegaConf.load(tmp_path / "demo/seed0/baseline/config.yaml")
    assert saved.trainer.precision == "32-true" and saved.resume is False
    monkeypatch.setattr(rebuild, "cpu_has_bf16", lambda: True)
    _, objects = train(tiny(tmp_path, data, "phase=baseline", "trainer.precision=auto", "resume=true"))
    assert objects == {}  # kept
