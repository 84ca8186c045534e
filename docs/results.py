"""RESULTS.md from the result files: ``python docs/results.py`` writes it, ``--check`` says whether it is up to date.

README.md shows its beginning, what stands between `MARKS`.

``docs/results.md.j2`` is the page: its numbers are read from ``results/**/*.json``, what `evaluate.py` leaves, and what
it says of them is checked while it is written, so that no sentence can outlive the numbers that it rests on.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

ROOT = Path(__file__).parents[1]
SHARED = ("AP_S", "AP_S_any", "AR_S", "F1_S", "best_F1_S")
NAMES = {"AP_S_any": "AP_S, classes as one", "best_F1_S": "F1_S at the best threshold", "F1_S": "F1_S at 0.5"}

MARKS = ("<!-- at a glance: written by docs/results.py -->", "<!-- end -->")
MILLISECONDS = "ms an image"


class Contradicted(Exception):
    """A sentence of the page says something else than the numbers."""


class Result:
    """One result file.

    Args:
        path: ``results/<run>/seed<seed>/<phase>/<what>.json``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record: dict[str, Any] = json.loads(path.read_text())

    def __getitem__(self, metric: str) -> float:
        """A metric; ``best_F1_S`` is at the threshold chosen on the validation split, ``ms an image`` a time."""
        if metric == MILLISECONDS:
            return 1000 * self.record["seconds_per_image"]
        if metric.startswith("best_"):
            return self.record["metrics_at_best_f1"][metric.removeprefix("best_")]
        return self.record["metrics"][metric]

    @property
    def small(self) -> float:
        """Objects below 32 native pixels in an image, by COCO's sizes."""
        return self.record["objects"]["ap"]["small"] / self.record["images"]


class AtTime(NamedTuple):
    """What a row has more than plain FPNs at its own time."""

    gain: float
    share: float  # of what it has more than the plain FPN at 1x


