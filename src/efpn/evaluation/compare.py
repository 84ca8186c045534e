"""Rows side by side, on the terminal, as Markdown and as data, and what they gain over the first."""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from efpn.errors import UserError
from efpn.evaluation.rows import Row, quick_note
from efpn.evaluation.table import RULES, gain_over
from efpn.markdown import MISSING, markdown_table, number
from efpn.runs.files import write_json, write_text

log = logging.getLogger(__name__)

FLOOR: Final = "control_head"  # the phase whose new head reads P2 itself
BOUNDS: Final = ("doubled_head", "oracle_head")  # phases whose new head reads P2 of a whole second pass
SHARED: Final = ("AP_S", "AP_S_any", "AR_S", "best_F1_S")  # metrics whose gain is shared out
LEAST_GAIN: Final = 0.005
PAID: Final = ("AP_S", "AP_S_any", "AR_S", "AP_M", "AP_L")  # metrics that a larger image buys, or loses
PIPED: Final = 200  # columns of text where there is no terminal to fit
COLUMNS: Final = ("AP", "AP50", "AP_S", "AP_M", "AP_L", "AR_S", "F1_S")


def show(rows: Sequence[Row], path: Path, columns: Sequence[str] = COLUMNS) -> None:
    """Print the comparison and, if there are several rows, write it as ``path`` ``.md`` and, as data, ``.json``.

    Where the bounds of a like-for-like comparison are among the rows, the share of the gain stands below; where not
    even a control is, that it is missing; where rows were timed, what they gain over a plain FPN of equal time.
    """
    console = Console(width=None if sys.stdout.isatty() else PIPED, markup=False)
    console.print(comparison_table(rows, columns))
    below = [text for text in (quick_note(rows), without_control(rows), gain_shares(rows), equal_time(rows)) if text]
    for text in below:
        console.print(text)
    if len(rows) > 1:
        lines = [{"name": row.name, "metrics": row.metrics, "source": row.source} for row in rows]
        data = {"columns": list(columns), "terms": rows[0].terms, "rows": lines}
        write_json(path.with_name(f"{path.name}.json"), data)
        text = "\n".join([comparison_markdown(rows, columns), *(f"{text}\n" for text in below)])
        written = write_text(path.with_name(f"{path.name}.md"), text)
        log.info("comparison: %s", written)


def comparison_markdown(rows: Sequence[Row], columns: Sequence[str] = COLUMNS) -> str:
    """The comparison as a Markdown table; from the second row on with the difference to the first in brackets.

    Below it stands how sizes were measured, where the rows say so.
    """
    lines = [[row.name, *(text for text, _ in _cells(row, rows[0], columns))] for row in rows]
    table, said = markdown_table(["", *columns], lines), said_sizes(rows)
    return f"{table}\n\n{said}\n" if said else f"{table}\n"


def comparison_table(rows: Sequence[Row], columns: Sequence[str] = COLUMNS) -> Table:
    """The comparison for a terminal: gains in green, losses in red."""
    look: dict[str, Any] = {"box": box.SIMPLE_HEAD, "padding": 0, "collapse_padding": True}
    table = Table(caption=said_sizes(rows) or None, caption_justify="left", **look)
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
    if not {"ap_size_rule", "f1_size_rule"} <= set(rules):
        return ""
    ap, f1 = RULES[rules["ap_size_rule"]], RULES[rules["f1_size_rule"]]
    return f"Sizes in native pixels. AP and AR: {ap}. Accuracy, recall and F1: {f1}."


def without_control(rows: Sequence[Row]) -> str:
    """A warning where a finetuned row stands beside its baseline and beside nothing that trained as long."""
    phases = {row.phase for row in rows}
    if not {"baseline", "finetune"} <= phases or phases & {"control", FLOOR}:
        return ""
    return (
        "The finetuned row has trained on from the baseline: part of its gain may be the longer training. "
        "phase=control_head trains the row to hold it against."
    )


def gain_shares(rows: Sequence[Row]) -> str:
    """What each row takes of the gain that P2 of a second pass gives, as Markdown; empty without such bounds.

    The gain is the difference of two heads that were trained alike: the bound's on P2 of the second pass and the
    control head's on P2 itself. A share is (row - control head) / (bound - control head), all three of one seed and
    with the same changes to the model. A bound that two runs in the table have is passed over, and so are shares of a
    gain of less than half a point, which mean nothing.
    """
    alike = [(row.record.get("seed"), row.identity.get("changed in the model") or "nothing") for row in rows]
    claims = [(row.phase, *terms) for row, terms in zip(rows, alike, strict=True)]
    trained = {claim: row for claim, row in zip(claims, rows, strict=True) if claims.count(claim) == 1}
    lines = []
    for phase, (row, terms) in itertools.product(BOUNDS, zip(rows, alike, strict=True)):
        floor, bound = (trained.get((name, *terms)) for name in (FLOOR, phase))
        if not floor or not bound or row in (floor, bound):
            continue
        shares = []
        for metric in SHARED:
            value, low, high = np.array([one.value(metric) for one in (row, floor, bound)], float)
            known = high - low >= LEAST_GAIN and not np.isnan(value)  # neither is so where one has no number
            shares.append(f"{(value - low) / (high - low):.0%}" if known else MISSING)
        lines.append([row.name, bound.name, *shares])
    if not lines:
        return ""
    table = markdown_table(["share of the gain", "of", *SHARED], lines)
    return f"{table}\n\n(row - control head) / (bound - control head), all of one seed."


def equal_time(rows: Sequence[Row]) -> str:
    """The time of each row, and what it has more than a plain FPN of equal time, as Markdown; empty without times.

    The plain FPN buys accuracy with a larger image (``variant=fpn_scaled``). Between the sizes that were evaluated its
    metrics are interpolated in time; beyond them there is nothing to compare with. Of several the first counts.
    """
    lines = timed_lines(rows)
    first, plain = next(iter(lines), []), [row for line in lines for row in line]
    cells = []
    for row in rows:
        if row.milliseconds is not None:
            gains = ["" if row in plain else _above(row, first, metric) for metric in PAID]
            cells.append([row.name, f"{row.milliseconds:.0f}", *gains])
    if not cells:
        return ""
    table = markdown_table(["at equal time", "ms an image", *PAID], cells)
    return f"{table}\n\nDifferences to the plain FPN on an image so large that it takes that time (interpolated)."


def timed_lines(rows: Sequence[Row]) -> list[list[Row]]:
    """Each plain FPN over its sizes of the image, fastest first; in the order of the rows."""
    lines: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row.milliseconds is not None and row.line is not None:
            lines.setdefault(row.line, []).append(row)
    return [sorted(line, key=lambda row: row.milliseconds or 0) for line in lines.values() if len(line) > 1]


def _above(row: Row, line: Sequence[Row], metric: str) -> str:
    """What a row has more of a metric than the line has at the row's time; nothing where the line does not reach."""
    points = [(one.milliseconds, value) for one in line if (value := one.value(metric)) is not None]
    mine, at = row.value(metric), row.milliseconds
    if mine is None or at is None or not points:
        return MISSING
    times, values = np.array(points, float).T
    if not times[0] <= at <= times[-1]:
        return MISSING
    return f"{mine - np.interp(at, times, values):+.3f}"


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
