"""From a finished phase, or from a result file of any detector, to the detections that are scored."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from efpn.data.datamodule import DetectionDataModule, Role
from efpn.data.records import Index
from efpn.errors import UserError
from efpn.evaluation.rows import changed
from efpn.evaluation.stages import StageRecorder
from efpn.evaluation.variants import Variant
from efpn.metrics.accumulate import Collected, DetectionAccumulator
from efpn.metrics.bands import Boxes
from efpn.metrics.funnel import StageRecord
from efpn.metrics.results import read_results
from efpn.metrics.score import best_f1_threshold
from efpn.models import EFPNDetector, FasterRCNN
from efpn.ranges import one_device
from efpn.runs.checkpoints import Checkpoint, read_checkpoint
from efpn.runs.files import read_json
from efpn.runs.phases import model_config, reads_2x
from efpn.runs.rebuild import first_process, quiet_trainer, rebuild_detector, resize_to
from efpn.runs.saved import SavedRun
from efpn.tasks.base import count_capped, native_detections, warn_of_cap

log = logging.getLogger(__name__)


class Detected(NamedTuple):
    """What is to be scored."""

    data: DetectionDataModule  # whose split was looked at
    detections: Boxes  # COCO results, native pixels
    image_ids: Sequence[int]  # the images that were looked at
    best: float | None  # the threshold of best F1 on the validation split, where one was chosen
    more: dict[str, Any]  # facts of their making
    seed: int | None = None  # of the training
    stages: StageRecord | None = None  # what the detector did before its detections, if it was recorded


def read_file(cfg: DictConfig, source: Path, runs: Sequence[SavedRun]) -> Detected:
    """The detections of a result file, on the data of ``data=...`` or of the first of ``runs``.

    Raises `UserError` where neither is given, or the file cannot be used or is not of the split.
    """
    if cfg.get("data"):
        data: DetectionDataModule = instantiate(cfg.data, limit_val=None, _convert_="all")
    elif runs:
        data = eval_data(cfg, runs[0])
    else:
        raise UserError(
            "detections=FILE: score it on which data? Give data=coco or data=tt100k with data.root=FOLDER, or "
            "run=FOLDER to take the data of a run"
        )

    def read(file: Path, split: Role) -> list[dict[str, Any]]:
        truth = scored_index(data, split).to_coco()
        content = read_json(file, "give the result file with detections=FILE")
        found = read_results(content, truth, str(file), cfg.missing)
        covered = len({one["image_id"] for one in found})
        log.info("%s: %d detections in %d of %d images", file, len(found), covered, len(truth["images"]))
        if not found:
            log.warning("%s: no detection at all", file)
        return found

    found, other = read(source, cfg.split), cfg.detections_val
    best = choose_threshold(cfg, data, lambda: read(Path(other), "val")) if other else None
    image_ids = [record.image_id for record in data.index(cfg.split).records]
    return Detected(data, found, image_ids, best, {"detections": str(source)})


def detect(cfg: DictConfig, run: SavedRun, variant: Variant) -> Detected | None:
    """Detect with a finished phase in one way; None on all processes but the first.

    Raises:
        UserError: data and run do not fit together, or unreadable images are missing and are not to be skipped.
    """
    checkpoint = read_checkpoint(run.checkpoint)
    node = model_config(run.config, run.phase)
    if cfg.detail:
        node.detail = cfg.detail
    data = eval_data(cfg, run, variant.pairs or reads_2x(node))
    detector = rebuild(cfg, run, checkpoint, variant, data)
    index = scored_index(data, cfg.split)
    best = choose_threshold(cfg, data, lambda: collect(cfg, run, detector, variant, data, "val").detections)
    recorder = None  # of what comes before the detections
    if one_device(cfg) and variant.recorded and isinstance(detector, FasterRCNN):
        recorder = StageRecorder(detector, list(data.categories.ids))
    with recorder or nullcontext():
        seen = collect(cfg, run, detector, variant, data, cfg.split, recorder)
    if missing := {record.image_id for record in index.records} - set(seen.image_ids):
        message = f"{index.name}: {len(missing)} of {len(index)} images were not scored (ids {sorted(missing)[:5]})"
        if data.on_unreadable == "error":
            raise UserError(f"{message}; mend them, or data.on_unreadable=skip in training leaves them out")
        log.warning(message)
    if not first_process():
        return None
    more = said_of(cfg, run, variant, checkpoint, detector)
    stages = None if recorder is None else recorder.record()
    return Detected(data, seen.detections, seen.image_ids, best, more, run.config.seed, stages)


def said_of(
    cfg: DictConfig, run: SavedRun, variant: Variant, checkpoint: Checkpoint, detector: EFPNDetector
) -> dict[str, Any]:
    """What was evaluated, in words: the identity of the row."""
    read, small = "none", detector.small
    if small is not None and isinstance(detector, FasterRCNN):
        which = "all" if math.isinf(small.below) else f"below {small.below:g} px"
        read = f"{which}, read from {small.level}"
    elif small is not None:
        read = f"none; {small.level} is a level of the head"
    return {
        **({"quick": "yes"} if run.quick else {}),
        "phase": run.phase,
        "steps": checkpoint.steps,
        "input": f"{cfg.short_side or run.config.data.eval_transform.short_side} px (1x)",
        "variant": variant.name,
        "small RoIs": read,
        "detail of P2'": type(detector.backbone.detail).__name__ if detector.backbone.extension else "none",
        "changed in the model": ", ".join(changed(cfg.model)) or "nothing",
        "trained with": f"efpn {checkpoint.version}, config {checkpoint.config_hash}",
    }


def eval_data(cfg: DictConfig, run: SavedRun, pairs: bool = False) -> DetectionDataModule:
    """The run's own data, with what the evaluation asks to be different; ``pairs`` gives the 2x images too."""
    node = run.config.data.copy()
    changes = {"root": cfg.data_root, "eval_batch_size": cfg.batch_size}
    node.update({key: value for key, value in changes.items() if value is not None})
    # what shortened the validation in training does not shorten this; a quick look chooses its threshold quickly too
    node.update({"limit_val": cfg.limit, f"limit_{cfg.split}": cfg.limit})
    if cfg.data_root:
        node.source.root = cfg.data_root
    resize_to(node.eval_transform, cfg.short_side)
    try:
        return instantiate(node, eval_pairs=pairs, _convert_="all")
    except InstantiationException as error:
        if not isinstance(error.__cause__, UserError):
            raise
        raise UserError(str(error.__cause__).replace("data.root", "data_root")) from None  # as it is called here


