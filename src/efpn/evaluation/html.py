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

from efpn.evaluation.table import CLASS_METRICS, RULES, band_name, class_lines, gain_over
from efpn.markdown import MISSING, number
from efpn.metrics.evaluation import Evaluation, Metrics
from efpn.metrics.funnel import Funnel
from efpn.runs.files import CONFIG_FILE, write_text

REPORT: Final = "report.html"
WIDEST: Final = 1800  # pixels of an embedded image
COLUMNS: Final = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "AR_S", "AR_M", "AR_L", "F1_S", "F1_M", "F1_L")
Cells = dict[str, Any]  # of a line of a table


def write_html(
    folder: Path, rows: Sequence[Evaluation], configs: Mapping[str, Path], drawn: Mapping[str, Path]
) -> Path:
    """Write ``report.html`` into ``folder``; the first row is the one that the others are compared with.

    ``configs`` has by the name of a row the folder that holds its run's config, ``drawn`` the figures to embed: those
    of all rows by their name, those of each as ``<row>/<name>``.
    """
    first, together = rows[0], ("accuracy_recall", "scales", "losses", "pairs", "features", "time")
    stems = ("worst_miss", "worst_false_alarm", "scales_by_level")
    classes = []
    for name, objects, every in class_lines(rows):
        cells = [_cell(one, every[0], metric) for metric in CLASS_METRICS for one in every]
        classes.append({"name": name, "objects": objects, "cells": cells})
    pages = Environment(loader=PackageLoader("efpn.evaluation"), autoescape=True, undefined=StrictUndefined)
    page = pages.get_template("report.html.j2").render(
        split=first.split,
        facts=first.record,
        rules=RULES,
        columns=COLUMNS,
        rows=[{"name": one.name, "cells": [_cell(one.metrics, first.metrics, c) for c in COLUMNS]} for one in rows],
        sizes=[
            {"name": one.name, "at": at, "bins": [[number(rate) for rate in rates] for rates in bins.values()]}
            for one in rows
            for at, bins in one.by_size.items()
        ],
        classes=classes,
        funnels=[(one.name, _funnel_rows(one.funnel)) for one in rows],
        together={stem: _embedded(drawn.get(stem)) for stem in together},
        alone=[
            {"name": one.name} | {stem: _embedded(drawn.get(f"{one.name}/{stem}")) for stem in stems} for one in rows
        ],
        sources=[_source(one, configs.get(one.name)) for one in rows],
        missing=MISSING,
    )
    return write_text(folder / REPORT, page)


def _cell(mine: Metrics, base: Metrics, column: str) -> Cells:
    return {"text": number(mine.get(column)), "gain": gain_over(mine, base, column)}


def _funnel_rows(funnel: Funnel) -> list[Cells]:
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


def _source(one: Evaluation, config: Path | None) -> Cells:
    """Where a row comes from: what its record says, and the run's whole config."""
    text = ""
    if config is not None and (config / CONFIG_FILE).is_file():
        text = OmegaConf.to_yaml(OmegaConf.load(config / CONFIG_FILE))
    facts = {key: one.record[key] for key in ("command", "commit", "seed", "hardware")}
    return {"name": one.name, "facts": {**facts, **one.record["more"]}, "config": text}


def _embedded(path: Path | None) -> str | None:
    """A figure as a data URL, shrunk to the widest that a page shows; None where it was not drawn."""
    if path is None:
        return None
    with Image.open(path) as image:
        shrunk = image.convert("RGB")
        shrunk.thumbnail((WIDEST, WIDEST * 10))
    photo = path.stem not in ("accuracy_recall", "scales", "losses", "scales_by_level", "time")
    buffer = io.BytesIO()
    shrunk.save(buffer, "JPEG" if photo else "PNG", quality=82, optimize=True)
    kind = "jpeg" if photo else "png"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
