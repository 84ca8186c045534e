"""Time against the number of small objects, end to end."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from helpers import SMALL_BENCHMARK, benchmark_setting, run_here

from efpn.benchmark import small_proposals


@pytest.mark.slow
def test_files_and_ratios(tmp_path):
    words = ["what=small-proposals", *SMALL_BENCHMARK, "counts=[0,9,2]", "per_object=5", f"out={tmp_path}"]
    done = run_here("benchmark.py", *words)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "small.json").read_text())
    assert record["objects"] == [0, 2, 9] and record["small"] == [0, 10, 40]
    medians = {key: [one["median"] for one in model["seconds"]] for key, model in record["models"].items()}
    expected = [a / b for a, b in zip(medians["efpn"], medians["fpn-2x"], strict=True)]
    assert record["ratios"]["EFPN / FPN-2x"] == pytest.approx(expected)
    assert set(record["ratios"]) == {"EFPN / FPN-1x", "EFPN / FPN-2x"}
    assert (tmp_path / "small.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "small.md").read_text()
    assert "](small.png)" in text and "| 9 | 40 |" in text


def test_each_number_of_objects_has_its_own_proposals(monkeypatch):
    seen = []

    def watch(work, device):
        return lambda turn: seen.append(sum(_small(boxes) for boxes in work.proposals.boxes))

    monkeypatch.setattr(small_proposals, "stop_watched", watch)
    setting = benchmark_setting("repeats=1")
    mixed = [replace(setting.proposals, objects=k, small=n) for k, n in ((0, 0), (2, 10), (9, 40))]
    small_proposals.measure(["efpn"], mixed, setting)
    assert seen == [0, 10, 40]


def _small(boxes):
    return int(((boxes[:, 2:] - boxes[:, :2]).prod(1) < 16**2).sum())


def test_the_figure_shows_a_line_for_each_model_and_the_proposals_below():
    spreads = [{"median": 0.001}, {"median": 0.002}]
    models = {name: {"title": name.upper(), "seconds": spreads} for name in ("fpn-1x", "efpn")}
    figure = small_proposals.curve_figure({"objects": [0, 7], "small": [0, 105], "models": models})
    time, bars = figure.axes
    assert [line.get_ydata().tolist() for line in time.lines] == [[1, 2], [1, 2]]
    assert [bar.get_height() for bar in bars.patches] == [0, 105] and bars.get_ylabel() == "small proposals"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["FPN-1X", "EFPN"]
