"""Each recipe of CONTRIBUTING.md, written as it stands there and run."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from helpers import ROOT, TINY, one_step
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image

from efpn.data.check import check_index
from efpn.errors import UserError
from efpn.runs.checkpoints import read_checkpoint
from efpn.runs.phases import model_config
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
    section: str,
    data: Path,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    conf = written(section, tmp_path / "there")
    monkeypatch.syspath_prepend(str(conf.parent))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    more = words(section)
    outputs = tmp_path / "outputs"
    if section == "A phase":  # goes on from what is there
        shutil.copytree(trained, outputs / "demo" / "seed0")
    if section == "A data format":
        drawn_texts(tmp_path / "texts")
        more = [word.replace("FOLDER", str(tmp_path / "texts")) for word in more]
    replaced = {"A data format": "data.source.", "A backbone": "backbone."}.get(section, "nothing")
    settings = [word for word in TINY if not word.startswith(replaced)]
    where = [f"paths.outputs={outputs}", *([] if section == "A data format" else [f"data.root={data}"])]
    if section == "An upsampler":  # as quick as it is told to be
        settings = [word for word in settings if not word.startswith("phases.")]
        more.append("+quick=yes")
    else:
        more += one_step("longer") if section == "A phase" else one_step("baseline", "distill", "finetune")
    with initialize_config_dir(str(conf), version_base="1.3"):
        cfg = compose("train", [*settings, *where, *more])
        cut = compose("train", [*settings, *where, *more, "extension.upsampler._target_=my_two_stage.Refined"])
    _, objects = train(cfg)
    last = cfg.phase if cfg.phase != "all" else "finetune"
    checkpoint = read_checkpoint(Path(cfg.paths.run) / last / "weights.ckpt")
    assert checkpoint.phase == last
    if section == "An upsampler":
        assert "backbone.extension.upsampler.texture.weight" in checkpoint.state_dict
        said = capsys.readouterr().out
        assert f"{outputs}/quick/bilinear/seed0/finetune\n" in said and checkpoint.steps == 4
        assert "whole: Bilinear does not say how far it sees, as an efpn.models.TwoStage does" in said
        node = model_config(cut, "finetune")
        backbone = instantiate(node, num_classes=2, _convert_="all").backbone
        assert backbone.tiles is not None and backbone.whole_because == ""
    if section == "A detector":
        assert type(objects["detector"]).__name__ == "Centres" and "small_head.weight" in checkpoint.state_dict
    if section == "A backbone":
        assert "backbone.body.first.0.0.weight" in checkpoint.state_dict


def test_a_format_tells_at_once_all_that_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(written("A data format", tmp_path / "there").parent))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    drawn_texts(tmp_path / "texts")
    folder = tmp_path / "texts/train"
    (folder / "3.txt").write_text("sign 1 2 3\nsing 1 2 3 4\nsign 1 2 3 4\n\n")
    (folder / "4.txt").write_text("sign 50 2 3 40\n")
    (folder / "5.txt").unlink()
    source = importlib.import_module("my_format").TextFiles(str(tmp_path / "texts"), ["sign"])
    index = source.load("train")
    assert [len(record.boxes) for record in index.records] == [0, 1, 2, 1, 1, 0, 0, 1]
    with pytest.raises(UserError) as caught:
        check_index(index)
    for part in (
        f"{folder / '3.txt'}: line 1: is 'sign 1 2 3'; write `class x1 y1 x2 y2`, the class one of sign",
        "3.txt: line 2: is 'sing 1 2 3 4'",
        "3.txt: line 4: is ''",
        "5.txt: the file: is not there; write one",
        f"{folder}: image 5 (4.jpg), box 1 (sign, corners 50, 2, 3, 40): is inverted",
    ):
        assert part in str(caught.value)


def test_there_is_one_for_each_part() -> None:
    parts = {"upsampler", "loss", "data format", "backbone", "detector", "phase"}
    assert {name.partition(" ")[2] for name in SECTIONS} == parts
