"""The page and the sheets of an evaluation, on records made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from efpn.evaluation.report import draw_row, draw_together, write_html, write_row
from efpn.figures.sheet import worst, worst_sheet
from efpn.metrics.evaluation import Evaluation


@pytest.fixture
def scored(tmp_path, evaluation, monkeypatch):
    """``scored(name, found)``: such an evaluation whose first detection came from P2'."""
    monkeypatch.setattr(
        Evaluation, "by_level", property(lambda one: {"p2_ext": one.detections[:1], "p2": one.detections[1:]})
    )
    return lambda name, found: evaluation(name=name, detections=found, folder=tmp_path / name)


@pytest.mark.slow
def test_the_page_needs_no_other_file_and_tells_the_numbers(scored, detections, tmp_path: Path) -> None:
    rows = [scored("FPN", detections[1:]), scored("E<FPN>", detections)]
    drawn = draw_together(tmp_path, rows)
    for row in rows:
        drawn |= write_row(row) | draw_row(row)
    (tmp_path / "config.yaml").write_text("name: demo\n")
    page = write_html(tmp_path, rows, {"FPN": tmp_path}, drawn).read_text()
    assert "http" not in page and 'src="data:image/' in page and 'src="/' not in page
    assert "E&lt;FPN&gt;" in page and "E<FPN>" not in page  # a name is text, not markup
    assert "the numbers of these mean nothing" not in page  # no quick run
    assert "python evaluate.py run=x" in page and "name: demo" in page and "abc123" in page
    assert page.count("<img") == 4 + 2 * 3  # together; misses, false alarms and levels of each (no sheet of images)
    for stem in ("accuracy_recall", "scales", "losses"):
        assert (tmp_path / f"{stem}.png").is_file() and (tmp_path / f"{stem}.json").is_file()


@pytest.mark.slow
def test_a_page_without_any_detection_says_so(scored, tmp_path: Path) -> None:
    row = scored("nothing", [])
    drawn = draw_row(row) | draw_together(tmp_path, [row])
    assert "The surest false alarms: nothing to show" in write_html(tmp_path, [row], {}, drawn).read_text()


@pytest.mark.slow
def test_a_figure_of_an_earlier_evaluation_goes_where_there_is_nothing_to_show(scored, detections, tmp_path) -> None:
    rows = [scored("FPN", detections[1:]), scored("FPN", detections)]
    assert draw_together(tmp_path, rows)["pairs"].is_file() and (tmp_path / "pairs.json").is_file()
    assert "FPN/worst_false_alarm" in draw_row(rows[1])
    assert "pairs" not in draw_together(tmp_path, rows[:1]) and not (tmp_path / "pairs.json").exists()
    assert "FPN/worst_false_alarm" not in draw_row(scored("FPN", []))
    assert not list(tmp_path.rglob("pairs.*")) and not list(tmp_path.rglob("worst_false_alarm.png"))


def test_the_worst_are_the_largest_misses_and_the_surest_false_alarms(evaluation) -> None:
    assert [(one.image_id, one.weight) for one in worst(evaluation(), "miss", 5)] == [(2, 120), (1, 50)]
    assert [(one.image_id, one.weight) for one in worst(evaluation(), "false_alarm", 1)] == [(1, 0.8)]


def test_one_image_does_not_fill_the_sheet(evaluation) -> None:
    same = [{"image_id": 3, "category_id": 4, "bbox": [x, 0, 5, 5], "score": 0.9} for x in (0, 20, 40)]
    assert len(worst(evaluation(detections=same), "false_alarm", 9)) == 2


def test_a_sheet_of_crops_has_a_place_for_each(evaluation) -> None:
    sheet = worst_sheet(evaluation(), "miss", title="worst")
    assert [axes.get_title(loc="left") for axes in sheet.axes] == ["pl40, 120 px\nimage 2", "pn, 50 px\nimage 1"]
    assert len(worst_sheet(evaluation(detections=[]), "miss", count=2).axes) == 2
    assert worst_sheet(evaluation(detections=[]), "false_alarm") is None
