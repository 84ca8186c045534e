"""What an evaluation leaves on disk: numbers, tables, detections and figures of each row; figures and page of all."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from PIL import Image

from efpn.errors import UserError
from efpn.evaluation.compare import timed_lines
from efpn.evaluation.rows import METRICS, Row, quick_note
from efpn.evaluation.table import CLASS_METRICS, RULES, band_name, class_lines, funnel_markdown, gain_over, report_table
from efpn.figures.curves import STYLES, accuracy_recall, cost_curves, loss_bars, scale_curves
from efpn.figures.sheet import WorstKind, difference_sheet, outcome_sheet, save, worst_sheet
from efpn.markdown import MISSING, number
from efpn.metrics.bands import TT100K_BINS, Boxes
from efpn.metrics.evaluation import Evaluation
from efpn.metrics.score import by_scale, rule_used
from efpn.runs.files import CONFIG_FILE, as_tt100k_results, write_json, write_text

log = logging.getLogger(__name__)
TABLE, DETECTIONS, DETECTIONS_TT100K, IMAGES = "table.md", "detections.json", "detections_tt100k.json", "images.png"
TRUTH: Final = "truth.json"  # what was scored, and which categories: COCO's structures with ``evaluated`` beside them
MOST_RUNS: Final = len(STYLES)  # that a figure can tell apart
AREAS: Final = {"area": "square root of the box's area", "annotation": "square root of the annotation's area"}
COLUMNS: Final = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "AR_S", "AR_M", "AR_L", "F1_S", "F1_M", "F1_L")
CURVES: Final = ("accuracy_recall", "scales", "losses", "scales_by_level", "time")  # figures that are no photographs
WIDEST: Final = 1800  # pixels of an image on the page
Drawn = dict[str, Path]  # figures drawn this time, by what they are called


def write_row(one: Evaluation, images: int = 0, tt100k: bool = False) -> Drawn:
    """Write the files of one row, over those of an earlier report in its folder.

    The sheet shows ``images`` images, with 0 there is none; ``tt100k`` adds the detections in that results layout.
    """
    write_json(one.folder / METRICS, one.record, indent=2)
    write_text(one.folder / TABLE, report_table(one.record))
    write_json(one.folder / DETECTIONS, one.detections)
    write_json(one.folder / TRUTH, {**one.truth, "evaluated": one.evaluated})
    if tt100k:
        write_json(one.folder / DETECTIONS_TT100K, as_tt100k_results(one.truth, one.detections))
    write_json(one.folder / "losses.json", asdict(one.funnel), indent=2)
    write_text(one.folder / "losses.md", funnel_markdown(one.funnel, f"Where {one.name} loses objects on {one.split}"))
    log.info("%s on %s: %s", one.name, one.split, one.folder)
    title = f"{one.name} on {one.split}: the images with most misses (score >= {one.shown_threshold:.2f})"
    sheet = outcome_sheet(one, images, title) if images else None
    (one.folder / IMAGES).unlink(missing_ok=True)  # of earlier numbers
    return {f"{one.name}/images": save(sheet, one.folder / IMAGES)} if sheet else {}


def draw_row(one: Evaluation) -> Drawn:
    """Figures of one row: the worst mistakes, and AP and AR against size by pyramid level (Fig. 1b)."""
    drawn: Drawn = {}
    said: dict[WorstKind, str] = {"miss": "the largest misses", "false_alarm": "the surest false alarms"}
    for kind, which in said.items():
        sheet = worst_sheet(one, kind, title=f"{one.name}, score >= {one.shown_threshold:.2f}: {which}")
        drawn |= keep(one.folder / f"worst_{kind}", sheet)
    stem, title = one.folder / "scales_by_level", f"{one.name}: each pyramid level's detections alone, and all"
    if one.by_level:
        drawn |= draw_scales(stem, one, {"all": one.detections, **one.by_level}, title)
    else:
        keep(stem, None)
    return {f"{one.name}/{stem}": path for stem, path in drawn.items()}


def draw_together(folder: Path, rows: Sequence[Evaluation]) -> Drawn:
    """Figures of all rows in one: Fig. 7, Fig. 1(b), causes of losses, and Fig. 8 of the first row and the last."""
    if len(rows) > MOST_RUNS:
        log.warning("%d rows: the figures show the first %d and the last", len(rows), MOST_RUNS - 1)
        rows = [*rows[: MOST_RUNS - 1], rows[-1]]
    first, last, split = rows[0], rows[-1], rows[0].split
    boxes = {one.name: one.detections for one in rows}
    pairs = difference_sheet(first, last) if len(rows) > 1 else None
    scores = ", ".join(f"{one:.2f}" for one in dict.fromkeys(row.shown_threshold for row in rows))
    return (
        draw_curves(folder / "accuracy_recall", rows, f"Accuracy and recall on {split}")
        | draw_scales(folder / "scales", first, boxes, f"AP and AR by size on {split}")
        | draw_losses(folder / "losses", rows, f"Why objects are missed on {split}, scores from {scores} on")
        | keep(folder / "pairs", *(pairs or (None,)))
    )


def draw_curves(stem: Path, rows: Sequence[Evaluation], title: str = "") -> Drawn:
    """Accuracy against recall by size, several rows in one (Fig. 7). A row without detections has no curve."""
    runs: dict[str, Any] = {one.name: one.curves for one in rows}
    rules = {"size_rule": "long_side", "bins": dict(TT100K_BINS), "objects": rows[0].record["objects"]["f1"]}
    return keep(stem, accuracy_recall(runs, title=title), {**rules, "runs": runs})


def draw_scales(stem: Path, one: Evaluation, runs: Mapping[str, Boxes], title: str = "") -> Drawn:
    """AP and AR against object size, in bins of ``sqrt(area)``, native pixels (Fig. 1b).

    ``runs`` are detections of other rows or of pyramid levels; the ground truth and the categories of ``one`` count.
    """
    wanted = one.evaluated
    bins = {run: by_scale(one.truth, found, wanted) for run, found in runs.items()}
    series = {run: {"AP": [scale.ap for scale in row], "AR": [scale.ar for scale in row]} for run, row in bins.items()}
    first = next(iter(bins.values()))
    names, objects = [scale.name for scale in first], [scale.objects for scale in first]
    measured = f"{AREAS[rule_used(one.truth, wanted)]}, native pixels"
    figure = scale_curves(names, objects, series, title=title, xlabel=measured)
    return keep(stem, figure, {run: [scale._asdict() for scale in row] for run, row in bins.items()})


def draw_losses(stem: Path, rows: Sequence[Evaluation], title: str = "") -> Drawn:
    """Why objects were missed, by size (raises `UserError`: rows of different ground truths)."""
    funnels = {one.name: one.funnel for one in rows}
    objects = [{name: band.objects for name, band in one.by_band.items()} for one in funnels.values()]
    if any(one != objects[0] for one in objects):
        raise UserError(f"losses of {', '.join(funnels)}: not of the same ground truth")
    misses = {run: {name: band.misses for name, band in one.by_band.items()} for run, one in funnels.items()}
    figure = loss_bars(misses, objects[0], title=title)
    return keep(stem, figure, {run: asdict(one) for run, one in funnels.items()})


def draw_costs(folder: Path, rows: Sequence[Row]) -> Drawn:
    """Metrics against the time of an image; the sizes of a plain FPN are one curve. Nothing where none was timed."""
    metrics = [name for name in ("AP_S", "AP_M", "AP_L") if any(row.metrics.get(name) is not None for row in rows)]
    curves = {f"{line[0].name} on larger images": line for line in timed_lines(rows)}
    on_curves = [row for line in curves.values() for row in line]
    lines = curves | {row.name: [row] for row in rows if row.milliseconds is not None and row not in on_curves}
    if not curves or len(lines) > MOST_RUNS:
        return keep(folder / "time", None)
    runs = {
        name: {metric: [(one.milliseconds, one.metrics[metric]) for one in line] for metric in metrics}
        for name, line in lines.items()
    }
    return keep(folder / "time", cost_curves(runs, title="Accuracy against time"), runs)


def keep(stem: Path, figure: Figure | None, data: Any = None) -> Drawn:
    """Write ``<stem>.png`` and ``<stem>.json``, the data that it shows; without a figure an earlier one goes."""
    image, numbers = (stem.with_name(f"{stem.name}{ending}") for ending in (".png", ".json"))
    if figure is None:
        image.unlink(missing_ok=True)
        numbers.unlink(missing_ok=True)
        return {}
    if data is not None:
        write_json(numbers, data)
    return {stem.name: save(figure, image)}


def write_html(
    folder: Path, rows: Sequence[Evaluation], configs: Mapping[str, Path], drawn: Mapping[str, Path]
) -> Path:
    """Write ``report.html``, which needs no other file, into ``folder``; the rows are compared with the first.

    ``configs`` has by the name of a row the folder that holds its run's config, ``drawn`` the figures to embed: those
    of all rows by their name, those of each as ``<row>/<name>``.
    """
    files = {name: place / CONFIG_FILE for name, place in configs.items()}
    pages = Environment(loader=PackageLoader("efpn.evaluation"), autoescape=True, undefined=StrictUndefined)
    pages.filters["number"] = number
    pages.globals |= {"gain_over": gain_over, "band_name": band_name}
    page = pages.get_template("report.html.j2").render(
        rows=rows,
        facts=rows[0].record,
        rules=RULES,
        columns=COLUMNS,
        class_metrics=CLASS_METRICS,
        classes=class_lines(rows),
        figures={name: _embedded(path) for name, path in drawn.items() if path.name != IMAGES},
        configs={name: OmegaConf.to_yaml(OmegaConf.load(file)) for name, file in files.items() if file.is_file()},
        missing=MISSING,
        quick=quick_note(map(Row.of, rows)),
    )
    return write_text(folder / "report.html", page)


def _embedded(path: Path) -> str:
    """A figure as a data URL, shrunk to the widest that a page shows."""
    with Image.open(path) as image:
        shrunk = image.convert("RGB")
        shrunk.thumbnail((WIDEST, WIDEST * 10))
    kind, buffer = "png" if path.stem in CURVES else "jpeg", io.BytesIO()
    shrunk.save(buffer, kind, quality=82, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
