"""Evaluating finished phases, or a result file of any detector: detect or read, score, and show it in every form."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from omegaconf import DictConfig

from efpn.data.images import read_image
from efpn.data.tt100k import TT100K
from efpn.errors import UserError
from efpn.evaluation.compare import show
from efpn.evaluation.cost import seconds_per_image
from efpn.evaluation.detect import detect, read_file
from efpn.evaluation.features import draw_features, with_extension
from efpn.evaluation.html import write_html
from efpn.evaluation.plan import Job, Plan, plan_file, plan_runs
from efpn.evaluation.report import Drawn, draw_costs, draw_row, draw_together, keep, write_row
from efpn.evaluation.rows import Row, comparable, load_row
from efpn.evaluation.tracking import start_tracking, track
from efpn.metrics import metric_names, restrict
from efpn.metrics.evaluation import Evaluation
from efpn.provenance import command_line, hardware, own_commit
from efpn.ranges import EVALUATE, check_values
from efpn.runs.files import require_place
from efpn.runs.rebuild import first_process
from efpn.runs.saved import SavedRun, broken_lineage

log = logging.getLogger(__name__)


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
    if unknown := [str(column) for column in cfg.columns if column not in metric_names()]:
        raise UserError(f"columns: no metric {', '.join(unknown)}; choose from {', '.join(metric_names())}")
    plan = plan_file(cfg, runs) if cfg.detections else plan_runs(cfg, runs)
    for job in plan.jobs:
        require_place(job.folder)
    for warning in broken_lineage(plan.runs):
        log.warning(warning)
    if cfg.features and plan.runs:
        with_extension(plan.runs)
    own_commit()  # of the code that runs, not of what a checkout has become by the end
    with start_tracking(cfg, plan.called) if first_process() else nullcontext() as tracked:
        taken = times(cfg, plan.jobs) if cfg.timed else {}
        made = [one for job in plan.jobs if (one := evaluate_job(cfg, job, runs, taken.get(job.name))) is not None]
        if not first_process():
            return []  # the first process has written and prints for all
        evaluations = [one for one, _ in made]
        drawn = {name: path for _, sheets in made for name, path in sheets.items()}
        rows = comparable([*map(load_row, plan.before), *map(Row.of, evaluations)])
        show(rows, plan.comparison, cfg.columns)
        drawn |= draw(cfg, plan, evaluations) | draw_costs(plan.report, rows)
        page = write_html(plan.report, evaluations, plan.configs, drawn) if cfg.figures else None
        if page is not None:
            log.info("report: %s", page)
        if tracked is not None:
            track(tracked, rows, cfg.columns, evaluations, drawn, page)
    return rows


def times(cfg: DictConfig, jobs: Sequence[Job]) -> dict[str, float]:
    """Seconds that each row takes for an image, by its name.

    Raises:
        UserError: a row is a result file, or there are several devices.
    """
    ways = [job.source for job in jobs if isinstance(job.source, tuple)]
    if len(ways) < len(jobs):
        raise UserError("timed=true: a result file has no model to be timed; leave it out")
    return dict(zip([job.name for job in jobs], seconds_per_image(cfg, ways), strict=True))


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
        category_ids=list(found.data.categories.evaluated_ids),
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
            "seconds_per_image": taken,
            "more": found.more,
        },
    )
    return one, write_row(one, cfg.images, tt100k=isinstance(found.data.source, TT100K))


def draw(cfg: DictConfig, plan: Plan, evaluations: list[Evaluation]) -> Drawn:
    """The figures that are asked for; one of the features that is not asked for goes where the others are drawn."""
    drawn: Drawn = {}
    if cfg.features and plan.runs:
        drawn |= draw_features(cfg, plan.runs, plan.report)
    elif cfg.figures:
        keep(plan.report / "features", None)
    if cfg.figures:
        for one in evaluations:
            drawn |= draw_row(one)
        drawn |= draw_together(plan.report, evaluations)
    return drawn
