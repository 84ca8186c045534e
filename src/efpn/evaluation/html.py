"""``report.html``: one file that opens from disk, with the tables, the figures and where everything comes from."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from omegaconf import OmegaConf
from PIL import Image

from efpn.evaluation.scored import CLASS_METRICS, ClassScores, Scored, class_scores
from efpn.evaluation.table import MISSING, RULES, band_name, number
from efpn.metrics.bands import suffix
from efpn.metrics.funnel import Funnel
from efpn.runs.files import write_text
from efpn.runs.names import CONFIG_FILE

REPORT: Final = "report.html"
WIDEST: Final = 1800  # pixels of an embedded picture
COLUMNS: Final = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "AR_S", "AR_M", "AR_L", "F1_S", "F1_M", "F1_L")
Row = dict[str, Any]


def write_html(folder: Path, rows: Sequence[Scored], configs: Mapping[str, Path]) -> Path:
    """Write ``report.html`` into ``folder``, where the figures of all rows are; those of each row are in its own.

    Args:
        folder: of :func:`efpn.evaluation.gallery.draw_together`.
        rows: first the one that the others are compared with.
        configs: name of a row to the folder that holds its run's config.
    """
    pages = Environment(loader=PackageLoader("efpn.evaluation"), autoescape=True, undefined=StrictUndefined)
    pages.filters["number"] = number
    page = pages.get_template("report.html.j2").render(
        split=rows[0].record["split"],
        facts=rows[0].record,
        rules=RULES,
        columns=COLUMNS,
        rows=[_metrics_row(one, rows[0]) for one in rows],
        sizes=_size_rows(rows),
        classes=_class_rows(class_scores(rows)),
        funnels=[(one.name, _funnel_rows(one.funnel)) for one in rows],
        together={
            stem: _embedded(folder / f"{stem}.png")
            for stem in ("accuracy_recall", "scales", "losses", "pairs", "features")
        },
        alone=[_sheets(one) for one in rows],
        sources=[_source(one, configs.get(one.name)) for one in rows],
        missing=MISSING,
    )
    return write_text(folder / REPORT, page)


def _metrics_row(one: Scored, first: Scored) -> Row:
    """All columns of a row, with the gain over the first."""
    return {"name": one.name, "cells": [_cell(one.record["metrics"], first.record["metrics"], c) for c in COLUMNS]}


def _cell(mine: Mapping[str, float | None], base: Mapping[str, float | None], column: str) -> Row:
    value, other = mine.get(column), base.get(column)
    gain = None if value is None or other is None or mine is base else round(value - other, 3)
    return {"text": number(value), "gain": gain}


def _size_rows(rows: Sequence[Scored]) -> list[Row]:
    """Accuracy, recall and F1 by size, at the fixed threshold and at that of best F1."""
    lines = []
    for one in rows:
        for at, metrics in one.at_thresholds():
            bins = [[number(metrics.get(f"{m}{suffix(b)}")) for m in ("acc", "rec", "F1")] for b in _bins(one)]
            lines.append({"name": one.name, "at": at, "bins": bins})
    return lines


def _bins(one: Scored) -> Mapping[str, Any]:
    return one.record["rules"]["f1_bins"]


def _class_rows(classes: Sequence[ClassScores]) -> list[Row]:
    """AP and AP of small objects of each class in every row, with the gain over the first."""
    return [
        {
            "name": one.name,
            "objects": one.objects,
            "cells": [_cell(mine, one.by_row[0], metric) for metric in CLASS_METRICS for mine in one.by_row],
        }
        for one in classes
    ]


def _funnel_rows(funnel: Funnel) -> list[Row]:
    """Of each size band the numbers found and, by cause, missed; false alarms, recall of proposals, levels read."""
    rows = []
    for name, band in funnel.by_band.items():
        misses = {cause.replace("_", " "): count for cause, count in band.misses.items() if count}
        rows.append(
            {
                "band": band_name(name, funnel.bands[name]),
                "objects": band.objects,
                "hits": band.hits,
                "misses": misses,
                "alarms": {cause: count for cause, count in band.false_alarms.items() if count},
                "recall": {k: number(value) for k, value in band.rpn_recall.items()},
                "levels": {level: f"{share:.0%}" for level, share in (band.roi_levels or {}).items() if share},
            }
        )
    return rows


def _sheets(one: Scored) -> Row:
    stems = ("worst_miss", "worst_false_alarm", "scales_by_level")
    return {"name": one.name} | {stem: _embedded(one.folder / f"{stem}.png") for stem in stems}


def _source(one: Scored, config: Path | None) -> Row:
    """Where a row comes from: what its record says, and the run's whole config."""
    text = ""
    if config is not None and (config / CONFIG_FILE).is_file():
        text = OmegaConf.to_yaml(OmegaConf.load(config / CONFIG_FILE))
    facts = {key: one.record[key] for key in ("command", "commit", "seed", "hardware")}
    return {"name": one.name, "facts": {**facts, **one.record["more"]}, "config": text}


def _embedded(path: Path) -> str | None:
    """A picture as a data URL, shrunk to the widest that a page shows; None without the file."""
    if not path.is_file():
        return None
    with Image.open(path) as picture:
        shrunk = picture.convert("RGB")
        shrunk.thumbnail((WIDEST, WIDEST * 10))
    photo = path.stem not in ("accuracy_recall", "scales", "losses", "scales_by_level")
    buffer = io.BytesIO()
    shrunk.save(buffer, "JPEG" if photo else "PNG", quality=82, optimize=True)
    kind = "jpeg" if photo else "png"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
