"""Ratios of what was measured, and the targets that they are held against; absolute numbers do not carry over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any


def seconds(record: Mapping[str, Any]) -> float | None:
    """Median time."""
    return record["seconds"]["median"]


def peak(record: Mapping[str, Any]) -> float | None:
    """Peak memory above the weights, if it was measured."""
    return record["peak_bytes"]


@dataclass(frozen=True)
class Ratio:
    """One quotient.

    Attributes:
        name: for people.
        of: name of the numerator among what was measured.
        to: of the denominator.
        what: reads the number from a record.
        target: that the ratio may not pass; None where there is none.
    """

    name: str
    of: str
    to: str
    what: Callable[[Mapping[str, Any]], float | None] = seconds
    target: float | None = None

    def evaluate(self, measured: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
        """``name, value, target, met``; None if one of the two was not measured."""
        if not {self.of, self.to} <= set(measured):
            return None
        above, below = self.what(measured[self.of]), self.what(measured[self.to])
        if above is None or not below:
            return None
        value = above / below
        return {
            "name": self.name,
            "value": value,
            "target": self.target,
            "met": None if self.target is None else value <= self.target,
        }


def evaluate(ratios: Iterable[Ratio], measured: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """All ratios whose two sides were measured."""
    return [found for ratio in ratios if (found := ratio.evaluate(measured)) is not None]
