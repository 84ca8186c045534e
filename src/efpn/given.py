"""What users give as JSON: reading a file, and whether a value in it is what it has to be. No torch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final, TypeGuard

from efpn.errors import UserError

LARGEST_ID: Final = 2**53  # beyond it, a whole number changes on its way through a float


def load_json(path: Path, fix: str, *, kind: str = "", missing: str | None = None) -> Any:
    """The content of a JSON file.

    Args:
        path: of the file.
        fix: how to come by a sound one.
        kind: word before the path in messages.
        missing: what to do where there is no file at all, if something else.

    Raises:
        UserError: no file, a folder, not to be read, not UTF-8, not JSON, nested deeper than can be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        fault, fix = "no such file", missing or fix
    except OSError as error:
        fault = f"cannot be read ({error.strerror})"
    except RecursionError:
        fault = "not a JSON file of ours (nested too deeply)"
    except json.JSONDecodeError as error:
        fault = f"not a JSON file (line {error.lineno}, column {error.colno}: {error.msg})"
    except ValueError as error:  # no UTF-8, or a number of thousands of digits
        fault = f"not a JSON file ({error})"
    raise UserError(f"{kind} {path}: {fault}; {fix}".lstrip())


def is_id(value: Any) -> TypeGuard[int]:
    """Whether it is a whole number that can be an id."""
    return isinstance(value, int) and not isinstance(value, bool) and -LARGEST_ID <= value <= LARGEST_ID


def is_number(value: Any) -> TypeGuard[float]:
    """Whether it is a number, finite and within the range of floats; true and false are none."""
    finite = isinstance(value, int | float) and -sys.float_info.max <= value <= sys.float_info.max
    return finite and not isinstance(value, bool)


def shown(value: Any) -> str:
    """The value for a message, cut where it is long."""
    if isinstance(value, int) and abs(value) > 10**40:
        return "a number of more than 40 digits"  # Python refuses to write the largest
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
