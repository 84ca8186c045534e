"""A training run: instantiate what the config names, fit phase after phase, leave metrics and checkpoint."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import LearningRateMonitor, ProgressBar

from efpn.data.datamodule import DetectionDataModule
from efpn.errors import Pruned, UserError, check_metrics
from efpn.given import shown
from efpn.metrics.score import SplitScorer, metric_names
from efpn.models import EFPNDetector
from efpn.ranges import TRAIN, check_targets, check_values
from efpn.runs.checkpoints import AS_TRAINED, Checkpoint, load_checkpoint, read_checkpoint, read_resume_point
from efpn.runs.files import (
    CHECKPOINT_FILE,
    CONFIG_FILE,
    METRICS_FILE,
    PRUNING_FILE,
    RESUME_FILE,
    ROW_FILE,
    naming,
    read_config,
    read_record,
    require_space,
    write_json,
    write_text,
)
from efpn.runs.lock import lock
from efpn.runs.phases import (
    PhaseRun,
    command,
    find_init,
    model_config,
    own_config,
    phase_names,
    phase_run,
    plain_config,
    reads_2x,
)
from efpn.runs.rebuild import first_process, make_trainer, settled_precision
from efpn.runs.sweeps import in_sweep, note_row, own_words
from efpn.runs.tracking import tracked_phase
from efpn.signals import SignalWatch, requeued
from efpn.tasks.base import DetectorTask
from efpn.training.callbacks import ResumePoint, StopNonFinite
from efpn.training.check import check_phase, new_parts
from efpn.training.progress import print_summary
from efpn.training.pruning import read_job, refuse_pruned
from efpn.weights import require_fit, state_bytes

log = logging.getLogger(__name__)


def train(cfg: DictConfig) -> tuple[dict[str, float], dict[str, Any]]:
    """Run the phases that the config asks for; returns the last one's validation metrics and its objects.

    These are ``detector``, ``task``, ``data`` and ``trainer``. What cannot work is a `UserError`, before training. A
    job that is pruned, now or when the same sweep ran before, returns the last value of its objective and no object.
    """
    check_values(cfg, TRAIN)
    check_targets(cfg)
    if "_target_" not in cfg.data:
        raise UserError("data: has no _target_; begin conf/data/NAME.yaml with `defaults: [base, _self_]`")
    names, asked = phase_names(cfg), settled(cfg)
    for name in cfg.phases:
        if cfg.phases[name] is not None:  # what it changes in the common model has no class beside it
            check_targets(model_config(cfg, name), f"phases.{name}.model")
    check_metrics("objective", [cfg.objective], metric_names())
    if asked.resume and asked.overwrite:
        raise UserError("resume=true and overwrite=true: give one of them")
    if asked.ckpt_path and asked.init_ckpt:
        raise UserError("ckpt_path and init_ckpt: the first continues this phase, the second gives weights; drop one")
    if (asked.ckpt_path or asked.init_ckpt) and len(names) > 1:
        raise UserError("ckpt_path and init_ckpt belong to one phase: say which with phase=NAME")
    runs = []
    for name in names:
        own = own_config(cfg, name)
        run = phase_run(own, name)
        runs.append((settled(own, run.shared), run))
        check_phase(*runs[-1])
    metrics: dict[str, float] = {}
    objects: dict[str, Any] = {}
    note, pruning = Path(cfg.paths.run, PRUNING_FILE), cfg.callbacks and cfg.callbacks.get("pruning")
    try:
        if pruning and not asked.overwrite:
            refuse_pruned(note, cfg.objective)
        if own_words() and first_process():
            if not pruning or asked.overwrite:
                note.unlink(missing_ok=True)
            note_row(cfg, runs[-1][1].folder)
        for own, run in runs:
            metrics, objects = run_or_keep(own, run)
    except Pruned as pruned:
        log.info("%s was pruned, %s; callbacks.pruning=null prunes none", note.parent, pruned)
        Path(cfg.paths.run, ROW_FILE).unlink(missing_ok=True)  # no row of a table
        return {f"val/{cfg.objective}": read_job(note, cfg.objective)["value"]}, {}
    return metrics, objects


def run_or_keep(cfg: DictConfig, run: PhaseRun) -> tuple[dict[str, float], dict[str, Any]]:
    """Run a phase, unless it is finished: already, or by another job of the sweep that this one waits for."""
    if not run.finished or cfg.overwrite:
        with lock(run.folder, wait=run.shared) if first_process() else nullcontext():
            if run.shared and (run.finished or run.interrupted):  # what another job has made while this one waited
                run.require_same_config()
            if run.finished and cfg.overwrite:
                log.info("phase %s in %s was trained before, and is trained anew", run.name, run.folder)
            if not run.finished or cfg.overwrite:
                return run_phase(cfg, run)
    require_same_start(cfg, run)
    if OmegaConf.select(read_config(run.folder / CONFIG_FILE), "data.root") != cfg.data.get("root"):
        require_same_data(cfg, run, read_record(run.folder), build_data(cfg, run, world_size=1))
    log.info("phase %s is finished (%s): kept", run.name, run.checkpoint)
    return read_checkpoint(run.checkpoint).metrics, {}


def require_same_start(cfg: DictConfig, run: PhaseRun) -> None:
    """Raise `UserError` for a phase whose starting weights were trained anew since, with another config."""
    before = run.config.init_from
    if before is None or cfg.init_ckpt or read_config(run.folder / CONFIG_FILE).get("init_ckpt"):
        return
    there = read_record(Path(own_config(cfg, before).paths.run) / before)
    started_from, now = read_record(run.folder).get("started_from"), there.get("config_hash")
    if None not in (started_from, now) and started_from != now:
        raise UserError(
            f"phase={run.name} in {run.folder} started from another {before} (config {started_from}, now {now}); "
            f"`{command(run.name)} overwrite=true` trains it again"
        )


def require_same_data(cfg: DictConfig, run: PhaseRun, record: dict[str, Any], data: DetectionDataModule) -> None:
    """Note in a phase's record what it trains on (raises `UserError`: it was begun on something else).

    Data may be moved, and so their folder is no part of what makes a phase this one.
    """
    index, names = data.index("train"), ", ".join(data.categories.names)
    now = f"{len(index)} images, {index.box_count} boxes, {len(data.categories)} classes ({names})"
    before = record.setdefault("train_data", now)
    if before != now:
        raise UserError(
            f"phase={run.name} in {run.folder} is of other data, {before}, than data.root={cfg.data.get('root')} has, "
            f"{now}; name=OTHER trains on these elsewhere, overwrite=true starts again"
        )


def settled(cfg: DictConfig, shared: bool = False) -> DictConfig:
    """A copy of the config in which nothing is ``auto`` any more, as it will be saved.

    A SLURM job that runs once more goes on with what it has done itself, whatever its command says; so does each job of
    a sweep with a phase that they share, which none of them may start again.
    """
    cfg = cfg.copy()
    cfg.trainer.precision = settled_precision(cfg.trainer)
    if requeued() or shared:
        cfg.resume, cfg.overwrite = True, False
    elif cfg.resume == "auto":
        cfg.resume = in_sweep() and not cfg.overwrite
    if requeued():
        own = Path(cfg.paths.run, phase_names(cfg)[0], RESUME_FILE)  # of several `train` takes no ckpt_path
        cfg.ckpt_path = None if own.is_file() else cfg.ckpt_path
    return cfg


def run_phase(cfg: DictConfig, run: PhaseRun) -> tuple[dict[str, float], dict[str, Any]]:
    """Train one phase to its end and write its checkpoint and metrics."""
    resume = point = None
    if cfg.ckpt_path or (cfg.resume and run.interrupted):
        resume = Path(cfg.ckpt_path or run.folder / RESUME_FILE)
        point = read_resume_point(resume)
        if not cfg.ckpt_path:
            require_same_start(cfg, run)
    init = None if resume else find_init(cfg, run)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    watch = SignalWatch()
    trainer = build_trainer(cfg, run, watch)
    data = build_data(cfg, run, trainer.world_size)
    record: dict[str, Any] = read_record(resume.parent) if resume else {}
    record["phase"] = run.name
    require_same_data(cfg, run, record, data)
    step = data.batch_size * trainer.world_size * cfg.trainer.get("accumulate_grad_batches", 1)  # images, all processes
    if record.setdefault("images_a_step", step) != step:  # learning rate and place in the stream belong to that many
        raise UserError(
            f"phase={run.name} is under way with {record['images_a_step']} images a step, not {step}; go on with as "
            "many, by trainer.devices, trainer.accumulate_grad_batches and data.batch_size, or start again with "
            "overwrite=true"
        )
    weights = {"backbone": {"weights": None}} if resume or init else {}  # a checkpoint replaces the backbone's own
    node = model_config(cfg, run.name)
    detector: EFPNDetector = instantiate(node, num_classes=data.num_classes, **weights, _convert_="all")
    fresh, source = new_parts(cfg, run, detector), read_checkpoint(init) if init else None
    if source and not cfg.init_ckpt and source.classes != list(data.categories.names):
        was, has = (shown(", ".join(names)) for names in (source.classes, data.categories.names))
        raise UserError(
            f"phase={run.name} starts from {init}, trained on other classes ({was}) than the data have ({has}); "
            "name=OTHER for another data set, or init_ckpt=FILE to start from those weights all the same"
        )
    if not resume:
        record["started_from"] = source.config_hash if source else None
    if source and init:
        load_checkpoint(detector, source, fresh, init)
    task = build_task(cfg, run, detector, data, step, fresh)
    with tracked_phase(trainer, cfg):
        for logger in trainer.loggers:  # before the folder: one without an account costs an earlier run no weights
            logger.log_hyperparams(plain_config(cfg))
        if resume and point:
            require_fit(point["state_dict"], task.state_dict(), f"resume point {resume}", AS_TRAINED)
            data.batches_done = point["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["ready"]
        if trainer.is_global_zero:
            open_folder(cfg, run, record, detector, keep=resume == run.folder / RESUME_FILE)
            own = f"backbone.weights={cfg.backbone.weights}" if cfg.backbone.get("weights") else "random weights"
            print_summary(run, data, detector, resume or init or own)
        start = time.perf_counter()
        with watch, naming(run.folder):  # what a logger cannot write has no name
            trainer.fit(task, datamodule=data, ckpt_path=resume, weights_only=True)
            found = dict(trainer.callback_metrics)
            if task.validated_at != trainer.global_step:  # the last weights' step was not one to validate at
                trainer.validate(task, datamodule=data, verbose=False)
                found |= trainer.callback_metrics
        metrics = {name: float(value) for name, value in found.items()}
        if trainer.is_global_zero:
            record |= {"steps": trainer.global_step, "seconds": round(time.perf_counter() - start, 1), "seed": cfg.seed}
            write_results(run, detector, data, record | {"metrics": metrics})
        trainer.strategy.barrier()
    return metrics, {"detector": detector, "task": task, "data": data, "trainer": trainer}


def open_folder(cfg: DictConfig, run: PhaseRun, record: dict[str, Any], detector: EFPNDetector, keep: bool) -> None:
    """Write config and record so far, if there is room, and clear what was left; ``keep`` the resume point or not."""
    there = [file.stat().st_size for file in (run.folder / RESUME_FILE, run.checkpoint) if file.is_file()]
    room = 2 * state_bytes(detector, optimizer=True)  # the new one is written before the old one goes
    require_space(run.folder, room - sum(there), f"saving phase={run.name}")
    run.clear(resume_point=not keep)
    write_json(run.folder / METRICS_FILE, record, indent=2)
    write_text(run.folder / CONFIG_FILE, OmegaConf.to_yaml(cfg, resolve=True))


def build_trainer(cfg: DictConfig, run: PhaseRun, watch: SignalWatch) -> pl.Trainer:
    """Lightning's Trainer for one phase; its epochs are stretches of ``checkpoint_every`` steps."""
    phase = run.config
    # loggers and callbacks may ask for the phase under way, and for all that this call runs
    named = OmegaConf.merge(cfg, {"phase": run.name, "sequence": phase_names(cfg)})
    callbacks = [instantiate(node) for node in (named.callbacks or {}).values() if node]
    if not cfg.logger:
        callbacks = [callback for callback in callbacks if not isinstance(callback, LearningRateMonitor)]
    logger = instantiate(named.logger, save_dir=str(run.folder)) if cfg.logger else False
    return make_trainer(
        cfg.trainer,
        logger=logger,
        callbacks=[*callbacks, StopNonFinite(run.name), ResumePoint(run.folder, watch)],
        default_root_dir=str(run.folder),
        max_steps=phase.max_steps,
        max_epochs=math.ceil(phase.max_steps / phase.checkpoint_every),
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        check_val_every_n_epoch=phase.val_every // phase.checkpoint_every,
        use_distributed_sampler=False,
        enable_checkpointing=False,
    )