class Page:
    """What the template calls.

    Args:
        root: the project's folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.used: dict[str, Result] = {}  # by path, in the order of their first use
        self.commands: dict[str, Any] = {}

    def result(self, path: str) -> Result:
        """A result file, by its path below ``results`` without ending."""
        if path not in self.used:
            self.used[path] = Result(self.root / "results" / f"{path}.json")
        return self.used[path]

    def table(
        self, rows: dict[str, Result], columns: Sequence[str], below: Sequence[tuple[str, list[str]]] = ()
    ) -> str:
        """A Markdown table of results, and lines of text below them."""
        lines = [[name, *(cell(result, column) for column in columns)] for name, result in rows.items()]
        lines += [[name, *cells] for name, cells in below]
        return _table(["", *(NAMES.get(column, column) for column in columns)], lines)

    def means(self, path: str, called: dict[str, str]) -> str:
        """A Markdown table of a summary's means over the seeds with their standard deviations.

        Args:
            path: of the summary, below ``results`` without ending.
            called: its rows by title, in order, and what to call each.
        """
        record = self._summary(path)
        lines = [
            [name, *(spread(self._row(path, title)["columns"][c]) for c in record["columns"])]
            for title, name in called.items()
        ]
        return _table(["", *(NAMES.get(c, c) for c in record["columns"])], lines)

    def differences(self, path: str) -> str:
        """A Markdown table of a summary's differences to its reference row, with their 95 % intervals."""
        record = self._summary(path)
        columns = list(record["columns"])
        lines = []
        for row in record["rows"]:
            if row["title"] != record["reference"]:
                cells = [row["columns"][column] for column in columns]
                lines.append([row["title"].replace("_", " "), *(interval(cell) for cell in cells)])
        head = [f"difference to {record['reference'].replace('_', ' ')}", *(NAMES.get(c, c) for c in columns)]
        return _table(head, lines)

    def shares(self, row: Result, floor: Result, bound: Result, columns: Sequence[str]) -> list[str]:
        """(row - floor) / (bound - floor) of the metrics whose gain is shared out, as cells of a table."""
        told = [c in SHARED and bound[c] - floor[c] >= 0.005 for c in columns]
        return [f"{share(row, floor, bound, c):.0%}" if one else "" for c, one in zip(columns, told, strict=True)]

    def shares_of(self, path: str, row: str, columns: Sequence[str], bound: str = "oracle_head") -> list[str]:
        """What a row takes of the oracle head's gain by a summary that calls it ``bound``, as cells of a table."""
        return [share_told(self.share_of(path, row, column, bound)) for column in columns]

    def share_of(self, path: str, row: str, column: str, bound: str) -> dict[str, Any] | None:
        """One of `shares_of`: ``share`` and ``interval``; None where the bound's own gain is not clear of 0."""
        return self._row(path, row)["shares"][bound].get(column)

    def glance(self, sets: dict[str, str], columns: Sequence[str], title: str) -> str:
        """A Markdown table of control head, EFPN and oracle head on each set: their means, EFPN's gain and its share.

        Args:
            sets: what to call each, and its run below ``results``, which has a ``summary-test.json``.
            columns: of that; the oracle head's gain in `SHARED` ones is shared out.
            title: of EFPN's row.
        """
        lines = []
        for called, run in sets.items():
            self._summary(f"{run}/summary-test")
            of = {one: self._row(f"{run}/summary-test", one) for one in ("control_head", title, "oracle_head")}
            efpn, seeds = of[title], [row["seeds"] for row in of.values()]
            if any(one != seeds[0] for one in seeds):
                raise ValueError(f"{run}/summary-test: the rows are of other seeds, {seeds}")
            means = [[mean(row["columns"][column]) for column in columns] for row in of.values()]
            gains = [self.told(efpn["columns"][column]) for column in columns]
            parts = [share_told(efpn["shares"]["oracle_head"].get(c)) if c in SHARED else "" for c in columns]
            count = "one seed" if len(seeds[0]) == 1 else f"{len(seeds[0])} seeds"
            heads = [f"{called}; {count}", "", "", "", ""]
            names = ["control head", "**EFPN**", "oracle head", "gain of EFPN", "share of the oracle's"]
            lines += [[*both, *one] for *both, one in zip(heads, names, [*means, gains, parts], strict=True)]
        return _table(["set", "", *(NAMES.get(column, column) for column in columns)], lines)

    def curve(self, run: str, called: dict[str, str], columns: Sequence[str]) -> str:
        """A Markdown table of mean times and metrics: plain FPNs on larger and larger images, and EFPN.

        Args:
            run: below ``results``, with a ``summary-test.json`` and ``seed<seed>/<row>/test.json``.
            called: rows of the summary by title, ``<row>/<phase>``, and what to call each.
            columns: of the summary.
        """
        self._summary(f"{run}/summary-test")
        lines = []
        for title, name in called.items():
            row = self._row(f"{run}/summary-test", title)
            lines.append([name, f"{self.time_of(run, title):.0f}", *(mean(row["columns"][one]) for one in columns)])
        return _table(["", MILLISECONDS, *(NAMES.get(column, column) for column in columns)], lines)

    def time_of(self, run: str, title: str) -> float:
        """Milliseconds that a row of `curve` takes for an image, the mean over its seeds."""
        times = [one[MILLISECONDS] for one in self._timed(run, title).values()]
        return sum(times) / len(times)

    def _timed(self, run: str, title: str) -> dict[int, Result]:
        """A row of `curve` by seed."""
        seeds = self._row(f"{run}/summary-test", title)["seeds"]
        return {seed: self.result(f"{run}/seed{seed}/{title.split('/')[0]}/test") for seed in seeds}

    def at_equal_time(self, run: str, title: str, plain: Sequence[str], columns: Sequence[str]) -> dict[str, AtTime]:
        """By column, what a row of `curve` has more than plain FPNs at its own time; means over the seeds.

        Args:
            run: as in `curve`.
            title: of the row.
            plain: those of the FPNs, in order of their time; the last stands for all that would take longer.
            columns: of the summary.

        Raises:
            ValueError: a seed's times are not in that order.
        """
        own, others = self._timed(run, title), [self._timed(run, one) for one in plain]
        found = {}
        for column in columns:
            more, whole = [], []
            for seed, row in own.items():
                times, values = ([one[seed][key] for one in others] for key in (MILLISECONDS, column))
                if times != sorted(times):
                    raise ValueError(f"{run}/seed{seed}: {', '.join(plain)} are not in order of their time")
                more.append(row[column] - float(np.interp(row[MILLISECONDS], times, values)))
                whole.append(row[column] - values[0])
            found[column] = AtTime(sum(more) / len(more), sum(more) / sum(whole))
        return found

    def gains_told(self, at: dict[str, AtTime]) -> str:
        """What `at_equal_time` has found more, in points."""
        short = NAMES | {"AP_S_any": "with classes as one", "F1_S": "F1_S"}
        told = [f"{short.get(column, column)} {100 * one.gain:+.1f}" for column, one in at.items()]
        return f"{', '.join(told[:-1])} and {told[-1]}"

    def kept_told(self, at: dict[str, AtTime], columns: Sequence[str]) -> str:
        """The shares that `at_equal_time` has found."""
        told = [f"{100 * at[column].share:.0f}" for column in columns]
        return f"{', '.join(told[:-1])} and {told[-1]} %"

    def rivals(self, sets: dict[str, tuple[str, dict[str, AtTime]]], columns: Sequence[str]) -> str:
        """A Markdown table of what `at_equal_time` has found on each set, in points, shares in brackets.

        Args:
            sets: what to call each, the size of the FPN's images there, and what was found.
            columns: of that; one that a set has not is left blank.
        """

        def told(column: str, one: AtTime) -> str:
            return f"{100 * one.gain:+.1f}" + (f" ({one.share:.0%})" if column in SHARED else "")

        lines = [
            [called, size, *(told(column, at[column]) if column in at else "" for column in columns)]
            for called, (size, at) in sets.items()
        ]
        return _table(["at equal time, EFPN's lead", "the FPN's size", *(NAMES.get(c, c) for c in columns)], lines)

    def points(self, one: Result, other: Result, metric: str) -> str:
        """How much ``one`` has more, in points."""
        return f"{100 * (one[metric] - other[metric]):.1f}"

    def gains_of(self, path: str, row: str) -> dict[str, dict[str, Any]]:
        """A row's differences to a summary's reference row, by column."""
        return self._row(path, row)["columns"]

    def _summary(self, path: str) -> dict[str, Any]:
        """A summary, which the next list of sources names."""
        record = self.commands[f"{path}.json"] = self._named(f"results/{path}.json")
        return record

    def _row(self, path: str, title: str) -> dict[str, Any]:
        return next(row for row in self._named(f"results/{path}.json")["rows"] if row["title"] == title)

    def told(self, of: dict[str, Any]) -> str:
        """A difference with its interval, in points."""
        low, high = of["difference_interval"]
        return f"{100 * of['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"

    def ratio(self, path: str, name: str) -> float:
        """A ratio that the benchmark measured."""
        record = self._named(f"benchmarks/{path}.json")
        return next(one["value"] for one in record["ratios"] if one["name"] == name)

    def _named(self, path: str) -> dict[str, Any]:
        return json.loads((self.root / path).read_text())

    def claim(self, holds: bool, sentence: str) -> str:
        """The sentence, if the numbers bear it out.

        Raises:
            Contradicted: they do not.
        """
        if not holds:
            raise Contradicted(sentence)
        return sentence

    def forget(self) -> str:
        """Leave out of the next list of sources what was read so far: a section further down names it."""
        self.used.clear()
        return ""

    def sources(self) -> str:
        """Of each result file that the page has used so far, and not named yet, where its numbers come from."""
        lines = []
        for one in self.used.values():
            facts = one.record
            trained = facts["more"]["trained with"]
            lines.append(
                f"- [{one.path.relative_to(self.root / 'results').with_suffix('')}]"
                f"({one.path.relative_to(self.root)}): {facts['more']['steps']} steps, seed {facts['seed']}, trained "
                f"with {trained}; evaluated at commit {facts['commit']} in {facts['seconds']:.0f} s on "
                f"{facts['hardware']}, `{facts['command']}`"
            )
        lines += [
            f"- [{name}](results/{name}): {_seeds(record)}, summarised at commit {record['commit']}, "
            f"`{record['command']}`"
            for name, record in self.commands.items()
        ]
        self.used.clear()
        self.commands.clear()
        return "\n".join(["<details><summary>Where these numbers come from</summary>", "", *lines, "", "</details>"])


