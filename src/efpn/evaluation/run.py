"""Evaluating finished phases, or a result file of any detector: plan, detect or read, score, and show in every form."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from efpn.data.images import read_image
from efpn.data.tt100k import TT100K
from efpn.errors import UserError, check_metrics
from efpn.evaluation.compare import show
from efpn.evaluation.cost import equal_cost_scales, seconds_per_image
from efpn.evaluation.detect import detect, read_file
from efpn.evaluation.features import draw_features, with_extension
from efpn.evaluation.report import Drawn, draw_costs, draw_row, draw_together, keep, write_html, write_row
from efpn.evaluation.rows import METRICS, Row, comparable, difference, label, load_row
from efpn.evaluation.tracking import start_tracking, track
from efpn.evaluation.variants import OWN, Variant, find_variants
from efpn.metrics.coco import restrict
from efpn.metrics.evaluation import Evaluation
from efpn.metrics.score import metric_names
from efpn.provenance import command_line, hardware, own_commit
from efpn.ranges import EVALUATE, check_values, one_device
from efpn.runs.files import require_place
from efpn.runs.rebuild import first_process
from efpn.runs.saved import SavedRun, broken_lineage, row_names

log = logging.getLogger(__name__)


class Job(NamedTuple):
    """What becomes one row: a finished phase and a way to detect with it, or a result file of any detector."""

    name: str  # of the row, no two alike
    folder: Path  # of its report
    source: tuple[SavedRun, Variant] | Path  # the phase and the way, or the file


class Plan(NamedTuple):
    """What an evaluation is made of, before anything is read."""

    jobs: Sequence[Job]  # the rows to be, in order
    before: Sequence[Path]  # reports of the same runs from before, which stand above them in the comparison
    comparison: Path  # its files, without the ending
    report: Path  # folder of the figures of all rows and of the page
    called: str  # what the evaluation goes by


def evaluate(cfg: DictConfig, runs: list[SavedRun]) -> list[Row]:
    """Evaluate each run in each way asked for, or ``cfg.detections``, write the reports, and show how they compare.

    Returns the rows of the comparison; none on the other processes of a multi-device evaluation.

    Raises:
        UserError: anything that does not fit together, before any image is read.
        OSError: nothing can be written to a row's folder, likewise.
    """
    check_values(cfg, EVALUATE)
    if cfg.cost_of and "fpn_scaled" not in cfg.variant:
        raise UserError(f"cost_of={cfg.cost_of}: is the cost of variant=fpn_scaled; name that too")
    check_metrics("columns", cfg.columns, metric_names())
    if cfg.timed and cfg.detections:
        raise UserError("timed=true: a result file has no model to be timed; leave it out")
    if (cfg.timed or cfg.cost_of) and not one_device(cfg):
        raise UserError("timed, cost_of: are measured on one device; give trainer.devices=1")
    plan = plan_file(cfg, runs) if cfg.detections else plan_runs(cfg, runs)
    ways = {job.name: job.source for job in plan.jobs if isinstance(job.source, tuple)}
    used = list(dict.fromkeys(run for run, _ in ways.values()))
    for job in plan.jobs:
        require_place(job.folder)
    for warning in broken_lineage(used):
        log.warning(warning)
    extended = with_extension(used) if cfg.features and used else []
    own_commit()  # of the code that runs, not of what a checkout has become by the end
    with start_tracking(cfg, plan.called) if first_process() else nullcontext() as tracked:
        seconds = seconds_per_image(cfg, list(ways.values())) if cfg.timed else [None] * len(plan.jobs)
        jobs = zip(plan.jobs, seconds, strict=True)
        made = [done for job, taken in jobs if (done := evaluate_job(cfg, job, runs, taken)) is not None]
        if not first_process():
            return []  # the first process has written and prints for all
        evaluations = [one for one, _ in made]
        own = [Row.of(one) for one in evaluations]
        before = []
        for row in map(load_row, plan.before):
            if differs := difference(row, own[0]):
                log.warning("%s is left out, measured otherwise: %s", row.source, differs)
            else:
                before.append(row)
        rows = comparable([*before, *own])
        show(rows, plan.comparison, cfg.columns)

        drawn = {name: path for _, sheets in made for name, path in sheets.items()}
        if extended:
            drawn |= draw_features(cfg, extended, plan.report)
        elif cfg.figures:
            keep(plan.report / "features", None)  # one that is not asked for goes where the others are drawn
        if cfg.figures or cfg.timed:
            drawn |= draw_costs(plan.report, rows)
        page = None
        if cfg.figures:
            for one in evaluations:
                drawn |= draw_row(one)
            drawn |= draw_together(plan.report, evaluations)
            page = write_html(plan.report, evaluations, {name: run.folder for name, (run, _) in ways.items()}, drawn)
            log.info("report: %s", page)
        if tracked is not None:
            track(tracked, rows, cfg.columns, evaluations, drawn, page)
    return rows


def plan_file(cfg: DictConfig, runs: Sequence[SavedRun]) -> Plan:
    """Of ``cfg.detections``, beside reports of the runs that lend data (raises `UserError`: what a file has not)."""
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
    """Of each run, the variants that fit it (raises `UserError`: one is unknown or fits none; rows share a place)."""
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


def evaluate_job(
    cfg: DictConfig, job: Job, runs: list[SavedRun], taken: float | None
) -> tuple[Evaluation, Drawn] | None:
    """Score one row, which took so many seconds for an image, and write its report; None on all later processes."""
    start = time.perf_counter()
    found = read_file(cfg, job.source, runs) if isinstance(job.source, Path) else detect(cfg, *job.source)
    if found is None:
        return None
    index = found.data.index(cfg.split)
    paths = {record.image_id: record.path for record in index.records}
    one = Evaluation(
        name=job.name,
        split=index.name,
        truth=restrict(index.to_coco(), found.image_ids),
        detections=found.detections,
        threshold=float(cfg.score_threshold),
        evaluated=list(found.data.categories.evaluated_ids),
        best_threshold=found.best,
        best_chosen_on=None if found.best is None else found.data.index("val").name,
        stages=found.stages,
        load_image=lambda image_id: read_image(paths[image_id]),
        folder=job.folder,
        facts={
            "seed": found.seed,
            "commit": own_commit(),
            "command": command_line(),
            "seconds": round(time.perf_counter() - start, 1),
            "hardware": hardware(),
            "more": found.more,
            "seconds_per_image": taken,
        },
    )
    return one, write_row(one, cfg.images, tt100k=isinstance(found.data.source, TT100K))
