"""Runs side by side: one row each, and what they gain over the first."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from efpn.errors import UserError
from efpn.evaluation.table import MISSING, markdown_table, number, size_rules
from efpn.runs.files import read_json, write_json, write_text

log = logging.getLogger(__name__)

BOUNDS: Final = ("doubled_head", "oracle_head")  # phases whose new head reads P2 of a whole second pass
SHARED: Final = ("AP_S", "AP_S_any", "AR_S", "best_F1_S")  # metrics whose gain is shared out
LEAST_GAIN: Final = 0.005
COLUMNS: Final = ("AP", "AP50", "AP_S", "AP_M", "AP_L", "AR_S", "F1_S")


@dataclass(frozen=True)
class Result:
    """One row: a run's name, its metrics, and the terms under which they were measured.

    Attributes:
        name: of the row.
        metrics: flat, None for what does not exist.
        terms: split and rules; two runs compare only where these agree. What a run does not say is left out.
        source: the file it was read from.
        phase: of the run, if it is one of our own, detecting as it was trained.
        seed: of its training.
        best_f1_small: F1_S at the threshold of best F1, where one was chosen.
    """

    name: str
    metrics: Mapping[str, float | None]
    terms: Mapping[str, Any]
    source: Path
    phase: str | None = None
    seed: int | None = None
    best_f1_small: float | None = None

    @property
    def shared(self) -> dict[str, float | None]:
        """The metrics whose gain is shared out, by name."""
        return {**self.metrics, "best_F1_S": self.best_f1_small}


def load_result(path: Path, name: str | None = None) -> Result:
    """Read a run directory (its ``metrics.json``) or such a file itself.

    Args:
        path: directory or file.
        name: of the row, instead of the file's own.

    Raises:
        UserError: the file is missing, unreadable or holds no metrics.
    """
    file = path / "metrics.json" if path.is_dir() else path
    record = read_json(file)
    metrics = record.get("metrics") if isinstance(record, dict) else None
    if not isinstance(metrics, dict):
        raise UserError(f"{file}: no 'metrics' in it; expected what evaluate.py writes as metrics.json")
    terms = {"split": record.get("split"), "rules": record.get("rules"), "objects": record.get("objects")}
    terms["threshold"] = record.get("thresholds", {}).get("fixed")
    known = {key: value for key, value in terms.items() if value is not None}
    best = (record.get("metrics_at_best_f1") or {}).get("F1_S")
    more = record.get("more") or {}
    phase = more.get("phase") if more.get("variant", "own") == "own" else None
    called = name or record.get("name") or str(path)
    return Result(called, metrics, known, file, phase, record.get("seed"), best)


def load_results(paths: Iterable[Path]) -> list[Result]:
    """Read several runs that may be compared; rows of one name are told apart by their paths.

    Raises:
        UserError: none given, one unreadable, or two measured under different terms.
    """
    results = [load_result(path) for path in paths]
    if not results:
        raise UserError("nothing to compare: name at least one run directory with a metrics.json")
    for other in results[1:]:
        _check_terms(results[0], other)
    names = [result.name for result in results]
    return [
        replace(result, name=f"{result.name} ({result.source.parent})") if names.count(result.name) > 1 else result
        for result in results
    ]


def comparison_markdown(results: Sequence[Result], columns: Sequence[str] = COLUMNS) -> str:
    """The comparison as a Markdown table; from the second row on with the difference to the first in brackets.

    Below it stands how sizes were measured, where the rows say so.
    """
    rows = [[result.name, *(_joined(*cell) for cell in _cells(result, results[0], columns))] for result in results]
    table, said = markdown_table(["", *columns], rows), said_sizes(results)
    return f"{table}\n\n{said}\n" if said else f"{table}\n"


def comparison_table(results: Sequence[Result], columns: Sequence[str] = COLUMNS, title: str | None = None) -> Table:
    """The comparison for a terminal: gains in green, losses in red."""
    table = Table(
        title=title,
        title_justify="left",
        caption=said_sizes(results) or None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
        collapse_padding=True,
    )
    table.add_column("", min_width=10, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for result in results:
        cells = _cells(result, results[0], columns)
        table.add_row(
            Text(result.name), *(Text(_joined(value, gain, "\n"), style=_style(gain)) for value, gain in cells)
        )
    return table


def show(results: Sequence[Result], path: Path, columns: Sequence[str] = COLUMNS) -> None:
    """Print the comparison and, if there are several rows, write it as ``path`` ``.md`` and, as data, ``.json``.

    Where the bounds of a like-for-like comparison are among the rows, the share of the gain stands below.
    """
    Console().print(comparison_table(results, columns))
    if shares := gain_shares(results):
        Console(markup=False).print(shares)
    if len(results) > 1:
        rows = [{"name": one.name, "metrics": one.metrics, "source": one.source} for one in results]
        write_json(
            path.with_name(f"{path.name}.json"), {"columns": list(columns), "terms": results[0].terms, "rows": rows}
        )
        text = comparison_markdown(results, columns) + (f"\n{shares}\n" if shares else "")
        written = write_text(path.with_name(f"{path.name}.md"), text)
        log.info("comparison: %s", written)


def gain_shares(results: Sequence[Result]) -> str:
    """What each row takes of the gain that P2 of a second pass gives, as Markdown; empty without such bounds.

    The gain is the difference of two heads that were trained alike: the bound's on P2 of the second pass and the
    control head's on P2 itself. A share is (row - control head) / (bound - control head), all three of one seed. Shares
    of a gain of less than half a point mean nothing and are left out.
    """
    trained = {(one.phase, one.seed): one for one in results}
    rows = []
    for phase, result in itertools.product(BOUNDS, results):
        floor, bound = (trained.get((name, result.seed)) for name in ("control_head", phase))
        if floor and bound and result not in (floor, bound):
            rows.append([result.name, bound.name, *(_share(result, floor, bound, metric) for metric in SHARED)])
    if not rows:
        return ""
    table = markdown_table(["share of the gain", "of", *SHARED], rows)
    return f"{table}\n\n(row - control head) / (bound - control head), all of one seed."


def _share(result: Result, floor: Result, bound: Result, metric: str) -> str:
    value, low, high = (one.shared.get(metric) for one in (result, floor, bound))
    if value is None or low is None or high is None or high - low < LEAST_GAIN:
        return MISSING
    return f"{(value - low) / (high - low):.0%}"


def said_sizes(results: Sequence[Result]) -> str:
    """How sizes were measured; rows that say it agree (`load_results`), and where none does it is empty."""
    rules: Mapping[str, Any] = next((one.terms["rules"] for one in results if "rules" in one.terms), {})
    return size_rules(rules) if {"ap_size_rule", "f1_size_rule"} <= set(rules) else ""


def _cells(result: Result, first: Result, columns: Sequence[str]) -> list[tuple[str, float | None]]:
    """Per column the value as text, and the gain over the first row (None where there is none to speak of)."""
    cells: list[tuple[str, float | None]] = []
    for column in columns:
        if column not in result.metrics:
            have = ", ".join(result.metrics)
            raise UserError(f"{result.source}: no metric {column!r} for the comparison; it holds {have}")
        value, base = result.metrics[column], first.metrics[column]
        gain = None if value is None or base is None or result is first else round(value - base, 3)
        cells.append((number(value), gain))
    return cells


def _joined(value: str, gain: float | None, between: str = " ") -> str:
    return value if gain is None else f"{value}{between}({gain:+.3f})"


def _style(gain: float | None) -> str:
    if not gain:
        return ""
    return "green" if gain > 0 else "red"


def _check_terms(first: Result, other: Result) -> None:
    for term in first.terms.keys() & other.terms.keys():
        mine, theirs = first.terms[term], other.terms[term]
        if mine != theirs:
            raise UserError(
                f"{first.source} and {other.source} cannot be compared: {term} differs ({mine} and {theirs}); "
                "evaluate both alike"
            )