def _seeds(summary: dict[str, Any]) -> str:
    """Those of its rows, in words."""
    each = [row["seeds"] for row in summary["rows"]]
    told = ", ".join(map(str, sorted({seed for seeds in each for seed in seeds})))
    return f"seeds {told}" + ("" if all(seeds == each[0] for seeds in each) else " (some rows fewer)")


def share(row: Result, floor: Result, bound: Result, metric: str) -> float:
    """How much of what ``bound`` has more than ``floor`` the row has more."""
    return (row[metric] - floor[metric]) / (bound[metric] - floor[metric])


def share_told(of: dict[str, Any] | None) -> str:
    """A summary's share of the gain with its interval; nothing where the bound's own gain is not clear of 0."""
    return "" if of is None else f"{of['share']:.0%} [{', '.join(f'{100 * end:.0f}' for end in of['interval'])}]"


def cell(result: Result, column: str) -> str:
    """A number as tables show it: three digits without the zero before the point, times in whole milliseconds."""
    value = result[column]
    if value is None:
        return "n/a"
    return f"{value:.0f}" if column == MILLISECONDS else _short(value)


def spread(of: dict[str, Any]) -> str:
    """A mean over seeds and their standard deviation, where there are several."""
    return mean(of) if of.get("std") is None else f"{mean(of)} ± {_short(of['std'])}"


