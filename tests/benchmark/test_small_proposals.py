"""Time against the number of small objects, end to end."""

from __future__ import annotations

import json

import pytest
from helpers import SMALL_BENCHMARK, SMALL_NAME, benchmark_options

from efpn.benchmark import small_proposals
from efpn.benchmark.cli import main


@pytest.mark.slow
def test_files_and_ratios(tmp_path):
    few = ["--counts", "0,2,9", "--per-object", "5", "--out", str(tmp_path)]
    assert main(["small-proposals", *SMALL_BENCHMARK, *few]) == 0
    name = f"small-proposals-cpu-64-32-{SMALL_NAME}"
    record = json.loads((tmp_path / f"{name}.json").read_text())
    assert record["objects"] == [0, 2, 9] and record["small"] == [0, 10, 40]
    medians = {key: [one["median"] for one in model["seconds"]] for key, model in record["models"].items()}
    expected = [a / b for a, b in zip(medians["efpn"], medians["fpn-2x"], strict=True)]
    assert record["ratios"]["EFPN / FPN-2x"] == pytest.approx(expected)
    assert set(record["ratios"]) == {"EFPN / FPN-1x", "EFPN / FPN-2x"}
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / f"{name}.md").read_text()
    assert f"]({name}.png)" in text and "| 9 | 40 |" in text


def test_each_number_of_objects_has_its_own_proposals(monkeypatch):
    seen = []

    def watch(work, device):
        return lambda turn: seen.append(sum(_small(boxes) for boxes in work.proposals.boxes))

    monkeypatch.setattr(small_proposals, "stop_watched", watch)
    options = benchmark_options("--repeats", "1")
    settings = {0: options.with_small(0, 0), 2: options.with_small(2, 10), 9: options.with_small(9, 40)}
    small_proposals.measure(["efpn"], settings, options)
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
