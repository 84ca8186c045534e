"""Each recipe of CONTRIBUTING.md, written as it stands there and run."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from helpers import ROOT, TINY, one_step
from hydra import compose, initialize_config_dir
from PIL import Image

from efpn.runs.checkpoints import read_handover
from efpn.training.run import train

pytestmark = pytest.mark.slow

SECTIONS = dict(
    re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE | re.DOTALL)
)


def written(section: str, folder: Path) -> Path:
    """Write the module and the config of a recipe: each block goes to the file that was named last before it."""
    text = SECTIONS[section]
    shutil.copytree(ROOT / "conf", folder / "conf")
    for block in re.finditer(r"```(python|yaml)\n(.*?)```", text, flags=re.DOTALL):
        suffix = {"python": "py", "yaml": "yaml"}[block[1]]
        name = re.findall(rf"`([\w/]+\.{suffix})`", text[: block.start()])
        (folder / name[-1 if section != "A phase" else 0]).write_text(block[2])
    if line := re.search(r"A line\s+`(- phases@[^`]+)`", text):
        path = folder / "conf/train.yaml"
        path.write_text(path.read_text().replace("  - trainer: auto\n", f"  {line[1]}\n  - trainer: auto\n"))
    return folder / "conf"


def words(section: str) -> list[str]:
    """The overrides of the recipe's command."""
    command = re.search(r"```bash\n(.*?)```", SECTIONS[section], flags=re.DOTALL)
    assert command is not None
    return [word for word in shlex.split(command[1])[2:] if word != "experiment=demo"]


def drawn_texts(folder: Path) -> None:
    """A few images with a text file each."""
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        for number in range(8):
            Image.effect_noise((128, 128), 40).convert("RGB").save(folder / split / f"{number}.jpg")
            (folder / split / f"{number}.txt").write_text("sign 20 20 50 60\n" * (number % 3))


@pytest.mark.parametrize("section", [name for name in SECTIONS if name.startswith(("A ", "An "))])
def test_it_does_what_it_says(
    section: str, data: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = written(section, tmp_path / "there")
    monkeypatch.syspath_prepend(str(conf.parent))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    more = words(section)
    outputs = trained.parents[1] if section == "A phase" else tmp_path / "outputs"
    if section == "A data format":
        drawn_texts(tmp_path / "texts")
        more = [word.replace("FOLDER", str(tmp_path / "texts")) for word in more]
    replaced = {"A data format": "data.source.", "A backbone": "backbone."}.get(section, "nothing")
    settings = [word for word in TINY if not word.startswith(replaced)]
    where = [f"paths.outputs={outputs}", *([] if section == "A data format" else [f"data.root={data}"])]
    more += one_step("longer") if section == "A phase" else one_step("baseline", "distill", "finetune")
    with initialize_config_dir(str(conf), version_base="1.3"):
        cfg = compose("train", [*settings, *where, *more])
    _, objects = train(cfg)
    last = cfg.phase if cfg.phase != "all" else "finetune"
    handover = read_handover(outputs / "demo/seed0" / last / "handover.ckpt")
    assert handover.phase == last
    if section == "An upsampler":
        assert "backbone.extension.upsampler.texture.weight" in handover.state_dict
    if section == "A detector":
        assert type(objects["detector"]).__name__ == "Centres" and "small_head.weight" in handover.state_dict
    if section == "A backbone":
        assert "backbone.body.first.0.0.weight" in handover.state_dict


def test_there_is_one_for_each_part() -> None:
    parts = {"upsampler", "loss", "data format", "backbone", "detector", "phase"}
    assert {name.partition(" ")[2] for name in SECTIONS} == parts
