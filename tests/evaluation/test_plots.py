"""Each figure is written as an image and as the data that it shows."""

from __future__ import annotations

import json

import numpy as np
import pytest

from efpn.errors import UserError
from efpn.evaluation.report import draw_curves, draw_losses, draw_scales
from efpn.metrics.funnel import StageRecord
from efpn.metrics.matching import Matcher


def test_accuracy_recall(tmp_path, evaluation):
    rows = [evaluation(name="FPN"), evaluation(name="nothing", detections=[])]
    drawn = draw_curves(tmp_path / "new" / "curve", rows)
    record = json.loads((tmp_path / "new" / "curve.json").read_text())
    assert drawn["curve"].name == "curve.png" and drawn["curve"].stat().st_size > 1000
    assert record["objects"] == {"all": 3, "small": 1, "medium": 1, "large": 1}
    assert record["runs"]["nothing"] == dict.fromkeys(record["objects"])
    assert max(record["runs"]["FPN"]["small"]["recall"][1:-1]) == 1
    assert max(record["runs"]["FPN"]["medium"]["recall"][1:-1]) == 0


def test_the_curves_are_those_of_the_official_protocol(evaluation, ground_truth, detections):
    assert evaluation().curves == Matcher.of(ground_truth, detections, [4, 9]).curves(0.9)


def test_a_size_without_objects_has_no_curve(evaluation, ground_truth):
    del ground_truth["annotations"][2]
    assert evaluation().curves["large"] is None


def test_scales_by_level(tmp_path, evaluation, detections, monkeypatch):
    monkeypatch.setattr("efpn.metrics.score.EDGES", (0, 32, 96, 200))
    runs = {"p2_ext": detections[:1], "p2": detections[1:3], "p3": detections[3:]}
    draw_scales(tmp_path / "scales", evaluation(), runs)
    record = json.loads((tmp_path / "scales.json").read_text())
    assert [one["objects"] for one in record["p2_ext"]] == [1, 1, 1]
    assert [record[level][0]["ar"] > 0 for level in runs] == [True, False, False]
    assert [record[level][2]["ar"] for level in runs] == [0, 0, 1]


def test_detections_are_told_apart_by_the_level_they_came_from(evaluation):
    sources = {1: np.array(["p2_ext", "p2"]), 2: np.array(["p3"]), 3: np.array(["p2"])}
    stages = StageRecord(1, 1, 1, ("p2_ext", "p2", "p3"), {}, [], sources)
    by_level = evaluation(stages=stages).by_level
    assert {level: [one["score"] for one in boxes] for level, boxes in by_level.items()} == {
        "p2_ext": [0.9],
        "p2": [0.8, 0.7],
        "p3": [0.2],
    }
    assert evaluation().by_level == {}


def test_losses(tmp_path, evaluation):
    draw_losses(tmp_path / "losses", [evaluation(name="FPN")])
    assert json.loads((tmp_path / "losses.json").read_text())["FPN"]["by_band"]["small"]["hits"] == 1
    with pytest.raises(UserError, match="losses of FPN, EFPN: not of the same ground truth"):
        draw_losses(tmp_path / "losses", [evaluation(name="FPN"), evaluation(evaluated=[4])])


def test_images_and_losses_are_shown_at_the_best_threshold(evaluation):
    fixed, best = evaluation(), evaluation(best_threshold=0.15, best_chosen_on="toy/val")
    assert (fixed.shown_threshold, best.shown_threshold) == (0.5, 0.15)
    shown = {score for of in best.outcomes.values() for score in of.scores}
    assert 0.2 in shown and 0.2 not in {score for of in fixed.outcomes.values() for score in of.scores}
    assert best.funnel.score_threshold == 0.15
    assert [at.split(",")[0] for at in best.by_size] == ["0.15", "0.50"]
    draw_losses(best.folder / "losses", [fixed, evaluation(name="B", best_threshold=0.15, best_chosen_on="toy/val")])
