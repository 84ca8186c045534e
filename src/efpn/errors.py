"""The one error that a user can cause and mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SHOWN: Final = 20  # lines of one message; the rest are counted
ALIKE: Final = 3  # mistakes of one kind that are told in full; more are counted, with as many examples


class UserError(Exception):
    """Something the user gave (file, field, option) is wrong; the message, printed alone, says how to mend it.

    The process ends with status 2.
    """


class Pruned(Exception):
    """A job of a sweep has fallen behind the others and goes no further; says where. Its value is in its folder."""


class Interrupted(BaseException):
    """A signal has ended the run, in order; no error, so nothing that handles those handles it."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(number, message)
        self.number = number  # of the signal
        self.message = message  # what was saved, for a reader


@dataclass(frozen=True)
class Problem:
    """One mistake in what was given."""

    file: Path  # the file to mend
    record: str  # which record of it (image id, annotation id)
    what: str  # what is wrong
    fix: str  # how to mend it; mistakes that are mended alike are of one kind

    def __str__(self) -> str:
        return f"{self.file}: {self.record}: {self.what}; {self.fix}"


def nearest(word: object, known: Iterable[str]) -> str:
    """`` (did you mean ...?)`` with the ``known`` one that is nearest to a mistyped word; empty where none is near."""
    found = difflib.get_close_matches(str(word), list(known), 1)
    return f" (did you mean {found[0]}?)" if found else ""


def check_metrics(key: str, asked: Iterable[object], known: Sequence[str]) -> None:
    """Refuse what is none of the ``known`` metrics (raises `UserError`: which of those ``key`` has asked for)."""
    if unknown := [f"{name}{nearest(name, known)}" for name in asked if name not in known]:
        raise UserError(f"{key}: no metric {', '.join(unknown)}; choose from {', '.join(known)}")


def told(problems: Iterable[Problem]) -> list[str]:
    """Lines that tell all ``problems``, in the order of their first: many of one kind are one line with examples."""
    kinds: dict[str, list[Problem]] = {}
    for problem in problems:
        kinds.setdefault(problem.fix, []).append(problem)
    lines: list[str] = []
    for fix, alike in kinds.items():
        if len(alike) <= ALIKE:
            lines += map(str, alike)
            continue
        one_file = len({problem.file for problem in alike}) == 1
        examples = [f"{p.record}: {p.what}" if one_file else f"{p.file}: {p.record}: {p.what}" for p in alike[:ALIKE]]
        start = f"{alike[0].file}: " if one_file else ""
        lines.append(f"{start}{len(alike)} times, such as {', '.join(examples)}; {fix}")
    return lines


def raise_problems(where: str, problems: Iterable[Problem], last: str | None = None) -> None:
    """Raise one `UserError` that tells all ``problems`` of ``where``, and ``last`` below; nothing without any."""
    problems = list(problems)
    raise_listed(where, told(problems), len(problems), last)


def raise_listed(where: str, faults: Sequence[str], count: int | None = None, last: str | None = None) -> None:
    """Raise one `UserError` for all ``faults`` found in ``where``, the first 20 in full; nothing without any.

    ``count`` is of what the lines tell, if some tell of several; ``last`` stands below them.
    """
    if not faults:
        return
    count = count or len(faults)
    lines = [f"  {fault}" for fault in faults[:SHOWN]]
    if len(faults) > SHOWN:
        lines.append(f"  and {len(faults) - SHOWN} more")
    if last:
        lines.append(last)
    raise UserError("\n".join([f"{where}: {count} {'problem' if count == 1 else 'problems'}", *lines]))