def scored_index(data: DetectionDataModule, split: Role) -> Index:
    """The split to score (raises `UserError`: the test split cannot be read, with what to score instead)."""
    try:
        return data.index(split)
    except UserError as error:
        if split != "test":
            raise
        advice = "split=val scores the validation images; data_root=FOLDER says where the data set lies now"
        raise UserError(f"the test split cannot be read: {advice}\n  {error}") from None


def choose_threshold(cfg: DictConfig, data: DetectionDataModule, detect_val: Callable[[], Boxes]) -> float | None:
    """The threshold of best F1 on the validation split; None if not wanted, or if its images are to be scored.

    ``detect_val`` gives the detections there and is called only if they are needed.
    """
    if not cfg.choose_threshold or cfg.split == "val":
        return None
    val, test = ({record.path for record in data.index(role).records} for role in ("val", "test"))
    if shared := len(val & test):
        why = "no threshold of best F1, which must not be chosen on what is scored"
        log.warning("val and test share %d images: %s", shared, why)
        return None
    ids = list(data.categories.evaluated_ids)
    return best_f1_threshold(data.index("val").to_coco(), detect_val(), category_ids=ids)


def rebuild(
    cfg: DictConfig, run: SavedRun, checkpoint: Checkpoint, variant: Variant, data: DetectionDataModule
) -> EFPNDetector:
    """The run's detector with its weights (raises `UserError`: the data have other classes than its training)."""
    if list(data.categories.names) != list(checkpoint.classes):
        raise UserError(
            f"{run.checkpoint}: trained on {len(checkpoint.classes)} classes ({', '.join(checkpoint.classes[:3])} "
            f"...); the data in {data.root} have {len(data.categories.names)} or others; use those of its training"
        )
    rule: dict[str, Any] = {"small_roi_below": cfg.small_roi_below}
    if variant.level is not None:
        below = math.inf if variant.every_roi else cfg.small_roi_below or run.config.small_roi_below
        small = {"_target_": "efpn.models.SmallRoIs", "below": below, "level": variant.level, "own_head": False}
        rule = {"small": small, "extension": variant.extension}
    return rebuild_detector(run, checkpoint, detail=cfg.detail, changes=cfg.model, **rule)


def collect(
    cfg: DictConfig,
    run: SavedRun,
    detector: EFPNDetector,
    variant: Variant,
    data: DetectionDataModule,
    role: Role,
    recorder: StageRecorder | None = None,
) -> Collected:
    """Detect in all images of ``role``: each once, boxes in native pixels; ``recorder`` keeps what comes before."""
    trainer = quiet_trainer(cfg.trainer, run)
    task = EvaluationTask(detector, variant, list(data.categories.ids), recorder)
    data.trainer = trainer
    trainer.test(task, dataloaders=data.val_dataloader() if role == "val" else data.test_dataloader(), verbose=False)
    assert task.collected is not None
    return task.collected


class EvaluationTask(pl.LightningModule):
    """Has ``collected`` a detector's boxes after ``Trainer.test``, on any number of processes.

    ``category_ids`` are by label; ``recorder`` is of the detector.
    """

    def __init__(
        self,
        detector: EFPNDetector,
        variant: Variant,
        category_ids: Sequence[int],
        recorder: StageRecorder | None = None,
    ) -> None:
        super().__init__()
        self.detector, self.variant, self.recorder = detector, variant, recorder
        self.detections = DetectionAccumulator(category_ids)
        self.collected: Collected | None = None
        self.capped = 0

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Detect and keep the boxes."""
        found = self.variant.predict(self.detector, batch)
        if self.recorder is not None:
            self.recorder.file(batch)
        self.capped += count_capped(self.detector, found)
        self.detections.update(*native_detections(found, batch[-1]))

    def on_test_epoch_end(self) -> None:
        """Gather from all processes, and say if the detector's cap cut anything off."""
        warn_of_cap(self.detector, self.capped)
        self.collected = self.detections.compute()
        self.detections.reset()
