"""The page and the sheets of an evaluation, on records made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from efpn.evaluation.gallery import draw_run, draw_together
from efpn.evaluation.html import write_html
from efpn.evaluation.report import write_report
from efpn.evaluation.scored import Scored
from efpn.evaluation.worst import worst
from efpn.figures.crops import Crop, crop_sheet
from efpn.metrics.funnel import loss_funnel


@pytest.fixture
def scored(tmp_path, ground_truth, detections, metrics, facts, load_picture):
    def make(name: str, found: list[dict]) -> Scored:
        folder = tmp_path / name
        write_report(folder, metrics, found, ground_truth=ground_truth, facts=facts, category_ids=[4, 9])
        record = json.loads((folder / "metrics.json").read_text())
        funnel = loss_funnel(ground_truth, found, score_threshold=0.5, category_ids=[4, 9])
        levels = {"p2x": found[:1], "p2": found[1:]}
        return Scored(name, folder, record, ground_truth, [4, 9], found, funnel, load_picture, levels)

    return make


def test_the_page_needs_no_other_file_and_tells_the_numbers(scored, detections, tmp_path: Path) -> None:
    rows = [scored("FPN", detections[1:]), scored("E<FPN>", detections)]
    for row in rows:
        draw_run(row)
    draw_together(tmp_path, rows)
    (tmp_path / "config.yaml").write_text("name: demo\n")
    page = write_html(tmp_path, rows, {"FPN": tmp_path}).read_text()
    assert "http" not in page and 'src="data:image/' in page and 'src="/' not in page
    assert "E&lt;FPN&gt;" in page and "E<FPN>" not in page  # a name is text, not markup
    assert "python evaluate.py run=x" in page and "name: demo" in page and "abc123" in page
    assert page.count("<img") == 4 + 2 * 3  # together; misses, false alarms and levels of each (no sheet of pictures)
    for stem in ("accuracy_recall", "scales", "losses"):
        assert (tmp_path / f"{stem}.png").is_file() and (tmp_path / f"{stem}.json").is_file()


def test_a_page_without_any_detection_says_so(scored, tmp_path: Path) -> None:
    row = scored("nothing", [])
    draw_run(row)
    draw_together(tmp_path, [row])
    assert "The surest false alarms: nothing to show" in write_html(tmp_path, [row], {}).read_text()


def test_the_worst_are_the_largest_misses_and_the_surest_false_alarms(ground_truth, detections) -> None:
    evaluated = {**ground_truth, "annotations": [b for b in ground_truth["annotations"] if b["category_id"] != 7]}
    misses = worst(evaluated, detections, "miss", score_threshold=0.5, count=5)
    assert [(one.image_id, one.weight) for one in misses] == [(2, 120), (1, 50)]
    alarms = worst(evaluated, detections, "false_alarm", score_threshold=0.5, count=1)
    assert [(one.image_id, one.weight) for one in alarms] == [(1, 0.8)]


def test_one_picture_does_not_fill_the_sheet(ground_truth) -> None:
    same = [{"image_id": 3, "category_id": 4, "bbox": [x, 0, 5, 5], "score": 0.9} for x in (0, 20, 40)]
    assert len(worst(ground_truth, same, "false_alarm", score_threshold=0.5, count=9)) == 2


def test_a_sheet_of_crops_has_a_place_for_each() -> None:
    crop = Crop(np.zeros((40, 40, 3), np.uint8), [], (0, 0, 20, 20), "sign\npicture 1")
    assert len(crop_sheet([crop] * 8, columns=6).axes) == 8
    with pytest.raises(ValueError, match="at least one crop"):
        crop_sheet([])
