"""``evaluate.py detections=FILE``: the same numbers as for a model, without one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import config, run_here
from PIL import Image

from efpn.errors import UserError
from efpn.evaluation.run import evaluate


@pytest.fixture
def things(tmp_path: Path) -> Path:
    """Two images of one box each in COCO's layout, as validation and as test split."""
    root = tmp_path / "things"
    for split, shift in (("val", 0), ("test", 5)):
        (root / split).mkdir(parents=True)
        images, boxes = [], []
        for number in (1, 2):
            Image.fromarray(np.full((60, 80, 3), 90, np.uint8)).save(root / split / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "width": 80, "height": 60})
            box = [10 + shift, 10, 12, 12]
            boxes.append({"id": number, "image_id": number, "category_id": 3, "bbox": box, "area": 144, "iscrowd": 0})
        content = {"images": images, "annotations": boxes, "categories": [{"id": 3, "name": "lamp"}]}
        (root / f"{split}.json").write_text(json.dumps(content))
    return root


def results(path: Path, *rows: tuple[int, int, float]) -> Path:
    """A result file: image, left edge, score of boxes as large as the true ones."""
    found = [{"image_id": i, "category_id": 3, "bbox": [x, 10, 12, 12], "score": score} for i, x, score in rows]
    path.write_text(json.dumps(found))
    return path


def overrides(root: Path, *more: str) -> list[str]:
    splits = [f"data.source.splits.{s}={{images: {s}, annotations: {s}.json}}" for s in ("train", "val", "test")]
    return ["data=coco", f"data.root={root}", *splits, "images=1", *more]


def test_a_file_is_scored_as_a_model_is(things: Path, tmp_path: Path) -> None:
    found = results(tmp_path / "yolo.json", (1, 15, 0.9), (2, 60, 0.8), (2, 15, 0.3))
    chosen = results(tmp_path / "yolo_val.json", (1, 10, 0.9), (2, 60, 0.45), (2, 10, 0.3))
    (row,) = evaluate(config("evaluate", f"detections={found}", f"detections_val={chosen}", *overrides(things)), [])
    assert row.name == "yolo"
    record = json.loads((tmp_path / "yolo-test/metrics.json").read_text())
    # recall 0.5 at precision 1, then 1 at 2/3: 51 points at 1 and 50 at 2/3
    assert record["metrics"]["AP"] == pytest.approx((51 + 50 * 2 / 3) / 101, abs=1e-3)
    assert record["metrics"]["rec"] == 0.5 and record["metrics"]["acc"] == 0.5  # at 0.5: one hit, one false alarm
    assert record["thresholds"]["best_f1"] < 0.3 and record["metrics_at_best_f1"]["rec"] == 1.0
    assert record["objects"]["ap"] == {"all": 2, "small": 2, "medium": 0, "large": 0}
    assert record["metrics"]["AP_M"] is None
    assert (tmp_path / "yolo-test/images.png").is_file()


def test_without_data_it_asks_for_them(tmp_path: Path) -> None:
    found = results(tmp_path / "yolo.json")
    with pytest.raises(UserError, match="score it on which data"):
        evaluate(config("evaluate", f"detections={found}"), [])


@pytest.mark.parametrize(
    "words, message",
    [
        (["detections=FILE"], "timed=true: a result file has no model to be timed; leave it out"),
        (["run=x", "trainer.devices=2"], "timed, cost_of: are measured on one device; give trainer.devices=1"),
    ],
)
def test_what_cannot_be_timed_is_told_before_tracking_starts(
    words: list[str], message: str, things: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("efpn.evaluation.run.start_tracking", lambda *given: pytest.fail("tracking has started"))
    found = results(tmp_path / "yolo.json", (1, 15, 0.9))
    words = [word.replace("FILE", str(found)) for word in words]
    with pytest.raises(UserError, match=message):
        evaluate(config("evaluate", *words, "timed=true", *overrides(things)), [])


@pytest.mark.slow
def test_a_missing_file_and_a_wrong_one_are_answered_without_a_traceback(things: Path, tmp_path: Path) -> None:
    done = run_here("evaluate.py", f"detections={tmp_path / 'none.json'}", *overrides(things))
    assert done.returncode == 2 and "none.json: no such file; give the result file" in done.stderr
    found = results(tmp_path / "yolo.json", (7, 15, 0.9))
    done = run_here("evaluate.py", f"detections={found}", *overrides(things))
    assert done.returncode == 2 and "image_id 7 is no image of the ground truth" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_is_not_scored_in_part(things: Path, tmp_path: Path) -> None:
    found = results(tmp_path / "yolo.json", (1, 15, 0.9))
    with pytest.raises(UserError, match="scored whole"):
        evaluate(config("evaluate", f"detections={found}", *overrides(things, "limit=1")), [])


@pytest.mark.parametrize("option", ["variant=oracle", "detail=doubled", "+model.tiles=null"])
def test_what_belongs_to_a_model_is_refused(option: str, things: Path, tmp_path: Path) -> None:
    found = results(tmp_path / "yolo.json", (1, 15, 0.9))
    with pytest.raises(UserError, match="belong to a run"):
        evaluate(config("evaluate", f"detections={found}", option, *overrides(things)), [])
