"""A prediction, from a finished run and a list of pictures to the files it leaves."""

from __future__ import annotations

import logging
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from efpn.errors import UserError
from efpn.prediction.options import slices_of
from efpn.prediction.pictures import DRAWN, Picture
from efpn.prediction.task import PredictionTask, picture_loader
from efpn.prediction.writing import PictureBar, PictureWriter, write_results
from efpn.runs.checkpoints import read_handover
from efpn.runs.rebuild import quiet_trainer, rebuild_detector, resize_to
from efpn.runs.saved import SavedRun
from efpn.tasks.base import warn_of_cap

log = logging.getLogger(__name__)


def predict(cfg: DictConfig, run: SavedRun, pictures: list[Picture]) -> list[tuple[Picture, str]]:
    """Detect in all pictures and write what was found.

    Returns:
        The pictures that could not be read, each with the reason.

    Raises:
        UserError: the run cannot be rebuilt, or not one picture can be read.
    """
    names = read_handover(run.checkpoint).classes
    out = run.out_folder(cfg.out, "predictions")
    task = build_task(cfg, run)
    writer = PictureWriter(out / DRAWN if cfg.draw else None, names, cfg.score_threshold)
    callbacks = [writer, PictureBar(len(pictures))]
    trainer = quiet_trainer(cfg.trainer, run, callbacks=callbacks, enable_progress_bar=False)
    loader = picture_loader(pictures, run.config.data.num_workers)
    trainer.predict(task, dataloaders=loader, return_predictions=False)
    if not writer.images:
        raise UserError(f"not one of {len(pictures)} pictures can be read\n{listed(writer.broken)}")
    warn_of_cap(task.detector, task.capped, "pictures or slices")
    detections = task.detections.compute().detections
    categories = [{"id": label, "name": name} for label, name in enumerate(names, 1)]
    write_results(out, writer, detections, categories, facts(cfg, run, pictures))
    log.info("%d pictures, %d detections: %s", len(writer.images), len(detections), out)
    return writer.broken


def build_task(cfg: DictConfig, run: SavedRun) -> PredictionTask:
    """The run's detector and the run's own way to resize, with what the prediction asks to be different."""
    handover = read_handover(run.checkpoint)
    detector = rebuild_detector(run, handover, detail=cfg.detail, changes=cfg.model)
    if cfg.min_score is not None:
        detector.roi_heads.score_thresh = cfg.min_score
    node = run.config.data.eval_transform.copy()
    resize_to(node, cfg.short_side)
    labels = list(range(1, len(handover.classes) + 1))
    return PredictionTask(detector, instantiate(node, _convert_="all"), labels, slices_of(cfg), cfg.batch_size)


def facts(cfg: DictConfig, run: SavedRun, pictures: list[Picture]) -> dict[str, Any]:
    """What a reader of the results wants to know."""
    first = pictures[0]
    return {
        "run": run.name,
        "folder": str(first.path)[: -len(first.name)],
        "min_score": cfg.min_score,
        "short_side": cfg.short_side or run.config.data.eval_transform.short_side,
        "slices": OmegaConf.to_container(cfg.slices) if slices_of(cfg) else None,
    }


def listed(broken: list[tuple[Picture, str]]) -> str:
    """One line for each picture that could not be read."""
    return "\n".join(f"  {picture.path}: {reason}" for picture, reason in broken)
