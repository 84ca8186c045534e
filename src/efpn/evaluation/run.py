"""Evaluating finished phases: rebuild, detect, score, write."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from pytorch_lightning.utilities import rank_zero_only

from efpn.data.datamodule import DetectionDataModule, Role
from efpn.data.records import Index
from efpn.errors import UserError
from efpn.evaluation.compare import Result, load_results, show
from efpn.evaluation.features import draw_features, with_extension
from efpn.evaluation.gallery import Scored
from efpn.evaluation.report import METRICS
from efpn.evaluation.scoring import (
    check_numbers,
    check_split,
    choose_threshold,
    draw,
    eval_data,
    facts_of,
    label,
    out_folders,
    scored_index,
    write_scores,
)
from efpn.evaluation.stages import StageRecorder
from efpn.evaluation.task import EvaluationTask
from efpn.evaluation.variants import Variant, find_variant
from efpn.metrics.accumulate import Collected
from efpn.metrics.stages import StageRecord
from efpn.models import EFPNDetector
from efpn.runs.checkpoints import Handover, read_handover
from efpn.runs.devices import one_device
from efpn.runs.rebuild import quiet_trainer, rebuild_detector
from efpn.runs.saved import SavedRun, broken_lineage, row_names

log = logging.getLogger(__name__)


def evaluate(cfg: DictConfig, runs: list[SavedRun]) -> list[Result]:
    """Evaluate each run, write its report, and print (and write, if there are several) how they compare.

    Returns:
        A row for each run; none on the other processes of a multi-device evaluation.

    Raises:
        UserError: anything that does not fit together, before any picture is read.
    """
    check_split(cfg)
    check_numbers(cfg)
    variant = find_variant(cfg.variant)
    given, runs = runs, [run for run in runs if variant.fits(run.config.phases[run.phase].model)]
    if not runs:
        raise UserError(f"variant={cfg.variant}: needs a phase without an extension (baseline or control)")
    if left_out := ", ".join(run.name for run in given if run not in runs):
        log.info("variant=%s has no place for an extension: %s left out", cfg.variant, left_out)
    for warning in broken_lineage(runs):
        log.warning(warning)
    if cfg.features:
        with_extension(runs)
    names = [name if cfg.variant == "own" else f"{name} {cfg.variant}" for name in row_names(runs)]
    folders = out_folders(cfg, runs, cfg.variant)
    jobs = zip(runs, names, folders, strict=True)
    scored = [evaluate_run(cfg, run, name, variant, folder) for run, name, folder in jobs]
    if not first_process():
        return []  # the first process has written and prints for all
    own = [] if cfg.variant == "own" or cfg.out else out_folders(cfg, runs, "own")
    results = load_results([*(folder for folder in own if (folder / METRICS).is_file()), *folders])
    place = Path(cfg.out or os.path.commonpath([run.folder.parent for run in runs]))
    called = label(cfg, cfg.variant)
    show(results, place / f"comparison-{called}.md")
    if cfg.features:
        draw_features(cfg, runs, place / f"report-{called}")
    if cfg.figures:
        configs = {name: run.folder for name, run in zip(names, runs, strict=True)}
        rows = [row for row in scored if row is not None]
        draw(place / f"report-{called}", rows, configs, with_features=cfg.features > 0)
    return results


def evaluate_run(cfg: DictConfig, run: SavedRun, name: str, variant: Variant, out: Path) -> Scored | None:
    """Evaluate one finished phase, the row ``name``, and write its report to ``out``; None on all other processes."""
    start = time.perf_counter()
    handover = read_handover(run.checkpoint)
    data = eval_data(cfg, run, variant.pairs)
    detector = rebuild(cfg, run, handover, variant, data)
    index = scored_index(data, cfg.split)
    best = choose_threshold(cfg, data, lambda: collect(cfg, run, detector, variant, data, "val").detections)
    seen, stages = collect_stages(cfg, run, detector, variant, data)
    check_complete(index, seen, data.on_unreadable)
    if not first_process():
        return None
    facts = facts_of(cfg, data, name, best, start, more_facts(cfg, run, handover), run.config.seed)
    return write_scores(out, data, cfg, seen.detections, seen.image_ids, facts, stages)


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
    return rebuild_detector(run, handover, small_roi_below=cfg.small_roi_below, oracle=variant.oracle)


def collect_stages(
    cfg: DictConfig, run: SavedRun, detector: EFPNDetector, variant: Variant, data: DetectionDataModule
) -> tuple[Collected, StageRecord | None]:
    """Detect in the split to score; on one process with a record of what came before the detections."""
    if not one_device(cfg):
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


def more_facts(cfg: DictConfig, run: SavedRun, handover: Handover) -> dict[str, Any]:
    """What else a reader of the numbers wants to know."""
    return {
        "phase": run.phase,
        "steps": handover.steps,
        "input": f"{cfg.short_side or run.config.data.eval_transform.short_side} px (1x)",
        "variant": cfg.variant,
        "small RoIs": f"below {cfg.small_roi_below or run.config.small_roi_below} px",
        "trained with": f"efpn {handover.version}, config {handover.config_hash}",
    }


def first_process() -> bool:
    """Whether this is the process that writes; Lightning keeps the rank on its decorator."""
    return int(vars(rank_zero_only).get("rank", 0)) == 0
