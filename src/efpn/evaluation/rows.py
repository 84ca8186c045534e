"""The rows of tables: what each of them is, under which terms it was measured, and its numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Final

from omegaconf import DictConfig

from efpn.errors import UserError
from efpn.evaluation.variants import OWN
from efpn.given import shown
from efpn.metrics.evaluation import Evaluation
from efpn.metrics.resample import BEST
from efpn.runs.files import read_json

METRICS: Final = "metrics.json"
LAST: Final = ("steps", "trained with", "detections")  # facts that go into a name where no other tells rows apart
PLAIN: Final = (OWN, "nothing", "none")  # facts that go without saying


@dataclass(frozen=True)
class Row:
    """One row of a table: of an evaluation just made, or of an earlier one by what it has written."""

    name: str  # in the table, where no other row bears it
    record: Mapping[str, Any]  # the contents of its metrics.json; what it does not say is not compared
    source: Path  # that file

    @classmethod
    def of(cls, evaluation: Evaluation) -> Row:
        """The row of an evaluation just made."""
        return cls(evaluation.name, evaluation.record, evaluation.folder / METRICS)

    @property
    def metrics(self) -> Mapping[str, float | None]:
        """Flat, None for what does not exist."""
        return self.record["metrics"]

    def value(self, name: str) -> float | None:
        """A metric, ``best_`` before its name at the threshold of best F1; None where there is none."""
        at_best = self.record.get("metrics_at_best_f1") or {}
        return at_best.get(name.removeprefix(BEST)) if name.startswith(BEST) else self.metrics.get(name)

    @property
    def identity(self) -> dict[str, Any]:
        """What was evaluated: the seed, phase, variant, size of the input, what was changed in the model ..."""
        return {"seed": self.record.get("seed"), **(self.record.get("more") or {})}

    @property
    def milliseconds(self) -> float | None:
        """That an image takes, where it was measured."""
        seconds = self.record.get("seconds_per_image")
        return None if seconds is None else 1000 * seconds

    @property
    def line(self) -> tuple[str, ...] | None:
        """Which plain FPN this is, whatever the size of its images: its phase first; None of all others."""
        variant = str(self.identity.get("variant", OWN))
        if self.identity.get("small RoIs") != "none" or not (variant == OWN or variant.startswith("fpn_scaled")):
            return None
        return tuple(str(self.identity.get(key)) for key in ("phase", "trained with", "seed", "changed in the model"))

    @property
    def phase(self) -> str | None:
        """Of the run, if it is one of our own, detecting as it was trained."""
        return self.identity.get("phase") if self.identity.get("variant", OWN) == OWN else None

    @property
    def terms(self) -> dict[str, Any]:
        """Split and rules; two rows compare only where these agree. What a record does not say is left out."""
        found = {term: self.record.get(term) for term in ("split", "rules", "objects", "classes")}
        found["threshold"] = self.record.get("thresholds", {}).get("fixed")
        return {term: value for term, value in found.items() if value is not None}


def quick_note(rows: Iterable[Row]) -> str:
    """What to say where any row is of a ``+quick=yes`` run; else nothing."""
    told = "There are rows of quick runs, which show that all works: the numbers of these mean nothing."
    return told if any("quick" in row.identity for row in rows) else ""


def load_row(path: Path) -> Row:
    """Read an evaluation's folder, or its ``metrics.json`` (raises `UserError`: missing, or without metrics)."""
    file = path / METRICS if path.is_dir() else path
    record = read_json(file)
    if not isinstance(record, dict) or not isinstance(record.get("metrics"), dict):
        raise UserError(f"{file}: no 'metrics' in it; expected what evaluate.py writes as metrics.json")
    return Row(record.get("name") or str(path), record, file)


def load_rows(paths: Iterable[Path]) -> list[Row]:
    """Read several evaluations that may be compared; raises as `load_row` and `comparable`."""
    return comparable([load_row(path) for path in paths])


def comparable(rows: Sequence[Row]) -> list[Row]:
    """The rows under names that tell them apart (raises `UserError`: none, or two measured under different terms)."""
    if not rows:
        raise UserError("nothing to compare: name at least one evaluation's folder with a metrics.json")
    for one, other in combinations(rows, 2):  # a row that does not say a term compares with any
        if differs := difference(one, other):
            raise UserError(f"{one.source} and {other.source} cannot be compared: {differs}; evaluate both alike")
    return told_apart(rows)


def difference(one: Row, other: Row) -> str:
    """In which of their terms two rows differ, in words; empty where they compare."""
    for term, mine in one.terms.items():
        if (theirs := other.terms.get(term, mine)) != mine:
            if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
                key = next(key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key))
                mine, theirs = ({key: of.get(key)} for of in (mine, theirs))
            return f"{term} differ ({shown(mine)} and {shown(theirs)})"
    return ""


def told_apart(rows: Sequence[Row]) -> list[Row]:
    """Rows of one name get what they differ in behind it: their identity, and where that is alike the file's place."""
    keys, names = dict.fromkeys(key for row in rows for key in row.identity), [row.name for row in rows]
    for chosen in ([key for key in keys if key not in LAST], [key for key in keys if key in LAST]):
        alike = [[other for other, its in zip(rows, names, strict=True) if its == name] for name in names]
        each = zip(names, rows, alike, strict=True)
        names = [" ".join([name, *_differing(row, others, chosen)]) for name, row, others in each]
    places = [row.source.parent if row.source.name == METRICS else row.source for row in rows]
    return [
        replace(row, name=f"{name} ({place})" if names.count(name) > 1 else name)
        for row, name, place in zip(rows, names, places, strict=True)
    ]


def _differing(row: Row, alike: Sequence[Row], keys: Sequence[str]) -> Iterator[str]:
    """Words for the parts of the row's identity that are others in the rows ``alike``."""
    for key in keys:
        mine = row.identity.get(key)
        if mine not in (None, *PLAIN) and any(other.identity.get(key) != mine for other in alike):
            yield f"seed{mine}" if key == "seed" else f"{key} {mine}" if key in LAST else str(mine)


def changed(model: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """``rpn.score_thresh-0.05`` for each value that is changed in the model."""
    for key, value in model.items():
        if isinstance(value, Mapping | DictConfig):
            yield from changed(value, f"{prefix}{key}.")
        else:
            yield re.sub(r"[^\w.+-]+", "-", f"{prefix}{key}-{value}")  # it becomes a part of a file's name


def label(cfg: DictConfig, called: str) -> str:
    """What an evaluation is called by: the split, and all that differs from a run's own setting."""
    marks = [
        cfg.split,
        "" if called == OWN else called,
        f"{cfg.short_side}px" if cfg.short_side else "",
        cfg.detail._target_.rpartition(".")[-1].lower() if cfg.detail else "",
        f"below{cfg.small_roi_below}" if cfg.small_roi_below else "",
        f"limit{cfg.limit}" if cfg.limit else "",
        *changed(cfg.model),
    ]
    return "-".join(mark for mark in marks if mark)
