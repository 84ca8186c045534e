"""Words of the command line that are more than a number: sizes, devices, lists."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from efpn.errors import UserError


def read_size(text: str) -> tuple[int, int]:
    """``700`` or ``700x1000`` as height and width.

    Raises:
        UserError: it is neither, or under 32 px.
    """
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdigit() for part in parts) or min(map(int, parts)) < 32:
        raise UserError(f"--size={text}: must be pixels, at least 32, or HEIGHTxWIDTH such as 700x1000")
    return int(parts[0]), int(parts[-1])


def read_device(text: str) -> torch.device:
    """A device that is there.

    Raises:
        UserError: no such device.
    """
    try:
        device = torch.device(text)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):  # what torch raises depends on how it was built
        raise UserError(f"--device={text}: not to be had here; use cpu, or cuda where there is a GPU") from None
    return device


def choose(option: str, text: str | None, known: Sequence[str]) -> list[str]:
    """The names of a list with commas, in the order of ``known``; all of them without a text.

    Raises:
        UserError: a name that is not known, or none at all.
    """
    if text is None:
        return list(known)
    asked = [name.strip() for name in text.split(",") if name.strip()]
    strange = [name for name in asked if name not in known]
    if strange or not asked:
        raise UserError(f"{option}={text}: unknown {', '.join(strange) or 'list'}; choose from {', '.join(known)}")
    return [name for name in known if name in asked]


def whole_numbers(option: str, text: str) -> list[int]:
    """The numbers of a list with commas, each from 0 up, in order and without repetition.

    Raises:
        UserError: something else.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in parts):
        raise UserError(f"{option}={text}: must be whole numbers with commas, such as 0,1,2")
    return sorted({int(part) for part in parts})
