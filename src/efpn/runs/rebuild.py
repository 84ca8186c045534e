"""A finished run brought back: its detector, the size of its images, and a Trainer that only runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from efpn.errors import UserError
from efpn.models import EFPNDetector
from efpn.runs.checkpoints import Checkpoint, load_checkpoint
from efpn.runs.phases import model_config
from efpn.runs.saved import SavedRun
from efpn.runs.trainer import make_trainer


def rebuild_detector(
    run: SavedRun,  # the finished phase
    checkpoint: Checkpoint,  # its weights and classes
    *,
    small_roi_below: float | None = None,  # 1x pixels, if another than the run's own
    small: Mapping[str, Any] | None = None,  # node of `efpn.models.SmallRoIs`, if read otherwise than in training
    extension: bool = True,  # False leaves the extension out, whose levels are given then
    detail: DictConfig | None = None,  # where C2' comes from, if otherwise than trained; not read without an extension
    changes: DictConfig | None = None,  # what else differs from the run's own ``model`` node
) -> EFPNDetector:
    """The detector of the run's own config, with its weights (raises `UserError`: what does not fit together)."""
    config = run.config.copy()
    if small_roi_below:
        config.small_roi_below = small_roi_below
        if "small.below" in config.model.leaves_out:
            raise UserError(f"small_roi_below={small_roi_below}: the detector of {run.folder} does not read it")
    node = model_config(config, run.phase)
    if small:
        node.update({"small": small} if extension else {"small": small, "extension": None})
    elif small_roi_below and node.small:
        node.small.below = small_roi_below
    if detail:
        node.detail = detail
    if changes:
        for key, change in changes.items():
            if OmegaConf.is_dict(change) and not OmegaConf.is_dict(node.get(key)):
                raise UserError(f"model.{key!s}: the {run.phase} phase in {run.folder} has none to change")
        node.merge_with(changes)
    given = {"num_classes": len(checkpoint.classes) + 1, "backbone": {"weights": None}}
    try:
        detector: EFPNDetector = instantiate(node, **given, _convert_="all")
    except InstantiationException as error:
        if not changes or not isinstance(error.__cause__, TypeError):
            raise
        raise UserError(f"model: {error.__cause__}; the config of {run.folder} shows what there is") from None
    load_checkpoint(detector, checkpoint, [], run.checkpoint)
    return detector


def resize_to(transform: DictConfig, short_side: int | None) -> None:
    """Set the shorter side of an ``eval_transform`` node, in 1x pixels; the cap on the longer one keeps its ratio."""
    if short_side:
        ratio = short_side / transform.short_side
        transform.short_side = short_side
        transform.max_size = round(transform.max_size * ratio)


def quiet_trainer(node: DictConfig, run: SavedRun, **more: Any) -> pl.Trainer:
    """Lightning's Trainer of a ``trainer`` node, by default of the run's precision, that leaves no file.

    ``more`` are options that come before all others.
    """
    own = {str(key): value for key, value in node.items()}
    options = {**own, "precision": node.precision or run.config.trainer.precision}
    quiet = {"logger": False, "enable_checkpointing": False, "use_distributed_sampler": False}
    return make_trainer({**options, **quiet, "default_root_dir": str(run.folder), **more})
