"""Evaluating finished phases: rebuild, detect, score, write."""

from __future__ import annotations

import logging
import math
import time
from contextlib import nullcontext
from typing import Any

from omegaconf import DictConfig

from efpn.data.datamodule import DetectionDataModule, Role
from efpn.data.records import Index
from efpn.errors import UserError
from efpn.evaluation.compare import Result, load_results, show
from efpn.evaluation.cost import equal_cost_scales
from efpn.evaluation.features import draw_features, with_extension
from efpn.evaluation.rows import Row, changed, own_rows, plan_rows, together
from efpn.evaluation.scored import Scored
from efpn.evaluation.scoring import (
    check_choices,
    choose_threshold,
    draw,
    eval_data,
    facts_of,
    scored_index,
    write_scores,
)
from efpn.evaluation.stages import StageRecorder
from efpn.evaluation.task import EvaluationTask
from efpn.evaluation.tracking import drawn_names, start_tracking
from efpn.evaluation.variants import Variant, find_variants
from efpn.metrics.accumulate import Collected
from efpn.metrics.stages import StageRecord
from efpn.models import EFPNDetector, FasterRCNN
from efpn.runs.checkpoints import Handover, read_handover
from efpn.runs.devices import one_device
from efpn.runs.files import require_place
from efpn.runs.phases import model_config, reads_2x
from efpn.runs.rebuild import quiet_trainer, rebuild_detector
from efpn.runs.saved import SavedRun, broken_lineage
from efpn.runs.trainer import first_process

log = logging.getLogger(__name__)


def evaluate(cfg: DictConfig, runs: list[SavedRun]) -> list[Result]:
    """Evaluate each run in each way asked for, write the reports, and print (and write) how they compare.

    Returns:
        A row for each; none on the other processes of a multi-device evaluation.

    Raises:
        UserError: anything that does not fit together, before any picture is read.
        OSError: nothing can be written to a row's folder, likewise.
    """
    check_choices(cfg)
    rows = plan_rows(cfg, runs, find_variants(cfg.variant, cfg.scales, equal_cost_scales(cfg, runs)))
    for row in rows:
        require_place(row.folder)
    runs = list(dict.fromkeys(row.run for row in rows))
    for warning in broken_lineage(runs):
        log.warning(warning)
    if cfg.features:
        with_extension(runs)
    place, called = together(cfg, rows)
    with start_tracking(cfg, called) if first_process() else nullcontext() as tracking:
        scored = [one for row in rows if (one := evaluate_row(cfg, row)) is not None]
        if not first_process():
            return []  # the first process has written and prints for all
        results = load_results([*own_rows(cfg, rows), *(row.folder for row in rows)])
        show(results, place / f"comparison-{called}", cfg.columns)
        report = place / f"report-{called}"
        if cfg.features:
            draw_features(cfg, runs, report)
        if cfg.figures:
            draw(report, scored, {row.name: row.run.folder for row in rows}, with_features=cfg.features > 0)
        if tracking is not None:
            tracking.log(results, cfg.columns, scored, report, drawn_names(cfg))
    return results


def evaluate_row(cfg: DictConfig, row: Row) -> Scored | None:
    """Evaluate a finished phase in one way and write its report; None on all processes but the first."""
    start = time.perf_counter()
    run, variant = row.run, row.variant
    handover = read_handover(run.checkpoint)
    data = eval_data(cfg, run, variant.pairs or wants_2x(cfg, run))
    detector = rebuild(cfg, run, handover, variant, data)
    index = scored_index(data, cfg.split)
    best = choose_threshold(cfg, data, lambda: collect(cfg, run, detector, variant, data, "val").detections)
    seen, stages = collect_stages(cfg, run, detector, variant, data)
    check_complete(index, seen, data.on_unreadable)
    if not first_process():
        return None
    facts = facts_of(cfg, data, row.name, best, start, more_facts(cfg, row, handover, detector), run.config.seed)
    return write_scores(row.folder, data, cfg, seen.detections, seen.image_ids, facts, stages)


