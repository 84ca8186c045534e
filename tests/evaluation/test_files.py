from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from efpn.errors import UserError
from efpn.metrics.results import read_results
from efpn.metrics.score import score
from efpn.runs.files import as_tt100k_results, plain, read_json, write_json, write_text


def test_nan_and_infinity_become_null(tmp_path):
    path = write_json(tmp_path / "a.json", {"x": math.nan, "y": [np.float32("inf"), None, 1.5], 3: -math.inf})
    assert path.read_text() == '{"x": null, "y": [null, null, 1.5], "3": null}\n'


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (np.float64(0.5), 0.5),
        (np.int64(7), 7),
        (np.array([[1.0, math.nan]]), [[1.0, None]]),
        ((1, "a", True), [1, "a", True]),
        (Path("a/b"), "a/b"),
    ],
)
def test_plain_values(given, expected):
    assert plain(given) == expected
    assert json.loads(json.dumps(plain(given), allow_nan=False)) == expected


def test_writing_makes_the_folder_and_leaves_nothing_else(tmp_path):
    path = write_text(tmp_path / "new" / "folder" / "a.txt", "x")
    assert [entry.name for entry in path.parent.iterdir()] == ["a.txt"]


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = write_json(tmp_path / "a.json", {"old": 1})
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("killed")))
    with pytest.raises(OSError, match="killed"):
        write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1}


def test_reading_errors_name_the_file(tmp_path):
    with pytest.raises(UserError, match=r"a\.json: no such file; write it with evaluate\.py"):
        read_json(tmp_path / "a.json")
    (tmp_path / "b.json").write_text('{"metrics": ')
    with pytest.raises(UserError, match=r"b\.json: not a JSON file"):
        read_json(tmp_path / "b.json")
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\); write it with"):
        read_json(tmp_path)
    (tmp_path / "c.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"c\.json: not a JSON file of ours \(nested too deeply\)"):
        read_json(tmp_path / "c.json")


def test_tt100k_results_hold_every_image_and_score_the_same(ground_truth, detections, metrics):
    results = as_tt100k_results(ground_truth, detections)
    assert list(results["imgs"]) == ["1", "2", "3"]
    assert results["imgs"]["2"]["objects"][0] == {
        "category": "pl40",
        "score": 0.2,
        "bbox": {"xmin": 20.0, "ymin": 20.0, "xmax": 140.0, "ymax": 130.0},
    }
    again = read_results(results, ground_truth, "results")
    assert score(ground_truth, again, score_threshold=0.5, category_ids=[4, 9]) == metrics
