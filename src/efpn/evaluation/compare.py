"""Rows side by side, on the terminal, as Markdown and as data, and what they gain over the first."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from efpn.errors import UserError
from efpn.evaluation.rows import Row
from efpn.evaluation.table import gain_over, size_rules
from efpn.markdown import MISSING, markdown_table, number
from efpn.runs.files import write_json, write_text

log = logging.getLogger(__name__)

BOUNDS: Final = ("doubled_head", "oracle_head")  # phases whose new head reads P2 of a whole second pass
SHARED: Final = ("AP_S", "AP_S_any", "AR_S", "best_F1_S")  # metrics whose gain is shared out
LEAST_GAIN: Final = 0.005
COLUMNS: Final = ("AP", "AP50", "AP_S", "AP_M", "AP_L", "AR_S", "F1_S")


def show(rows: Sequence[Row], path: Path, columns: Sequence[str] = COLUMNS) -> None:
    """Print the comparison and, if there are several rows, write it as ``path`` ``.md`` and, as data, ``.json``.

    Where the bounds of a like-for-like comparison are among the rows, the share of the gain stands below.
    """
    Console().print(comparison_table(rows, columns))
    if shares := gain_shares(rows):
        Console(markup=False).print(shares)
    if len(rows) > 1:
        data = [{"name": row.name, "metrics": row.metrics, "source": row.source} for row in rows]
        write_json(
            path.with_name(f"{path.name}.json"), {"columns": list(columns), "terms": rows[0].terms, "rows": data}
        )
        text = comparison_markdown(rows, columns) + (f"\n{shares}\n" if shares else "")
        written = write_text(path.with_name(f"{path.name}.md"), text)
        log.info("comparison: %s", written)


def comparison_markdown(rows: Sequence[Row], columns: Sequence[str] = COLUMNS) -> str:
    """The comparison as a Markdown table; from the second row on with the difference to the first in brackets.

    Below it stands how sizes were measured, where the rows say so.
    """
    lines = [[row.name, *(text for text, _ in _cells(row, rows[0], columns))] for row in rows]
    table, said = markdown_table(["", *columns], lines), said_sizes(rows)
    return f"{table}\n\n{said}\n" if said else f"{table}\n"


def comparison_table(rows: Sequence[Row], columns: Sequence[str] = COLUMNS, title: str | None = None) -> Table:
    """The comparison for a terminal: gains in green, losses in red."""
    table = Table(
        title=title,
        title_justify="left",
        caption=said_sizes(rows) or None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
        collapse_padding=True,
    )
    table.add_column("", min_width=10, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        cells = _cells(row, rows[0], columns, between="\n")
        styles = ["" if not gain else "green" if gain > 0 else "red" for _, gain in cells]
        table.add_row(Text(row.name), *(Text(text, style=s) for (text, _), s in zip(cells, styles, strict=True)))
    return table


def said_sizes(rows: Sequence[Row]) -> str:
    """How sizes were measured; rows that say it agree (`comparable`), and where none does it is empty."""
    rules: Mapping[str, Any] = next((row.terms["rules"] for row in rows if "rules" in row.terms), {})
    return size_rules(rules) if {"ap_size_rule", "f1_size_rule"} <= set(rules) else ""


def gain_shares(rows: Sequence[Row]) -> str:
    """What each row takes of the gain that P2 of a second pass gives, as Markdown; empty without such bounds.

    The gain is the difference of two heads that were trained alike: the bound's on P2 of the second pass and the
    control head's on P2 itself. A share is (row - control head) / (bound - control head), all three of one seed and
    with the same changes to the model. Shares of a gain of less than half a point mean nothing and are left out.
    """
    trained = {(row.phase, row.seed, row.changes): row for row in rows}
    lines = []
    for phase, row in itertools.product(BOUNDS, rows):
        floor, bound = (trained.get((name, row.seed, row.changes)) for name in ("control_head", phase))
        if floor and bound and row not in (floor, bound):
            lines.append([row.name, bound.name, *(_share(row, floor, bound, metric) for metric in SHARED)])
    if not lines:
        return ""
    table = markdown_table(["share of the gain", "of", *SHARED], lines)
    return f"{table}\n\n(row - control head) / (bound - control head), all of one seed."


def _share(row: Row, floor: Row, bound: Row, metric: str) -> str:
    value, low, high = (one.shared.get(metric) for one in (row, floor, bound))
    if value is None or low is None or high is None or high - low < LEAST_GAIN:
        return MISSING
    return f"{(value - low) / (high - low):.0%}"


def _cells(row: Row, first: Row, columns: Sequence[str], between: str = " ") -> list[tuple[str, float | None]]:
    """Per column the value with the gain behind it, and the gain over the first row (None: there is none)."""
    cells = []
    for column in columns:
        if column not in row.metrics:
            have = ", ".join(row.metrics)
            raise UserError(f"{row.source}: no metric {column!r} for the comparison; it holds {have}")
        said, gain = number(row.metrics[column]), gain_over(row.metrics, first.metrics, column)
        cells.append((said if gain is None else f"{said}{between}({gain:+.3f})", gain))
    return cells
