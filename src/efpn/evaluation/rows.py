"""What an evaluation is made of: its rows (a finished phase, and a way to detect with it), and where they go."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from efpn.errors import UserError
from efpn.evaluation.report import METRICS
from efpn.evaluation.variants import OWN, Variant
from efpn.runs.saved import SavedRun, row_names

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """One row of a comparison.

    Attributes:
        run: the finished phase.
        variant: how to detect with it.
        name: in tables and figures; no two alike.
        folder: of its report.
    """

    run: SavedRun
    variant: Variant
    name: str
    folder: Path


def plan_rows(cfg: DictConfig, runs: Sequence[SavedRun], variants: Sequence[Variant]) -> list[Row]:
    """All rows: of each run, each of the variants that fit it.

    Raises:
        UserError: a variant fits none of the runs, or two rows would go to one place.
    """
    for variant in variants:
        if not any(_fits(variant, run) for run in runs):
            raise UserError(f"variant={variant.name}: needs {variant.needs.kind}; add one to run=")
    chosen = [(run, variant) for run in runs for variant in variants if _fits(variant, run)]
    used = list(dict.fromkeys(run for run, _ in chosen))
    if left_out := ", ".join(run.name for run in runs if run not in used):
        log.info("left out, since variant=%s does not fit: %s", ",".join(v.name for v in variants), left_out)
    names = dict(zip(used, row_names(used), strict=True))
    rows = [
        Row(run, variant, _row_name(names[run], variant), row_folder(cfg, run, variant.name, alone=len(chosen) == 1))
        for run, variant in chosen
    ]
    if len({row.folder for row in rows}) < len(rows):
        raise UserError(f"out={cfg.out}: two of the runs have the same name, seed and phase; evaluate them one by one")
    return rows


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


def changed(model: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """``rpn.score_thresh-0.05`` for each value that is changed in the model."""
    for key, value in model.items():
        if isinstance(value, Mapping | DictConfig):
            yield from changed(value, f"{prefix}{key}.")
        else:
            yield re.sub(r"[^\w.+-]+", "-", f"{prefix}{key}-{value}")  # it becomes a part of a file's name


def row_folder(cfg: DictConfig, run: SavedRun, variant: str, alone: bool = True) -> Path:
    """Where the report of a run goes: beside its weights, or under ``out``, where it may have to share."""
    if not cfg.out:
        return run.folder / "eval" / label(cfg, variant)
    return Path(cfg.out) if alone else Path(cfg.out, run.place, "" if variant == OWN else variant)


def own_rows(cfg: DictConfig, rows: Sequence[Row]) -> list[Path]:
    """Reports of the runs as they are, from before, to stand beside other variants; none in a table of the paper."""
    if cfg.out or cfg.called or any(row.variant.name == OWN for row in rows):
        return []
    folders = [row_folder(cfg, run, OWN) for run in dict.fromkeys(row.run for row in rows)]
    return [folder for folder in folders if (folder / METRICS).is_file()]


def together(cfg: DictConfig, rows: Sequence[Row]) -> tuple[Path, str]:
    """The folder of what shows all rows, and what it is called there."""
    place = Path(cfg.out or os.path.commonpath([row.run.folder.parent for row in rows]))
    names = dict.fromkeys(row.variant.name for row in rows)
    marks = dict.fromkeys(row.variant.marks for row in rows if row.variant.marks)
    return place, label(cfg, "-".join([cfg.called, *marks]) if cfg.called else "+".join(names))


def _fits(variant: Variant, run: SavedRun) -> bool:
    return variant.needs.fits(run.config.phases[run.phase].model)


def _row_name(run: str, variant: Variant) -> str:
    return run if variant.name == OWN else f"{run} {variant.name}"
