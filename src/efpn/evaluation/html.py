"""``report.html``: one file that opens from disk, with the tables, the figures and where everything comes from."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from omegaconf import OmegaConf
from PIL import Image

from efpn.evaluation.report import IMAGES
from efpn.evaluation.table import CLASS_METRICS, RULES, band_name, class_lines, gain_over
from efpn.markdown import MISSING, number
from efpn.metrics.evaluation import Evaluation
from efpn.runs.files import write_text
from efpn.runs.names import CONFIG_FILE

REPORT: Final = "report.html"
WIDEST: Final = 1800  # pixels of an embedded image
COLUMNS: Final = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "AR_S", "AR_M", "AR_L", "F1_S", "F1_M", "F1_L")
CURVES: Final = ("accuracy_recall", "scales", "losses", "scales_by_level", "time")  # figures that are no photographs


def write_html(
    folder: Path, rows: Sequence[Evaluation], configs: Mapping[str, Path], drawn: Mapping[str, Path]
) -> Path:
    """Write ``report.html`` into ``folder``; the first row is the one that the others are compared with.

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
    )
    return write_text(folder / REPORT, page)


def _embedded(path: Path) -> str:
    """A figure as a data URL, shrunk to the widest that a page shows."""
    with Image.open(path) as image:
        shrunk = image.convert("RGB")
        shrunk.thumbnail((WIDEST, WIDEST * 10))
    kind, buffer = "png" if path.stem in CURVES else "jpeg", io.BytesIO()
    shrunk.save(buffer, kind, quality=82, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