def build_data(cfg: DictConfig, run: PhaseRun, world_size: int) -> DetectionDataModule:
    """The data module of one phase, checked before any training time is spent."""
    per_stretch = run.config.checkpoint_every * cfg.trainer.get("accumulate_grad_batches", 1)
    double = reads_2x(model_config(cfg, run.name))
    options: dict[str, Any] = {"pairs": run.config.pairs or double, "eval_pairs": double, **run.config.get("data", {})}
    batch_size = options.get("batch_size", cfg.data.batch_size)
    data: DetectionDataModule = instantiate(
        cfg.data, **options, samples_per_epoch=per_stretch * batch_size * world_size, _convert_="all"
    )
    data.check("train", "val")
    return data


def build_task(
    cfg: DictConfig, run: PhaseRun, detector: EFPNDetector, data: DetectionDataModule, step: int, fresh: Sequence[str]
) -> DetectorTask:
    """The LightningModule of a phase.

    Its learning rate is meant for ``reference_batch`` images a step over all processes and taken in proportion to what
    a ``step`` has (Goyal et al., 2017); null: for any number. ``fresh``, what the phase before has not, is trained
    whether ``trainable`` names it or not.
    """
    rate, reference = run.config.task.optimizer.lr, run.config.reference_batch
    if reference not in (None, step):
        scaled = rate * step / reference
        log.info("learning rate %g instead of %g: a step is %d images, not %d", scaled, rate, step, reference)
        rate = scaled
    trainable = [*run.config.task.trainable, *(f"{part}*" for part in fresh)]
    scorer = SplitScorer(data.index("val").to_coco(), data.categories.evaluated_ids, cfg.score_threshold)
    return instantiate(
        run.config.task,
        detector=detector,
        trainable=list(dict.fromkeys(trainable)),
        category_ids=list(data.categories.ids),
        scorer=scorer,
        seed=cfg.seed,
        optimizer={"lr": rate},
        _convert_="all",
    )


def write_results(run: PhaseRun, detector: EFPNDetector, data: DetectionDataModule, record: dict[str, Any]) -> None:
    """Leave ``metrics.json`` and, last, the checkpoint that says the phase is finished."""
    config_hash = run.config_hash(record.get("started_from"))
    write_json(run.folder / METRICS_FILE, record | {"config_hash": config_hash}, indent=2)
    weights = {key: value.detach().to("cpu", copy=True) for key, value in detector.state_dict().items()}
    classes = list(data.categories.names)
    checkpoint = Checkpoint(weights, run.name, classes, config_hash, record["metrics"], record["steps"])
    checkpoint.save(run.folder / CHECKPOINT_FILE)
    (run.folder / RESUME_FILE).unlink(missing_ok=True)
    log.info("phase %s finished: %s", run.name, run.folder / CHECKPOINT_FILE)
