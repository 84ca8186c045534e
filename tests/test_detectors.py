"""The three phases with other detectors and backbones than Faster R-CNN on a ResNet, from the real configs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import config, one_step, tiny

from efpn.errors import UserError
from efpn.evaluation.run import evaluate
from efpn.runs.checkpoints import read_checkpoint
from efpn.runs.saved import saved_runs
from efpn.training.run import train

pytestmark = pytest.mark.slow

CHANNELS = "model.channels=64"  # FCOS has group-norms of 32 groups, which want more than one value each
KINDS = {
    "retinanet": ["detector=retinanet", CHANNELS],
    "fcos": ["detector=fcos", CHANNELS],
    "convnext": [
        "backbone=timm",
        "backbone.name=convnext_atto",
        "backbone.weights=null",
        "backbone.trainable_stages=5",
    ],
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_phase_trains_and_is_scored(kind: str, data: Path, tmp_path: Path) -> None:
    if kind == "convnext":
        pytest.importorskip("timm")
    train(tiny(tmp_path, data, *KINDS[kind], *one_step("baseline", "distill", "finetune")))
    run = tmp_path / "demo/seed0"
    baseline, distilled, finetuned = (
        read_checkpoint(run / phase / "weights.ckpt").state_dict for phase in ("baseline", "distill", "finetune")
    )
    assert all(torch.equal(value, distilled[key]) for key, value in baseline.items())
    assert {key.partition("extension")[1] for key in distilled if key not in baseline} == {"extension"}
    new = {key for key in finetuned if key not in distilled}
    assert new and all("small_head." in key for key in new)
    if kind != "convnext":  # a copy of the head, which has moved since
        assert {key.replace("small_head.", "head.") for key in new} <= set(baseline)
        assert any(not torch.equal(finetuned[key], baseline[key.replace("small_head.", "head.")]) for key in new)
    options = [f"run={run}", f"out={tmp_path / 'scored'}", "figures=false", "images=0", "trainer.accelerator=cpu"]
    cfg = config("evaluate", *options)
    results = evaluate(cfg, saved_runs(cfg.run))
    assert [one.name for one in results] == [f"demo/{phase}" for phase in ("baseline", "distill", "finetune")]
    if kind == "fcos":
        cfg = config("evaluate", *options, "small_roi_below=20")
        with pytest.raises(UserError, match="^small_roi_below=20: the detector of .* does not read it"):
            evaluate(cfg, saved_runs(cfg.run))
