"""The folder of an older run still opens: its config is read in today's words."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers import config, tiny
from hydra.utils import instantiate
from omegaconf import OmegaConf

from efpn.runs.files import read_config
from efpn.runs.phases import model_config
from efpn.runs.saved import saved_runs
from efpn.training.run import train


def as_before_version_2(cfg):
    """What version 0.1 wrote for this config."""
    old = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    old.model.trunk = old.model.pop("backbone")
    del old.model["leaves_out"], old["mining"]
    old.model.windows = {**old.model.pop("tiles"), "_target_": "efpn.models.Windows"}
    old.model.windows.tile = old.model.windows.pop("grid")
    for node in (old.backbone, old.model.trunk):
        node._target_ = "efpn.models.ResNetTrunk"
    old.model._target_ = "efpn.models.build_detector"
    for extension in (old.extension, *(phase.model.get("extension") for phase in old.phases.values())):
        if extension and "last_stage" in extension:
            extension.c3 = extension.pop("last_stage") == 3
            old.model.windows.margin = extension.pop("margin")
    for phase in old.phases.values():
        small = phase.model.get("small")
        phase.model.ohem = small.pop("mining", None) if small else None
        if small and small.level == "p2_ext":
            small.level = "p2x"
        if "on_p3_ext" in (phase.task.get("loss") or {}):
            phase.task.loss.on_p3x = phase.task.loss.pop("on_p3_ext")
    old.data.check_pictures = old.data.pop("check_images")
    return old


def test_a_run_of_version_1_is_read_in_todays_words(tmp_path: Path) -> None:
    cfg = config("train", "experiment=demo", "mining.keep=0.25", "extension.last_stage=3")
    OmegaConf.save(as_before_version_2(cfg), tmp_path / "config.yaml")
    written = (tmp_path / "config.yaml").read_text()
    assert "trunk" in written and "c3: true" in written and "last_stage" not in written
    read = read_config(tmp_path / "config.yaml")
    distill = (OmegaConf.to_container(one, resolve=True)["phases"]["distill"] for one in (read, cfg))
    assert next(distill) == next(distill) and read.data.check_images == cfg.data.check_images
    for phase in ("baseline", "finetune"):
        expected = OmegaConf.to_container(model_config(cfg, phase), resolve=True)
        assert OmegaConf.to_container(model_config(read, phase), resolve=True) == expected
    detector = instantiate(model_config(read, "finetune"), num_classes=3, backbone={"weights": None}, _convert_="all")
    assert detector.backbone.extension.margin == cfg.extension.margin == 0
    assert detector.roi_heads.ohem.keep == 0.25 and detector.backbone.tiles.grid == cfg.model.tiles.grid
    OmegaConf.save(read, tmp_path / "again.yaml")
    assert read_config(tmp_path / "again.yaml") == read


@pytest.mark.parametrize("margin", [1, None])
def test_what_tiles_saw_around_them_is_what_the_extension_sees(tmp_path: Path, margin: int | None) -> None:
    old = OmegaConf.create(OmegaConf.to_container(config("train", "experiment=demo"), resolve=True))
    old.model.tiles.margin = margin
    for extension in (old.extension, *(phase.model.get("extension") for phase in old.phases.values())):
        if extension:
            extension.pop("margin", None)
    OmegaConf.save(old, tmp_path / "config.yaml")
    model = model_config(read_config(tmp_path / "config.yaml"), "finetune")
    assert "margin" not in model.tiles
    detector = instantiate(model, num_classes=3, backbone={"weights": None}, _convert_="all")
    assert detector.backbone.extension.margin == margin


def test_augmentations_that_were_turned_off_stay_so(tmp_path: Path) -> None:
    old = as_before_version_2(config("train", "experiment=demo"))
    own = {"color_jitter": {"hue": 0.02}, "hflip_prob": 0.5}
    old.data.train_transform.pop("augment")
    old.data.train_transform.update(own)
    old.phases.distill.data.train_transform = {"hflip_prob": 0.0, "color_jitter": None}
    OmegaConf.save(old, tmp_path / "config.yaml")
    read = read_config(tmp_path / "config.yaml")
    augment = read.data.train_transform.augment
    assert (augment.color.hue, augment.flip.p) == (0.02, 0.5)
    assert read.phases.distill.data.train_transform == {"augment": {"color": None, "flip": None}}


@pytest.mark.slow
def test_what_the_checkpoint_was_called_before_is_found_and_gone_when_trained_anew(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "demo/seed0")
    for file in (tmp_path / "demo/seed0").glob("*/weights.ckpt"):
        file.rename(file.with_name("handover.ckpt"))
    assert [run.phase for run in saved_runs(str(tmp_path / "demo/seed0"))] == ["baseline", "distill", "finetune"]
    _, objects = train(tiny(tmp_path, data, "resume=true"))
    assert objects == {}  # all were finished
    shutil.copy(tmp_path / "demo/seed0/finetune/handover.ckpt", tmp_path / "demo/seed0/finetune/weights.ckpt")  # both
    train(tiny(tmp_path, data, "phase=finetune", "overwrite=true"))  # from the distillation's, by its former name
    assert not (tmp_path / "demo/seed0/finetune/handover.ckpt").exists()
    assert (tmp_path / "demo/seed0/finetune/weights.ckpt").is_file()
