"""The figures of an evaluation: of one run, and of all that were evaluated together."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure

from efpn.evaluation.pairs import difference_sheet
from efpn.evaluation.plots import clear_plot, plot_accuracy_recall, plot_losses, plot_scales, write_plot
from efpn.evaluation.scored import Scored
from efpn.evaluation.worst import Kind, worst_sheet
from efpn.figures.curves import STYLES
from efpn.figures.sheet import save

log = logging.getLogger(__name__)
MOST_RUNS: Final = len(STYLES)  # that a figure can tell apart


def draw_run(one: Scored) -> None:
    """Figures of one run into its folder: the worst mistakes, and AP and AR against size by pyramid level (Fig. 1b)."""
    what = f"{one.name}, score >= {one.threshold:.2f}"
    kinds: tuple[tuple[Kind, str], ...] = (("miss", "the largest misses"), ("false_alarm", "the surest false alarms"))
    for kind, title in kinds:
        sheet = worst_sheet(
            one.truth,
            one.detections,
            one.load_picture,
            kind,
            score_threshold=one.threshold,
            category_ids=one.category_ids,
            title=f"{what}: {title}",
        )
        _keep(sheet, one.folder / f"worst_{kind}.png")
    if one.levels:
        title = f"{one.name}: each pyramid level's detections alone, and all"
        levels = {"all": one.detections, **one.levels}
        stem = one.folder / "scales_by_level"
        plot_scales(stem, one.truth, levels, category_ids=one.category_ids, title=title)


def draw_together(folder: Path, rows: Sequence[Scored]) -> None:
    """Figures of all rows in one: Fig. 7, Fig. 1(b), causes of losses, and Fig. 8 of the first row and the last."""
    if len(rows) > MOST_RUNS:
        log.warning("%d rows: the figures show the first %d and the last", len(rows), MOST_RUNS - 1)
        rows = [*rows[: MOST_RUNS - 1], rows[-1]]
    first, last = rows[0], rows[-1]
    runs = {one.name: one.detections for one in rows}
    split = first.record["split"]
    ids = first.category_ids
    curves = f"Accuracy and recall on {split}"
    plot_accuracy_recall(folder / "accuracy_recall", first.truth, runs, category_ids=ids, title=curves)
    plot_scales(folder / "scales", first.truth, runs, category_ids=ids, title=f"AP and AR by size on {split}")
    plot_losses(folder / "losses", {one.name: one.funnel for one in rows}, title=f"Why objects are missed on {split}")
    if sheet := _pairs(first, last) if len(rows) > 1 else None:
        write_plot(folder / "pairs", *sheet)
    else:
        clear_plot(folder / "pairs")


def _pairs(first: Scored, last: Scored) -> tuple[Figure, dict[str, Any]] | None:
    runs = {first.name: first.detections, last.name: last.detections}
    return difference_sheet(
        first.truth, runs, first.load_picture, score_threshold=first.threshold, category_ids=first.category_ids
    )


def _keep(sheet: Figure | None, path: Path) -> None:
    """Save a sheet; where there is nothing to show, one of an earlier evaluation goes."""
    if sheet is None:
        path.unlink(missing_ok=True)
    else:
        save(sheet, path)
