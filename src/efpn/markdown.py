"""Tables and lists in Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

MISSING: Final = "n/a"

# What would be read as markup: some characters anywhere, others at the edge of a word, or before what makes them a tag,
# an entity or the end of a link.
MARKUP: Final = re.compile(r"[\\`*|~$]|(?<![^\W_])_|_(?![^\W_])|<(?=[A-Za-z/!?])|&(?=#?\w+;)|\](?=[(\[:])")


def escaped(text: object) -> str:
    """A name or value as Markdown that shows it letter by letter, in one line."""
    return MARKUP.sub(r"\\\g<0>", " ".join(str(text).split()))


def as_code(text: str) -> str:
    """A command as Markdown code, whatever backticks there are in it."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{' '.join(text.splitlines())}{pad}{fence}"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of plain texts, first column to the left, the others to the right."""
    lines = [[escaped(cell) for cell in line] for line in (head, *rows)]
    lines.insert(1, ["---"] + ["---:"] * (len(head) - 1))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fact_list(facts: Mapping[str, Any], missing: str = MISSING) -> str:
    """A Markdown list of facts; the command as code."""
    lines = []
    for key, value in facts.items():
        said = missing if value is None else as_code(value) if key == "command" and value else escaped(value)
        lines.append(f"- {escaped(key.replace('_', ' '))}: {said}")
    return "\n".join(lines)


def number(value: float | None, digits: int = 3) -> str:
    """A metric for people; what does not exist is ``n/a``."""
    return MISSING if value is None or not math.isfinite(value) else f"{value:.{digits}f}"
