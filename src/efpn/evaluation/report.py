"""What an evaluation leaves behind: numbers, a table to read, detections to score elsewhere, pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from efpn.evaluation.pictures import LoadPicture, outcome_sheet
from efpn.evaluation.table import report_table
from efpn.figures.sheet import save
from efpn.metrics.bands import COCO_BANDS, TT100K_BINS, Bands, SizeRule
from efpn.metrics.counting import objects_by_size, rule_used
from efpn.runs.files import as_tt100k_results, write_json, write_text

METRICS, TABLE, DETECTIONS = "metrics.json", "table.md", "detections.json"
DETECTIONS_TT100K, PICTURES = "detections_tt100k.json", "pictures.png"


@dataclass(frozen=True)
class Facts:
    """What must stand beside a number for it to be trusted.

    Attributes:
        name: of the model, such as ``EFPN``; names the row in a comparison.
        split: what was scored, such as ``tt100k_mosaic/test``.
        score_threshold: the fixed one of accuracy, recall and F1.
        best_threshold: the one with the best F1 on ``best_chosen_on``; None where none was chosen.
        best_chosen_on: the split where it was chosen; never the one scored.
        size_rule: of accuracy, recall and F1 (AP and AR go by area: the annotation's own, else the box's).
        bands: of AP and AR.
        bins: of accuracy, recall and F1.
        max_dets: COCO's cap per picture and category.
        seed: of the training.
        commit: of the code, see :func:`efpn.evaluation.provenance.git_commit`.
        command: that made the numbers.
        seconds: wall time of the evaluation.
        hardware: that it ran on.
        more: anything else worth a line (phase, input size, training time).
    """

    name: str
    split: str
    score_threshold: float
    best_threshold: float | None = None
    best_chosen_on: str | None = None
    size_rule: SizeRule = "long_side"
    bands: Bands = field(default_factory=lambda: COCO_BANDS)
    bins: Bands = field(default_factory=lambda: TT100K_BINS)
    max_dets: int = 300
    seed: int | None = None
    commit: str | None = None
    command: str | None = None
    seconds: float | None = None
    hardware: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)


def write_report(
    out_dir: Path,
    metrics: Mapping[str, float | None],
    detections: Sequence[Mapping[str, Any]],
    *,
    ground_truth: Mapping[str, Any],
    facts: Facts,
    at_best: Mapping[str, float | None] | None = None,
    category_ids: Iterable[int] | None = None,
    load_picture: LoadPicture | None = None,
    pictures: int = 12,
    tt100k: bool = False,
) -> dict[str, Path]:
    """Write ``metrics.json``, ``table.md``, ``detections.json`` and, where asked for, TT100K results and pictures.

    Args:
        out_dir: made if missing; files of an earlier report in it are replaced.
        metrics: of :func:`efpn.metrics.score` at the fixed threshold.
        detections: COCO results, native pixels.
        ground_truth: COCO ground truth that they were scored against.
        facts: the rules, and where the numbers come from.
        at_best: metrics at ``facts.best_threshold``.
        category_ids: the evaluated categories; all by default.
        load_picture: image id to ``(H, W, 3)`` uint8; without it there is no ``pictures.png``.
        pictures: how many the sheet shows.
        tt100k: also write ``detections_tt100k.json`` in the TT100K results layout.

    Returns:
        File name to path, of what was written.

    Raises:
        ValueError: metrics at the best threshold without that threshold, or the other way round.
    """
    if (at_best is None) != (facts.best_threshold is None):
        raise ValueError("at_best and facts.best_threshold belong together: give both or none")
    wanted = None if category_ids is None else sorted(category_ids)
    record = _record(metrics, detections, ground_truth, facts, at_best, wanted)
    written = [
        write_json(out_dir / METRICS, record, indent=2),
        write_text(out_dir / TABLE, report_table(record)),
        write_json(out_dir / DETECTIONS, detections),
    ]
    if tt100k:
        written.append(write_json(out_dir / DETECTIONS_TT100K, as_tt100k_results(ground_truth, detections)))
    if load_picture is not None:
        at = facts.score_threshold
        title = f"{facts.name} on {facts.split}: the pictures with most misses (score >= {at:.2f})"
        sheet = outcome_sheet(
            ground_truth,
            detections,
            load_picture,
            score_threshold=at,
            category_ids=wanted,
            pictures=pictures,
            title=title,
        )
        written += [save(sheet, out_dir / PICTURES)] if sheet else []
    return {path.name: path for path in written}


def _record(
    metrics: Mapping[str, float | None],
    detections: Sequence[Mapping[str, Any]],
    ground_truth: Mapping[str, Any],
    facts: Facts,
    at_best: Mapping[str, float | None] | None,
    category_ids: list[int] | None,
) -> dict[str, Any]:
    """The contents of ``metrics.json``."""
    return {
        "name": facts.name,
        "split": facts.split,
        "metrics": dict(metrics),
        "metrics_at_best_f1": None if at_best is None else dict(at_best),
        "thresholds": {
            "fixed": facts.score_threshold,
            "best_f1": facts.best_threshold,
            "best_f1_chosen_on": facts.best_chosen_on,
        },
        "rules": {
            "ap_size_rule": rule_used(ground_truth, "area", category_ids),
            "ap_edges": "closed",
            "ap_bands": dict(facts.bands),
            "ap_max_dets": facts.max_dets,
            "f1_size_rule": rule_used(ground_truth, facts.size_rule, category_ids),
            "f1_bins": dict(facts.bins),
            "f1_iou": 0.5,
        },
        "objects": {
            "ap": objects_by_size(ground_truth, facts.bands, "area", category_ids, "closed"),
            "f1": objects_by_size(ground_truth, facts.bins, facts.size_rule, category_ids),
        },
        "pictures": len(ground_truth["images"]),
        "detections": len(detections),
        "categories": len(ground_truth["categories"] if category_ids is None else category_ids),
        "seed": facts.seed,
        "commit": facts.commit,
        "command": facts.command,
        "seconds": facts.seconds,
        "hardware": facts.hardware,
        "more": dict(facts.more),
    }
