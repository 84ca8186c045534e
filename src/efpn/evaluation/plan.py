"""What an evaluation is made of, before anything is read: the rows to be, their places, what stands beside them."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from efpn.errors import UserError
from efpn.evaluation.cost import equal_cost_scales
from efpn.evaluation.rows import METRICS, label
from efpn.evaluation.variants import OWN, Variant, find_variants
from efpn.runs.saved import SavedRun, row_names

log = logging.getLogger(__name__)


class Job(NamedTuple):
    """What becomes one row: a finished phase and a way to detect with it, or a result file of any detector."""

    name: str  # of the row, no two alike
    folder: Path  # of its report
    source: tuple[SavedRun, Variant] | Path  # the phase and the way, or the file


@dataclass(frozen=True)
class Plan:
    """All of an evaluation."""

    jobs: Sequence[Job]  # the rows to be, in order
    before: Sequence[Path]  # reports of the same runs from before, which stand above them in the comparison
    comparison: Path  # its files, without the ending
    report: Path  # folder of the figures of all rows and of the page
    called: str  # what the evaluation goes by

    @property
    def runs(self) -> list[SavedRun]:
        """The finished phases that are evaluated."""
        return list(dict.fromkeys(job.source[0] for job in self.jobs if isinstance(job.source, tuple)))

    @property
    def configs(self) -> dict[str, Path]:
        """Name of a row to the folder that holds its run's config."""
        return {job.name: job.source[0].folder for job in self.jobs if isinstance(job.source, tuple)}


def plan_file(cfg: DictConfig, runs: Sequence[SavedRun]) -> Plan:
    """Of ``cfg.detections``, beside the reports of the runs whose data it is scored on.

    Raises:
        UserError: something is asked for that a file has not.
    """
    if cfg.variant != OWN or cfg.model or cfg.detail or cfg.called:
        raise UserError("detections=FILE is scored as it is: variant, table, detail and model belong to a run")
    if cfg.limit is not None or (cfg.data_root and cfg.get("data")):
        raise UserError("detections=FILE is scored whole, on data.root=FOLDER: drop limit and data_root")
    source = Path(cfg.detections)
    name = source.stem if cfg.name is None else str(cfg.name)
    out = Path(cfg.out) if cfg.out else source.parent / f"{name}-{cfg.split}"
    before = [] if cfg.out else _written(cfg, runs)
    return Plan([Job(name, out, source)], before, out / "comparison", out, label(cfg, name))


def plan_runs(cfg: DictConfig, runs: Sequence[SavedRun]) -> Plan:
    """Of each run, each of the variants that fit it.

    Raises:
        UserError: a variant is unknown or fits none of the runs, or two rows would go to one place.
    """
    variants = find_variants(cfg.variant, cfg.scales, equal_cost_scales(cfg, runs))
    for variant in variants:
        if not any(variant.needs.met_by(run) for run in runs):
            raise UserError(f"variant={variant.name}: needs {variant.needs.kind}; add one to run=")
    chosen = [(run, variant) for run in runs for variant in variants if variant.needs.met_by(run)]
    used = list(dict.fromkeys(run for run, _ in chosen))
    if left_out := ", ".join(run.name for run in runs if run not in used):
        log.info("left out, since variant=%s does not fit: %s", ",".join(v.name for v in variants), left_out)
    names = dict(zip(used, row_names(used), strict=True))
    jobs = []
    for run, variant in chosen:
        name = names[run] if variant.name == OWN else f"{names[run]} {variant.name}"
        jobs.append(Job(name, row_folder(cfg, run, variant.name, alone=len(chosen) == 1), (run, variant)))
    if len({job.folder for job in jobs}) < len(jobs):
        raise UserError(f"out={cfg.out}: two of the runs have the same name, seed and phase; evaluate them one by one")
    ways = dict.fromkeys(variant for _, variant in chosen)
    # the runs as they are stand beside other variants of them; a table of the paper has its own rows alone
    beside = not (cfg.out or cfg.called or OWN in [variant.name for variant in ways])
    before = _written(cfg, used) if beside else []
    marks = [variant.marks for variant in ways if variant.marks]
    called = label(cfg, "-".join([cfg.called, *marks]) if cfg.called else "+".join(variant.name for variant in ways))
    place = Path(cfg.out or os.path.commonpath([run.folder.parent for run in used]))
    return Plan(jobs, before, place / f"comparison-{called}", place / f"report-{called}", called)


def row_folder(cfg: DictConfig, run: SavedRun, variant: str, alone: bool = True) -> Path:
    """Where the report of a run goes: beside its weights, or under ``out``, where it may have to share."""
    if not cfg.out:
        return run.folder / "eval" / label(cfg, variant)
    return Path(cfg.out) if alone else Path(cfg.out, run.place, "" if variant == OWN else variant)


def _written(cfg: DictConfig, runs: Sequence[SavedRun]) -> list[Path]:
    """The reports of runs as they are that are there already."""
    return [folder for run in runs if ((folder := row_folder(cfg, run, OWN)) / METRICS).is_file()]
