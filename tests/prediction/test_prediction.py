"""From images to files: with a detector that is known exactly, and with a trained one against its evaluation."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from helpers import config, run
from PIL import Image
from pycocotools.coco import COCO
from torch import nn

from efpn.data.transforms import EvalTransform
from efpn.errors import UserError
from efpn.evaluation.run import evaluate
from efpn.prediction.images import Slices, find_images
from efpn.prediction.run import predict
from efpn.prediction.task import PredictionTask
from efpn.runs.saved import latest_run, saved_runs

pytestmark = pytest.mark.slow


class FindsBright(nn.Module):
    """Finds what is bright: the frame of each connected area, of class 1."""

    nms_thresh, detections_per_img = 0.5, 100
    backbone = SimpleNamespace(reads_2x=False)

    def forward(self, images, images_2x=None):
        return [self.find((image[0].numpy() > 0.5).astype(np.uint8)) for image in images]

    def find(self, bright):
        _, _, stats, _ = cv2.connectedComponentsWithStats(bright)
        x, y, width, height = torch.from_numpy(stats[1:, :4]).float().unbind(1)
        boxes = torch.stack([x, y, x + width, y + height], dim=1)
        return {"boxes": boxes, "scores": torch.full((len(boxes),), 0.9), "labels": torch.ones(len(boxes)).long()}


OBJECTS = [(10, 20, 30, 50), (92, 10, 110, 40), (150, 120, 390, 160), (140, 40, 200, 80), (290, 90, 310, 110)]


@pytest.fixture
def night():
    """300 x 400 px: an object inside a slice, others over an edge, a corner, and larger than any slice."""
    image = np.zeros((300, 400, 3), np.uint8)
    for x1, y1, x2, y2 in OBJECTS:
        image[y1:y2, x1:x2] = 255
    return image


@pytest.mark.parametrize("short_side", [120, 60])  # as large as a slice, and half of it
@pytest.mark.parametrize("overlap", [0.3, 0.5])
@pytest.mark.parametrize("whole", [True, False])
def test_slices_find_every_object_once_and_whole(night, short_side, overlap, whole):
    transform = EvalTransform(short_side, short_side)
    task = PredictionTask(FindsBright(), transform, Slices(120, overlap, whole), batch_size=4)
    found = task.detect(night)["boxes"].sort(dim=0).values
    assert found.numpy() == pytest.approx(np.sort(np.array(OBJECTS), axis=0), abs=8 if whole else 2)


def test_an_image_no_larger_than_a_slice_is_looked_at_as_a_whole(night):
    transform = EvalTransform(300, 400)
    sliced, plain = (PredictionTask(FindsBright(), transform, s).detect(night) for s in (Slices(400), None))
    assert torch.equal(sliced["boxes"], plain["boxes"]) and len(plain["boxes"]) == len(OBJECTS)


@pytest.fixture(scope="module")
def signs(trained: Path, data: Path) -> dict[int, Path]:
    """The drawn images of the test split, by id."""
    folder = next(data.glob("signs-*"))
    images = json.loads((folder / "annotations.json").read_text())["imgs"].values()
    return {int(image["id"]): folder / image["path"] for image in images if image["path"].startswith("test")}


@pytest.fixture
def mixed(signs: dict[int, Path], tmp_path: Path) -> Path:
    """Two images of one name, and a truncated one."""
    folder = tmp_path / "shots"
    for place, source in zip(("left", "right"), signs.values(), strict=False):
        (folder / place).mkdir(parents=True)
        shutil.copy(source, folder / place / "1.jpg")
    whole = (folder / "left" / "1.jpg").read_bytes()
    (folder / "left" / "broken.jpg").write_bytes(whole[: len(whole) // 2])
    return folder


def options(trained: Path, images: Path, out: Path) -> list[str]:
    return [f"run={trained}", f"images={images}", f"out={out}", "trainer.accelerator=cpu"]


def by_image(detections, name_of):
    rows = {}
    for one in detections:
        key = (name_of[one["image_id"]], one["category_id"])
        rows.setdefault(key, []).append([one["score"], *one["bbox"]])
    return {key: sorted(found) for key, found in rows.items()}


def test_whole_images_give_what_evaluation_gives(trained, signs, tmp_path):
    place = trained / "finetune"
    shared = [f"run={place}", f"out={tmp_path / 'eval'}", "trainer.accelerator=cpu", "choose_threshold=false"]
    evaluate(config("evaluate", *shared, "images=1"), saved_runs(str(place)))
    scored = json.loads((tmp_path / "eval" / "detections.json").read_text())

    cfg = config("predict", *options(trained, next(iter(signs.values())).parent, tmp_path / "out"), "draw=false")
    assert predict(cfg, latest_run(cfg.run), find_images([cfg.images], Path(cfg.out))) == []
    found = json.loads((tmp_path / "out" / "detections.json").read_text())
    record = json.loads((tmp_path / "out" / "images.json").read_text())

    ours = by_image(found, {image["id"]: image["file_name"] for image in record["images"]})
    theirs = by_image(scored, {number: path.name for number, path in signs.items()})
    assert ours.keys() == theirs.keys() and sum(map(len, ours.values())) > 20
    for key, rows in ours.items():
        assert np.array(rows) == pytest.approx(np.array(theirs[key]), abs=1e-3), key
    assert record["info"]["run"] == "demo/finetune" and not (tmp_path / "out" / "images").exists()


def test_it_goes_on_past_a_broken_image_and_names_it(trained, mixed, tmp_path):
    done = run("predict.py", *options(trained, mixed, tmp_path / "out"), "slices.size=80", "score_threshold=0.05")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 of 3 images could not be read:" in done.stderr and "left/broken.jpg: cannot be read" in done.stderr
    assert "holds baseline, distill, finetune" in done.stdout and "taking finetune" in done.stdout
    assert "3/3" in done.stdout and "Traceback" not in done.stderr
    (count, drawn) = re.search(r"2 images, (\d+) detections.*\n.*?(\d+) of them are drawn", done.stdout).groups()
    found = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert (int(count), int(drawn)) == (len(found), sum(one["score"] >= 0.05 for one in found))

    drawn = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert drawn == {"detections.json", "images.json", "images/left/1.jpg", "images/right/1.jpg"}
    assert Image.open(tmp_path / "out" / "images" / "left" / "1.jpg").size == (1024, 1024)
    truth = COCO(str(tmp_path / "out" / "images.json"))
    assert [truth.imgs[n]["file_name"] for n in truth.imgs] == ["left/1.jpg", "right/1.jpg"]
    assert truth.dataset["failed"][0]["file_name"] == "left/broken.jpg"
    results = truth.loadRes(str(tmp_path / "out" / "detections.json"))
    assert {truth.imgs[one["image_id"]]["file_name"] for one in results.anns.values()} == {"left/1.jpg", "right/1.jpg"}
    assert {one["category_id"] for one in results.anns.values()} <= set(truth.cats)


def test_only_broken_images_are_an_error_and_leave_nothing(trained, mixed, tmp_path):
    cfg = config("predict", *options(trained, mixed / "left" / "broken.jpg", tmp_path / "out"))
    with pytest.raises(UserError, match=r"not one of 1 images can be read\n  .*broken\.jpg: cannot be read"):
        predict(cfg, latest_run(cfg.run), find_images([cfg.images], Path(cfg.out)))
    assert not (tmp_path / "out").exists()


def test_min_score_and_short_side_reach_the_model(trained, mixed, tmp_path):
    more = ["min_score=0.08", "short_side=128", "draw=false"]
    cfg = config("predict", *options(trained / "baseline", mixed / "left" / "1.jpg", tmp_path / "out"), *more)
    predict(cfg, latest_run(cfg.run), find_images([cfg.images], Path(cfg.out)))
    found = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert found and all(one["score"] >= 0.08 for one in found)
    record = json.loads((tmp_path / "out" / "images.json").read_text())
    assert record["info"]["short_side"] == 128 and record["info"]["run"] == "demo/baseline"


def start(trained: Path, images: Path, out: Path, *more: str) -> list:
    cfg = config("predict", *options(trained, images, out), *more)
    return predict(cfg, latest_run(cfg.run), find_images([cfg.images], Path(cfg.out)))


def written(out: Path) -> list:
    return [json.loads((out / name).read_text()) for name in ("detections.json", "images.json")]


def test_a_name_that_is_no_text_or_very_long_costs_no_results(trained, signs, tmp_path):
    names = [b"stra\xdfe.jpg", b"x" * 251 + b".jpg"]
    (tmp_path / "shots").mkdir()
    for name, source in zip(names, signs.values(), strict=False):
        shutil.copy(source, tmp_path / "shots" / os.fsdecode(name))
    assert start(trained, tmp_path / "shots", tmp_path / "out", "min_score=0") == []
    found, record = written(tmp_path / "out")
    assert [os.fsencode(image["file_name"]) for image in record["images"]] == names
    assert {one["image_id"] for one in found} == {1, 2}
    assert {path.name for path in (tmp_path / "out" / "images").iterdir()} == set(map(os.fsdecode, names))


def stopped_at(number: int, trained: Path, images: Path, out: Path) -> None:
    """A prediction that meets a fault at this image."""
    original = PredictionTask.predict_step

    def step(self, batch, batch_idx):
        if batch_idx == number - 1:
            raise RuntimeError("out of memory")
        return original(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="out of memory"):
        patch.setattr(PredictionTask, "predict_step", step)
        start(trained, images, out)


@pytest.fixture
def folder(signs) -> Path:
    return next(iter(signs.values())).parent


def test_a_fault_at_the_third_image_keeps_two_and_the_same_command_does_the_rest(
    trained, folder, tmp_path, caplog, monkeypatch
):
    start(trained, folder, tmp_path / "unbroken")
    stopped_at(3, trained, folder, tmp_path / "out")
    journal = tmp_path / "out" / "detections.partial.jsonl"
    assert len(journal.read_text().splitlines()) == 1 + 2 and not (tmp_path / "out" / "detections.json").exists()
    assert f"stopped; 2 images are kept in {journal}, the same command does the rest" in caplog.text
    with journal.open("a") as file:
        file.write('{"image": "/a/kill/in/the/mid')
    looked_at = []
    original = PredictionTask.detect
    monkeypatch.setattr(PredictionTask, "detect", lambda self, image: looked_at.append(1) or original(self, image))
    start(trained, folder, tmp_path / "out")
    assert len(looked_at) == 2 and not journal.exists()  # of four
    assert written(tmp_path / "out") == written(tmp_path / "unbroken")


def test_a_fault_at_the_first_image_names_no_file_that_is_not_there(trained, folder, tmp_path, caplog):
    stopped_at(1, trained, folder, tmp_path / "out")
    assert "stopped; no image is kept yet" in caplog.text and "partial" not in caplog.text


def test_what_was_found_under_other_terms_or_in_a_changed_image_is_not_taken(trained, folder, tmp_path, monkeypatch):
    shots = shutil.copytree(folder, tmp_path / "shots")
    stopped_at(3, trained, shots, tmp_path / "out")
    stopped_at(4, trained, shots, tmp_path / "again")
    os.utime(sorted(shots.glob("*.jpg"))[0], (1, 1))
    looked_at = []
    original = PredictionTask.detect
    monkeypatch.setattr(PredictionTask, "detect", lambda self, image: looked_at.append(1) or original(self, image))
    start(trained, shots, tmp_path / "out", "min_score=0.2")
    start(trained, shots, tmp_path / "again")
    assert len(looked_at) == 4 + 2
