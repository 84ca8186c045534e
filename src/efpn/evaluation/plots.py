"""Curves and bars of evaluated runs, each written as a picture and as the data that it shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure

from efpn.errors import UserError
from efpn.figures.curves import accuracy_recall, loss_bars, scale_curves
from efpn.figures.sheet import save
from efpn.metrics.bands import TT100K_BINS, Bands, SizeRule
from efpn.metrics.counting import objects_by_size, rule_used
from efpn.metrics.funnel import Funnel
from efpn.metrics.scales import EDGES, by_scale
from efpn.metrics.tt100k import curves
from efpn.runs.files import as_tt100k_results, write_json

Boxes = Sequence[Mapping[str, Any]]
Truth = Mapping[str, Any]
AREAS: Final = {"area": "square root of the box's area", "annotation": "square root of the annotation's area"}


def write_plot(stem: Path, figure: Figure, data: Any) -> list[Path]:
    """Write ``<stem>.png`` and ``<stem>.json``, the data that it shows."""
    return [save(figure, stem.with_name(f"{stem.name}.png")), write_json(stem.with_name(f"{stem.name}.json"), data)]


def clear_plot(stem: Path) -> None:
    """Remove what `write_plot` wrote in an earlier evaluation, where there is nothing to show now."""
    for ending in (".png", ".json"):
        stem.with_name(f"{stem.name}{ending}").unlink(missing_ok=True)


def plot_accuracy_recall(
    stem: Path,
    ground_truth: Truth,
    runs: Mapping[str, Boxes],
    *,
    category_ids: Iterable[int] | None = None,
    bins: Bands = TT100K_BINS,
    size_rule: SizeRule = "long_side",
    width: float = 9.5,
    title: str = "",
) -> list[Path]:
    """Accuracy against recall by size, several runs in one (Fig. 7).

    Args:
        stem: path without ending.
        ground_truth: COCO ground truth, native pixels; crowds are left out.
        runs: name to COCO results, of all scores.
        category_ids: the evaluated categories; by default all.
        bins: the panels.
        size_rule: ``long_side`` or ``area``.
        width: inches.
        title: above the figure.

    Returns:
        The picture and its data. A run without detections has no curve.
    """
    wanted = {c["id"] for c in ground_truth["categories"]} if category_ids is None else set(category_ids)
    names = [c["name"] for c in ground_truth["categories"] if c["id"] in wanted]
    objects = objects_by_size(ground_truth, bins, size_rule, wanted)
    real = [{**box, "score": math.inf} for box in ground_truth["annotations"] if not box.get("iscrowd", 0)]
    truth = as_tt100k_results(ground_truth, real)
    data: dict[str, Any] = {}
    for run, found in runs.items():
        if not found:
            data[run] = dict.fromkeys(bins)
            continue
        lines = curves(truth, as_tt100k_results(ground_truth, found), types=names, bins=bins, size_rule=size_rule)
        data[run] = {name: line if objects[name] else None for name, line in lines.items()}
    figure = accuracy_recall(data, title=title, width=width)
    return write_plot(stem, figure, {"size_rule": size_rule, "bins": dict(bins), "objects": objects, "runs": data})


def plot_scales(
    stem: Path,
    ground_truth: Truth,
    runs: Mapping[str, Boxes],
    *,
    category_ids: Iterable[int] | None = None,
    edges: Sequence[float] = EDGES,
    max_dets: int = 300,
    width: float = 9.5,
    title: str = "",
) -> list[Path]:
    """AP and AR against object size, several runs in one (Fig. 1b).

    Args:
        stem: path without ending.
        ground_truth: COCO ground truth, native pixels.
        runs: name to COCO results; :func:`split_by_level` gives those of a run's pyramid levels.
        category_ids: the evaluated categories; by default all.
        edges: of the bins of ``sqrt(area)``, native pixels.
        max_dets: as :func:`efpn.metrics.coco_metrics`.
        width: inches.
        title: above the figure.

    Returns:
        The picture and its data.
    """
    wanted = None if category_ids is None else list(category_ids)
    bins = {
        run: by_scale(ground_truth, found, edges=edges, max_dets=max_dets, category_ids=wanted)
        for run, found in runs.items()
    }
    first = next(iter(bins.values()), [])
    series = {run: {"AP": [one.ap for one in row], "AR": [one.ar for one in row]} for run, row in bins.items()}
    names, objects = [one.name for one in first], [one.objects for one in first]
    measured = AREAS[rule_used(ground_truth, "area", wanted)]
    figure = scale_curves(names, objects, series, title=title, width=width, xlabel=f"{measured}, native pixels")
    return write_plot(stem, figure, {run: [one._asdict() for one in row] for run, row in bins.items()})


def split_by_level(detections: Boxes, levels: Sequence[str]) -> dict[str, Boxes]:
    """Detections that have a ``level`` (:meth:`efpn.metrics.stages.StageRecord.with_levels`) apart, by level."""
    return {level: [one for one in detections if one["level"] == level] for level in levels}


def plot_losses(stem: Path, runs: Mapping[str, Funnel], *, width: float = 9.5, title: str = "") -> list[Path]:
    """Why ground truths were missed, by size, several runs in one.

    Args:
        stem: path without ending.
        runs: name to funnel, of the same ground truth and rules.
        width: inches.
        title: above the figure.

    Returns:
        The picture and its data.

    Raises:
        UserError: funnels of other rules or of another ground truth.
    """
    first, *others = runs.values()
    terms = [_terms(one) for one in (first, *others)]
    if any(term != terms[0] for term in terms):
        raise UserError(f"losses of {', '.join(runs)}: not of the same ground truth, bands, size rule and threshold")
    objects = {name: band.objects for name, band in first.by_band.items()}
    misses = {run: {name: band.misses for name, band in one.by_band.items()} for run, one in runs.items()}
    figure = loss_bars(misses, objects, title=title, width=width)
    return write_plot(stem, figure, {run: one.as_dict() for run, one in runs.items()})


def _terms(funnel: Funnel) -> tuple[Any, ...]:
    objects = [band.objects for band in funnel.by_band.values()]
    return funnel.score_threshold, funnel.size_rule, funnel.bands, objects
