"""The one error that a user can cause and mend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

SHOWN: Final = 20  # mistakes listed in full in one message; the rest are counted


class UserError(Exception):
    """Something the user gave (file, field, option) is wrong; the message names it and says how to mend it.

    The command-line entries print it without a traceback and exit with status 2.
    """


class Interrupted(BaseException):
    """A signal has ended the run, in order; no error, so nothing that handles those handles it.

    Args:
        number: of the signal.
        message: what was saved, for a reader.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(number, message)
        self.number = number
        self.message = message


def require_count(option: str, value: Any, least: int) -> None:
    """Raise `UserError` if ``value`` is no whole number from ``least`` on."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{option}={value}: must be a whole number, at least {least}")


def require_share(option: str, value: Any) -> None:
    """Raise `UserError` if ``value`` is no number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UserError(f"{option}={value}: must be a number from 0 to 1")


def raise_listed(where: str, faults: Sequence[str]) -> None:
    """Raise one `UserError` for all ``faults`` found in ``where``, the first 20 in full; nothing without any."""
    if not faults:
        return
    lines = [f"  {fault}" for fault in faults[:SHOWN]]
    if len(faults) > SHOWN:
        lines.append(f"  and {len(faults) - SHOWN} more")
    count = "1 problem" if len(faults) == 1 else f"{len(faults)} problems"
    raise UserError("\n".join([f"{where}: {count}", *lines]))
