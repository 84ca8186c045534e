"""What would end or spoil a phase, found before the phases ahead of it train and before any data are read."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from efpn.errors import UserError
from efpn.models import EFPNDetector
from efpn.runs.checkpoints import read_checkpoint
from efpn.runs.files import LOCK_FILE
from efpn.runs.lock import refuse_or_clear
from efpn.runs.phases import PhaseRun, model_config
from efpn.runs.rebuild import first_process
from efpn.tasks.freezing import train_only
from efpn.weights import require_fit

log = logging.getLogger(__name__)


def check_phase(cfg: DictConfig, run: PhaseRun) -> None:
    """Find what would end a phase before the phases ahead of it train, and never write over one unasked."""
    if first_process() and not run.shared:
        refuse_or_clear(run.folder / LOCK_FILE)
    detector = blank_detector(cfg, run.name)
    train_only(detector, run.config.task.get("trainable", ["*"]))
    if "loss" in run.config.task:
        instantiate(run.config.task.loss)  # a bad weight
    if run.config.init_from not in (None, *cfg.phases):
        raise UserError(
            f"phases.{run.name}.init_from={run.config.init_from}: no such phase; use null or one of "
            f"{', '.join(cfg.phases)}"
        )
    if run.config.init_from is not None and not cfg.init_ckpt:
        before = blank_detector(cfg, run.config.init_from).state_dict()
        what, fix = f"what phase={run.config.init_from} leaves for {run.name}", "give both phases the same model"
        require_fit(before, detector.state_dict(), what, fix, new_parts(cfg, run, detector))
    if run.config.val_every % run.config.checkpoint_every:
        raise UserError(
            f"phases.{run.name}.val_every={run.config.val_every}: must be a multiple of checkpoint_every="
            f"{run.config.checkpoint_every}"
        )
    if cfg.overwrite or not (run.finished or (run.interrupted and not cfg.ckpt_path)):
        check_start(cfg, run)
        return
    if not cfg.resume:
        state = "finished" if run.finished else "under way"
        raise UserError(
            f"phase={run.name} is {state} in {run.folder}; resume=true keeps what is there and goes on, overwrite=true "
            "starts again, name=OTHER goes elsewhere"
        )
    run.require_same_config()


def check_start(cfg: DictConfig, run: PhaseRun) -> None:
    """Read the weights that a phase starts from, before any data are read; says what stays frozen without any.

    Raises:
        UserError: ``init_ckpt`` is missing or damaged.
        InstantiationException: so are the backbone's weights, or they do not fit.
    """
    if cfg.ckpt_path:
        return  # which `run_phase` reads first of all
    if cfg.init_ckpt:
        read_checkpoint(Path(cfg.init_ckpt))
        return
    if run.config.init_from is not None:
        return
    backbone = model_config(cfg, run.name).backbone
    if backbone.get("weights") is not None:
        instantiate(backbone, _convert_="all")
    elif not all(one.requires_grad for one in blank_detector(cfg, run.name).backbone.body.parameters()):
        log.warning(
            "backbone.weights=null: a part of the backbone stays frozen at random weights; to train from scratch "
            "backbone.norm=batch backbone.trainable_stages=5"
        )


def blank_detector(cfg: DictConfig, phase: str) -> EFPNDetector:
    """The detector of a phase without numbers in it, on no device: it proves the config, and tells its parts."""
    with torch.device("meta"):
        return instantiate(model_config(cfg, phase), num_classes=2, backbone={"weights": None}, _convert_="all")


def new_parts(cfg: DictConfig, run: PhaseRun, detector: EFPNDetector) -> list[str]:
    """Parts of the detector that the phase before it has not; name prefixes among `EFPNDetector.starters`."""
    if run.config.init_from is None:
        return []
    before = list(blank_detector(cfg, run.config.init_from).state_dict())
    there = [part for part in detector.starters() if any(key.startswith(part) for key in detector.state_dict())]
    return [part for part in there if not any(key.startswith(part) for key in before)]
