"""A prediction, from a finished run and a list of images to the files it leaves."""

from __future__ import annotations

import logging

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from efpn.errors import UserError
from efpn.prediction.images import DRAWN, ImageFile, slices_of
from efpn.prediction.task import PredictionTask, image_loader
from efpn.prediction.writing import ImageWriter, Journal, write_results
from efpn.runs.checkpoints import read_checkpoint
from efpn.runs.rebuild import quiet_trainer, rebuild_detector, resize_to
from efpn.runs.saved import SavedRun
from efpn.tasks.base import warn_of_cap

log = logging.getLogger(__name__)


def predict(cfg: DictConfig, run: SavedRun, images: list[ImageFile]) -> list[tuple[ImageFile, str]]:
    """Detect in all images and write what was found; returns those that could not be read, each with the reason.

    Raises:
        UserError: the run cannot be rebuilt, or not one image can be read.
    """
    names, weights = read_checkpoint(run.checkpoint).classes, run.checkpoint.stat()
    out = run.out_folder(cfg.out, "predictions")
    # what two calls have to share for the images of one to be left out in the other: weights and settings
    config = OmegaConf.to_container(
        OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in ("images", "out")])
    )
    terms = {"weights": [str(run.checkpoint), weights.st_size, weights.st_mtime_ns], "classes": names, "config": config}
    journal = Journal(out, terms, images)
    left = [image for image in images if image.path not in journal.entries]
    writer = ImageWriter(journal, len(left), out / DRAWN if cfg.draw else None, names, cfg.score_threshold)
    if left:
        task = build_task(cfg, run)
        trainer = quiet_trainer(cfg.trainer, run, callbacks=[writer], enable_progress_bar=False)
        loader = image_loader(left, run.config.data.num_workers)
        with writer.bar:
            trainer.predict(task, dataloaders=loader, return_predictions=False)
        warn_of_cap(task.detector, task.capped, "images or slices")
    seen = [(image, journal.entries[image.path]) for image in images if image.path in journal.entries]
    if not seen:
        raise UserError(f"not one of {len(images)} images can be read\n{listed(writer.broken)}")
    facts = {
        "run": run.name,
        "folder": str(images[0].path)[: -len(images[0].name)],
        "min_score": cfg.min_score,
        "short_side": cfg.short_side or run.config.data.eval_transform.short_side,
        "slices": OmegaConf.to_container(cfg.slices) if slices_of(cfg) else None,
    }
    detections = write_results(out, seen, writer.broken, names, facts)
    journal.path.unlink(missing_ok=True)  # the results are written
    log.info("%d images, %d detections: %s", len(seen), detections, out)
    if cfg.draw and detections:  # a run trained for minutes is sure of few
        scores, least = [score for _, entry in seen for _, score, *_ in entry["found"]], cfg.score_threshold
        message = "%d of them are drawn in %s, from score_threshold=%g on; the highest score is %.2f"
        log.info(message, sum(score >= least for score in scores), out / DRAWN, least, max(scores))
    return writer.broken


def build_task(cfg: DictConfig, run: SavedRun) -> PredictionTask:
    """The run's detector and the run's own way to resize, with what the prediction asks to be different."""
    if cfg.detail and run.config.phases[run.phase].model.extension is None:
        raise UserError(f"detail: the {run.phase} phase in {run.folder} has no P2' for it to serve; leave it out")
    checkpoint = read_checkpoint(run.checkpoint)
    detector = rebuild_detector(run, checkpoint, detail=cfg.detail, changes=cfg.model)
    if cfg.min_score is not None:
        detector.score_thresh = cfg.min_score
    node = run.config.data.eval_transform.copy()
    resize_to(node, cfg.short_side)
    return PredictionTask(detector, instantiate(node, _convert_="all"), slices_of(cfg), cfg.batch_size)


def listed(broken: list[tuple[ImageFile, str]]) -> str:
    """One line for each image that could not be read."""
    return "\n".join(f"  {image.path}: {reason}" for image, reason in broken)
