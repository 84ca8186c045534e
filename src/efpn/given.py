"""What users give: reading a JSON file, and whether a value or a table of boxes is what it has to be. No torch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final, TypeGuard

import numpy as np

from efpn.errors import UserError

LARGEST_ID: Final = 2**53  # beyond it, a whole number changes on its way through a float
SLACK: Final = 1.0  # pixels that a box may hang over its image's edge without looking wrong


def load_json(path: Path, fix: str, *, kind: str = "", missing: str | None = None) -> Any:
    """The content of a JSON file (raises `UserError`: none, or not to be read, or not JSON).

    ``kind`` stands before its path in messages, ``fix`` says how to come by a sound one, ``missing`` by one at all.
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


def require_width_and_height(boxes: np.ndarray, images: np.ndarray, source: object) -> None:
    """Refuse boxes ``(n, 4)`` given as x1, y1, x2, y2 where x, y, width, height are due (raises `UserError`).

    Beside them stand width and height of the image of each ``(n, 2)``, in the same pixels. They are refused
    where more than a fifth reach beyond their images as x, y, width, height, and practically all fit as corners.
    """
    over = (boxes[:, :2] + boxes[:, 2:] > images + SLACK).any(axis=1)
    fit = (boxes[:, 2:] >= boxes[:, :2]).all(axis=1) & (boxes[:, 2:] <= images + SLACK).all(axis=1)
    if len(boxes) and fit.mean() > 0.99 and over.mean() > 0.2:
        first = int(np.flatnonzero(over)[0])
        raise UserError(
            f"{source}: {int(over.sum())} of {len(boxes)} boxes reach beyond their images, such as "
            f"{boxes[first].tolist()} in one of {images[first, 0]:g} x {images[first, 1]:g} pixels: they look like "
            "corners (x1, y1, x2, y2); give x, y, width, height"
        )
