"""A summary of a sweep in every form: terminal, Markdown, CSV, LaTeX, JSON and a figure."""

from __future__ import annotations

import csv
import io
import logging
import math
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from omegaconf import DictConfig

from efpn.evaluation.compare import said_sizes
from efpn.evaluation.rows import Row, quick_note
from efpn.figures.curves import interval_dots
from efpn.figures.sheet import save
from efpn.markdown import MISSING, escaped, fact_list, markdown_table, number
from efpn.provenance import command_line, own_commit
from efpn.runs.files import write_json, write_text

log = logging.getLogger(__name__)
Line = Mapping[str, Any]  # a row: name, title, seeds, paired, chosen, and by column what `statistics` gives
NOISE, CHOSEN = "≈", "*"
SIZES: Final = {"S": "Small", "M": "Medium", "L": "Large"}
LATEX: Final = str.maketrans(  # of titles; numbers are written as LaTeX
    {one: f"\\{one}" for one in "&%$#_{}"}
    | {"'": "$'$"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\^{}"}
)


def write_summary(
    cfg: DictConfig, lines: Sequence[Line], reference: str, evaluations: Sequence[Row], lacking: Sequence[str]
) -> Path:
    """Print the tables and write ``summary.md``, ``.csv``, ``.tex``, ``.json`` and ``.png``; returns their folder.

    ``lacking`` names what is left out, and why.
    """
    asked = [cfg.called, cfg.reference and f"to-{cfg.reference.replace('/', '-')}"]
    folder = Path(cfg.sweep) / "-".join(["summary", cfg.split, *filter(None, asked)])
    columns, split = list(cfg.columns), evaluations[0].record["split"]
    titles = [f"{line['title']} {CHOSEN}" if line["chosen"] else line["title"] for line in lines]
    head, means, gains, shares = ["", "seeds", *columns], [], [], []
    for title, line in zip(titles, lines, strict=True):
        cells = [line["columns"][column] for column in columns]
        means.append([title, str(len(line["seeds"])), *map(_mean, cells)])
        if line["paired"]:
            gains.append([title, str(len(line["paired"])), *map(_gain, cells)])
        for bound, by_column in line["shares"].items():
            shares.append([title, bound, *(_share(by_column.get(column)) for column in columns)])

    name = f"{Path(cfg.sweep).resolve().name} on {split}"
    warnings = _warnings(cfg, lines, evaluations, lacking)
    notes = [*warnings, *_notes(cfg, lines, evaluations)]
    facts = {"command": command_line(), "commit": own_commit()}
    parts = [f"# {escaped(name)}", markdown_table(head, means)]
    if gains:
        parts += [f"## {escaped(f'Difference to {reference}')}", markdown_table(head, gains)]
    if shares:
        parts += ["## Share of the gain", markdown_table(["", "of", *columns], shares)]
    text = "\n\n".join([*parts, " ".join(notes), fact_list(facts)]) + "\n"
    print(text)
    write_text(folder / "summary.md", text)
    file = io.StringIO()
    head_of_all, long = long_table(lines)
    csv.writer(file, lineterminator="\n").writerows([head_of_all, *long])
    write_text(folder / "summary.csv", file.getvalue())
    comments = "".join(f"% {warning}\n" for warning in warnings)
    write_text(folder / "summary.tex", comments + _latex(lines, titles, columns, reference))
    record = {"split": split, "columns": columns, "reference": reference, "rows": lines, "notes": notes, **facts}
    write_json(folder / "summary.json", record, indent=2)
    dots = {
        column: [(line["columns"][column]["mean"], *line["columns"][column]["interval"]) for line in lines]
        for column in columns
    }
    noise = {column: [bool(line["columns"][column].get("inside_noise")) for line in lines] for column in columns}
    said = f"{name} (○: not told apart from {reference})" if any(map(any, noise.values())) else name
    save(interval_dots(titles, dots, noise, title=said), folder / "summary.png")
    log.info("summary: %s", folder)
    return folder


def _warnings(cfg: DictConfig, lines: Sequence[Line], evaluations: Sequence[Row], lacking: Sequence[str]) -> list[str]:
    """Why the tables are not to be quoted, in sentences."""
    warnings = [note] if (note := quick_note(evaluations)) else []
    if lacking:
        warnings.append(f"Incomplete, as these are left out: {'; '.join(lacking)}.")
    if cfg.choose and not any(line["chosen"] for line in lines):
        why = "rows are left out" if lacking else "not all rows are evaluated on the validation split"
        warnings.append(f"Nothing is chosen by {cfg.choose}: {why}.")
    return warnings


def _notes(cfg: DictConfig, lines: Sequence[Line], evaluations: Sequence[Row]) -> list[str]:
    """How to read the tables, in sentences."""
    most = max(len(line["seeds"]) for line in lines)
    what = "images alone, as there is one seed: what another seed would change is not in them"
    if most > 1:
        what = "seeds and images"
    notes = [
        "Mean ± standard deviation over seeds.",
        f"In brackets 95 % intervals: {cfg.resamples} resamples of {what}. Differences are paired by seed and image.",
        f"{NOISE}: the interval holds 0, inside the noise.",
    ]
    if 1 < most < 5:
        notes.append("Of so few seeds such an interval is rather too narrow.")
    if most > 1 and any(len(line["paired"]) == 1 for line in lines):
        notes.append("A difference of one seed is resampled over images alone.")
    if any(line["shares"] for line in lines):
        notes.append(
            "Share of the gain: (row - control head) / (bound - control head), means over the seeds that all three "
            "have, where the bound's own gain is clear of 0."
        )
    if any(line["chosen"] for line in lines):
        notes.append(f"{CHOSEN}: best {cfg.choose} on the validation split.")
    return [*notes, said_sizes(evaluations)]


def _mean(cell: Mapping[str, Any]) -> str:
    """``0.412 ± 0.006``."""
    return f"{number(cell['mean'])} ± {number(cell['std'])}" if math.isfinite(cell["std"]) else number(cell["mean"])


def _gain(cell: Mapping[str, Any]) -> str:
    """``+0.012 [+0.003, +0.020]``."""
    if not math.isfinite(cell["difference"]):
        return MISSING
    low, high = cell["difference_interval"]
    return f"{NOISE if cell['inside_noise'] else ''}{cell['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"


def _share(of: Mapping[str, Any] | None) -> str:
    """``73 % [51, 96]``."""
    if of is None:
        return MISSING
    return f"{100 * of['share']:.0f} % [{', '.join(f'{100 * end:.0f}' for end in of['interval'])}]"


def long_table(lines: Sequence[Line]) -> tuple[list[str], list[list[Any]]]:
    """The head, and a line for each row and column, in full precision; None where there is no number."""
    limits = ("low", "high", "difference", "difference_low", "difference_high", "inside_noise", "chosen")
    table = []
    for line in lines:
        for column, cell in line["columns"].items():
            gain = [cell.get("difference"), *cell.get("difference_interval", (None, None)), cell.get("inside_noise")]
            numbers = [cell["mean"], cell["std"], *cell["interval"], *gain]
            said = [None if isinstance(one, float) and math.isnan(one) else one for one in numbers]
            table.append([line["name"], line["title"], column, len(line["seeds"]), *said, line["chosen"]])
    return ["row", "title", "column", "n", "mean", "std", *limits], table


def latex_table(titles: Sequence[str], cells: Sequence[Sequence[str]], columns: Sequence[str]) -> str:
    """A table in the manner of booktabs, in percent; the sizes of COCO and TT100K stand above their columns."""
    sized = [re.fullmatch(r"(\w+)_([SML])", column) for column in columns]
    sizes = [SIZES[one[2]] if one else "" for one in sized]
    over, rules, place = [], [], 2
    for size, group in groupby(sizes):
        span = len(list(group))
        over.append(rf"\multicolumn{{{span}}}{{c}}{{{size}}}")
        rules += [rf"\cmidrule(lr){{{place}-{place + span - 1}}}"] if size else []
        place += span
    above = [" & ".join(["", *over]) + r" \\", " ".join(rules)] if rules else []
    names = [(one[1] if one else column).translate(LATEX) for one, column in zip(sized, columns, strict=True)]
    rows = [[title.translate(LATEX), *line] for title, line in zip(titles, cells, strict=True)]
    head, *body = (" & ".join(line) + r" \\" for line in (["", *names], *rows))
    start = [r"\begin{tabular}{l" + "r" * len(columns) + "}", r"\toprule", *above, head, r"\midrule"]
    return "\n".join([*start, *body, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _latex(lines: Sequence[Line], titles: Sequence[str], columns: Sequence[str], reference: str) -> str:
    """The means, and below them the differences with their intervals; above each, as a comment, what it is of."""

    def mean(cell: Mapping[str, Any]) -> str:
        spread = rf" \pm {100 * cell['std']:.1f}" if math.isfinite(cell["std"]) else ""
        return f"${100 * cell['mean']:.1f}{spread}$" if math.isfinite(cell["mean"]) else "--"

    def gain(cell: Mapping[str, Any]) -> str:
        if not math.isfinite(cell["difference"]):
            return "--"
        low, high = (100 * end for end in cell["difference_interval"])
        about = r"\approx " if cell["inside_noise"] else ""
        interval = rf"\scriptsize$[{low:+.1f}, {high:+.1f}]$"
        return rf"\shortstack[r]{{${about}{100 * cell['difference']:+.1f}$\\{interval}}}"

    def counted(key: str) -> str:
        counts = sorted({len(line[key]) for line in lines} - {0})
        return f"{' or '.join(map(str, counts))} seed{'s' if counts[-1] > 1 else ''}"

    paired = [(title, line) for title, line in zip(titles, lines, strict=True) if line["paired"]]
    cells = [[mean(line["columns"][one]) for one in columns] for line in lines]
    tables = [f"% mean and standard deviation, {counted('seeds')}\n{latex_table(titles, cells, columns)}"]
    if paired:
        cells = [[gain(line["columns"][one]) for one in columns] for _, line in paired]
        table = latex_table([title for title, _ in paired], cells, columns)
        tables.append(f"% difference to {reference}, 95 % interval, {counted('paired')}\n{table}")
    return "\n".join(tables)