def rebuild(
    cfg: DictConfig, run: SavedRun, handover: Handover, variant: Variant, data: DetectionDataModule
) -> EFPNDetector:
    """The detector of the run's own config, with its weights.

    Raises:
        UserError: the data set has other classes than the run was trained on.
    """
    if list(data.categories.names) != list(handover.classes):
        raise UserError(
            f"{run.checkpoint}: trained on {len(handover.classes)} classes ({', '.join(handover.classes[:3])} ...); "
            f"the data in {data.root} have {len(data.categories.names)} or others; use the data set of its training"
        )
    if variant.rule is None:
        rule: dict[str, Any] = {"small_roi_below": cfg.small_roi_below}
    else:
        small = variant.rule.node(cfg.small_roi_below or run.config.small_roi_below)
        rule = {"small": small, "extension": variant.rule.extension}
    return rebuild_detector(run, handover, detail=cfg.detail, changes=cfg.model, **rule)


def wants_2x(cfg: DictConfig, run: SavedRun) -> bool:
    """Whether the run's detector reads the 2x images in this evaluation."""
    node = model_config(run.config, run.phase)
    if cfg.detail:
        node.detail = cfg.detail
    return reads_2x(node)


def collect_stages(
    cfg: DictConfig, run: SavedRun, detector: EFPNDetector, variant: Variant, data: DetectionDataModule
) -> tuple[Collected, StageRecord | None]:
    """Detect in the split to score; on one process, in one pass, with a record of what came before the detections."""
    if not (one_device(cfg) and variant.recorded and isinstance(detector, FasterRCNN)):
        return collect(cfg, run, detector, variant, data, cfg.split), None
    with StageRecorder(detector, list(data.categories.ids)) as recorder:
        seen = collect(cfg, run, detector, recorder.watch(variant), data, cfg.split)
    return seen, recorder.record()


def collect(
    cfg: DictConfig, run: SavedRun, detector: EFPNDetector, variant: Variant, data: DetectionDataModule, role: Role
) -> Collected:
    """Detect in all pictures of ``role``."""
    trainer = quiet_trainer(cfg.trainer, run)
    task = EvaluationTask(detector, variant, list(data.categories.ids))
    data.trainer = trainer
    trainer.test(task, dataloaders=data.val_dataloader() if role == "val" else data.test_dataloader(), verbose=False)
    assert task.collected is not None
    return task.collected


def check_complete(index: Index, seen: Collected, on_unreadable: str) -> None:
    """Make sure that no picture of the split is missing from what will be scored.

    Raises:
        UserError: some are, and unreadable pictures are not to be skipped.
    """
    missing = {record.image_id for record in index.records} - set(seen.image_ids)
    if not missing:
        return
    message = f"{index.name}: {len(missing)} of {len(index)} pictures were not scored (ids {sorted(missing)[:5]})"
    if on_unreadable == "error":
        raise UserError(f"{message}; mend them, or data.on_unreadable=skip in training leaves them out")
    log.warning(message)


def more_facts(cfg: DictConfig, row: Row, handover: Handover, detector: EFPNDetector) -> dict[str, Any]:
    """What else a reader of the numbers wants to know."""
    run = row.run
    return {
        "phase": run.phase,
        "steps": handover.steps,
        "input": f"{cfg.short_side or run.config.data.eval_transform.short_side} px (1x)",
        "variant": row.variant.name,
        "small RoIs": small_rule(detector),
        "detail of P2'": type(detector.backbone.detail).__name__ if detector.backbone.extension else "none",
        "changed in the model": ", ".join(changed(cfg.model)) or "nothing",
        "trained with": f"efpn {handover.version}, config {handover.config_hash}",
    }


def small_rule(detector: EFPNDetector) -> str:
    """Which RoIs are read from a level of their own."""
    small = detector.small
    if small is None:
        return "none"
    return f"{'all' if math.isinf(small.below) else f'below {small.below:g} px'}, read from {small.level}"
