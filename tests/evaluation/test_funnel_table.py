from __future__ import annotations

from dataclasses import replace

from efpn.evaluation.table import funnel_markdown
from efpn.metrics.funnel import loss_funnel


def rows_of(text, head):
    """The table that follows a heading, as size -> column -> cell."""
    lines = [line for line in text.split(f"## {head}")[1].split("\n## ")[0].splitlines() if line.startswith("|")]
    table = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {row[0].split()[0]: dict(zip(table[0], row, strict=True)) for row in table[2:]}


def test_counts_and_shares_by_band(ground_truth, detections):
    """The small box is found, the medium one has a wrong class, the large one scores 0.2."""
    text = funnel_markdown(loss_funnel(ground_truth, detections, score_threshold=0.5, category_ids=[4, 9]))
    fates = rows_of(text, "Ground truths: found, or why missed")
    assert fates["all"]["objects"] == "3" and fates["all"]["found"] == "1 (33.3 %)"
    assert fates["medium"]["classification"] == "1 (100.0 %)"
    assert fates["large"]["low score"] == "1 (100.0 %)"
    assert rows_of(text, "False alarms")["all"] == {
        "size": "all [0, 400)",
        "all": "2",
        "classification": "1",
        "background": "1",
    }


def test_what_is_not_known_is_said(ground_truth, detections):
    text = funnel_markdown(loss_funnel(ground_truth, detections, score_threshold=0.5))
    assert "They were not recorded." in text
    assert rows_of(text, "Proposals and caps")["small"]["recall@300"] == "n/a"
    assert rows_of(text, "RoIs by the level they are pooled from")["small"]["RoIs"] == "n/a"


def test_a_funnel_without_bands_has_empty_tables(ground_truth, detections):
    text = funnel_markdown(replace(loss_funnel(ground_truth, detections, score_threshold=0.5), by_band={}))
    assert rows_of(text, "Ground truths: found, or why missed") == {}


def test_a_band_without_objects(ground_truth):
    empty = {**ground_truth, "annotations": []}
    fates = rows_of(funnel_markdown(loss_funnel(empty, [], score_threshold=0.5)), "Ground truths: found, or why missed")
    assert fates["small"]["objects"] == "0" and fates["small"]["found"] == "n/a"