def mean(of: dict[str, Any]) -> str:
    """A mean over seeds, three digits without the zero before the point."""
    return "n/a" if of["mean"] is None else _short(of["mean"])


def _short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *lines])  # names are Markdown themselves


def interval(of: dict[str, Any]) -> str:
    """A difference with its interval, marked where that holds 0."""
    if of["difference"] is None:
        return "n/a"
    low, high = of["difference_interval"]
    return f"{'≈' if of['inside_noise'] else ''}{of['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"


def written(root: Path = ROOT) -> str:
    """The page."""
    pages = Environment(
        loader=FileSystemLoader(root / "docs"), undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True
    )
    page = Page(root)
    tools: dict[str, Callable[..., Any]] = {name: getattr(page, name) for name in vars(Page) if name[0] != "_"}
    return pages.get_template("results.md.j2").render(**tools)


def with_glance(readme: str, page: str) -> str:
    """The README with what the page has between its two marks."""
    start, end = MARKS
    if lacking := [mark for mark in MARKS if mark not in readme]:
        raise ValueError(f"README.md has lost its mark {lacking[0]}")
    return readme[: readme.index(start)] + page[page.index(start) : page.index(end)] + readme[readme.index(end) :]


def main() -> int:
    """Write RESULTS.md and the README's part of it, or with ``--check`` compare them."""
    page = written()
    texts = {ROOT / "RESULTS.md": page, ROOT / "README.md": with_glance((ROOT / "README.md").read_text(), page)}
    stale = [target for target, text in texts.items() if not (target.is_file() and target.read_text() == text)]
    if "--check" in sys.argv and stale:
        names = ", ".join(target.name for target in stale)
        print(f"{names}: not what the result files say: python docs/results.py", file=sys.stderr)
        return 1
    for target in stale:
        target.write_text(texts[target])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
