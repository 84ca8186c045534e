"""Each figure is written as a picture and as the data that it shows."""

from __future__ import annotations

import json

import pytest

from efpn.errors import UserError
from efpn.evaluation.plots import plot_accuracy_recall, plot_losses, plot_scales, split_by_level
from efpn.metrics.funnel import loss_funnel


def test_accuracy_recall(tmp_path, ground_truth, detections):
    runs = {"FPN": detections, "nothing": []}
    picture, data = plot_accuracy_recall(tmp_path / "new" / "curve", ground_truth, runs, category_ids=[4, 9])
    record = json.loads(data.read_text())
    assert picture.name == "curve.png" and picture.stat().st_size > 1000
    assert record["objects"] == {"all": 3, "small": 1, "medium": 1, "large": 1}
    assert record["runs"]["nothing"] == dict.fromkeys(record["objects"])
    assert max(record["runs"]["FPN"]["small"]["recall"][1:-1]) == 1
    assert max(record["runs"]["FPN"]["medium"]["recall"][1:-1]) == 0


def test_a_size_without_objects_has_no_curve(tmp_path, ground_truth, detections):
    del ground_truth["annotations"][2]
    _, data = plot_accuracy_recall(tmp_path / "curve", ground_truth, {"FPN": detections}, category_ids=[4, 9])
    assert json.loads(data.read_text())["runs"]["FPN"]["large"] is None


def test_scales_by_level(tmp_path, ground_truth, detections):
    named = [{**one, "level": level} for one, level in zip(detections, ("p2x", "p2", "p2", "p3"), strict=True)]
    runs = split_by_level(named, ("p2x", "p2", "p3"))
    assert [len(one) for one in runs.values()] == [1, 2, 1]
    _, data = plot_scales(tmp_path / "scales", ground_truth, runs, category_ids=[4, 9], edges=(0, 32, 96, 200))
    record = json.loads(data.read_text())
    assert [one["objects"] for one in record["p2x"]] == [1, 1, 1]
    assert [record[level][0]["ar"] > 0 for level in runs] == [True, False, False]
    assert [record[level][2]["ar"] for level in runs] == [0, 0, 1]


def test_losses(tmp_path, ground_truth, detections):
    one, other = (loss_funnel(ground_truth, detections, score_threshold=at) for at in (0.5, 0.1))
    _, data = plot_losses(tmp_path / "losses", {"FPN": one})
    assert json.loads(data.read_text())["FPN"]["by_band"]["small"]["hits"] == 1
    with pytest.raises(UserError, match="losses of FPN, EFPN: not of the same ground truth"):
        plot_losses(tmp_path / "losses", {"FPN": one, "EFPN": other})
