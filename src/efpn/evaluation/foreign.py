"""Scoring a result file of any detector: no model, no torch work, the same numbers and the same report."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from efpn.data.datamodule import DetectionDataModule
from efpn.errors import UserError
from efpn.evaluation.compare import Result, load_results, show
from efpn.evaluation.report import METRICS
from efpn.evaluation.rows import label, row_folder
from efpn.evaluation.scoring import (
    check_choices,
    choose_threshold,
    draw,
    eval_data,
    facts_of,
    scored_index,
    write_scores,
)
from efpn.evaluation.tracking import drawn_names, start_tracking
from efpn.evaluation.variants import OWN
from efpn.metrics.results import read_results
from efpn.runs.files import read_json, require_place
from efpn.runs.saved import SavedRun

log = logging.getLogger(__name__)


def evaluate_file(cfg: DictConfig, runs: list[SavedRun]) -> list[Result]:
    """Score ``cfg.detections`` on the split of ``data=...``, or of the runs' own data, whose reports stand beside it.

    Returns:
        A row for each of the runs that has been evaluated on the split, and the file's.

    Raises:
        UserError: the file or the data cannot be used.
    """
    check_choices(cfg)
    if cfg.variant != OWN or cfg.model or cfg.detail or cfg.called:
        raise UserError("detections=FILE is scored as it is: variant, table, detail and model belong to a run")
    if cfg.limit is not None or (cfg.data_root and cfg.get("data")):
        raise UserError("detections=FILE is scored whole, on data.root=FOLDER: drop limit and data_root")
    start = time.perf_counter()
    data = foreign_data(cfg, runs)
    source = Path(cfg.detections)
    found = read_detections(cfg, source, data, cfg.split)
    chosen = cfg.detections_val
    best = choose_threshold(cfg, data, lambda: read_detections(cfg, Path(chosen), data, "val")) if chosen else None
    name = source.stem if cfg.name is None else cfg.name
    facts = facts_of(cfg, data, name, best, start, {"detections": source})
    out = Path(cfg.out) if cfg.out else source.parent / f"{name}-{cfg.split}"
    require_place(out)
    image_ids = [record.image_id for record in data.index(cfg.split).records]
    with start_tracking(cfg, label(cfg, name)) as tracking:
        scored = write_scores(out, data, cfg, found, image_ids, facts)
        if cfg.figures:
            draw(out, [scored], {})
        own = [] if cfg.out else [row_folder(cfg, run, OWN) for run in runs]
        results = load_results([*(folder for folder in own if (folder / METRICS).is_file()), out])
        show(results, out / "comparison", cfg.columns)
        if tracking is not None:
            tracking.log(results, cfg.columns, [scored], out, drawn_names(cfg))
    return results


def foreign_data(cfg: DictConfig, runs: list[SavedRun]) -> DetectionDataModule:
    """The data that ``data=...`` names, or those of the runs.

    Raises:
        UserError: neither is given.
    """
    if cfg.get("data"):
        return instantiate(cfg.data, limit_val=None, _convert_="all")
    if not runs:
        raise UserError(
            "detections=FILE: score it on which data? Give data=coco or data=tt100k with data.root=FOLDER, or "
            "run=FOLDER to take the data of a run"
        )
    return eval_data(cfg, runs[0])


def read_detections(cfg: DictConfig, source: Path, data: DetectionDataModule, split: Any) -> list[dict[str, Any]]:
    """The detections of a file, proven to be of ``split``."""
    truth = scored_index(data, split).to_coco()
    found = read_results(
        read_json(source, "give the result file with detections=FILE"), truth, str(source), cfg.missing
    )
    covered = len({one["image_id"] for one in found})
    log.info("%s: %d detections in %d of %d pictures", source, len(found), covered, len(truth["images"]))
    if not found:
        log.warning("%s: no detection at all", source)
    return found
