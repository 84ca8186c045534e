"""What a config names, built: Lightning's Trainer, and a finished run's detector brought back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from efpn.errors import UserError
from efpn.models import EFPNDetector
from efpn.runs.checkpoints import Checkpoint, load_checkpoint
from efpn.runs.phases import model_config
from efpn.runs.saved import SavedRun


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
    """The detector of the run's own config, with its weights (raises `UserError`: what does not fit together).

    Phases of a run are given the same ``changes``: those of the extension are for such as have one that learns.
    """
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
    if changes and "upsampler" not in (node.get("extension") or {}):
        changes = OmegaConf.masked_copy(changes, [str(key) for key in changes if key != "extension"])
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


def make_trainer(node: DictConfig | dict[str, Any], **options: Any) -> pl.Trainer:
    """Instantiate ``trainer`` with these options and a settled precision (raises `UserError`: Lightning refuses)."""
    options = {"precision": settled_precision(node), **options}
    try:
        return instantiate(node, **options, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, MisconfigurationException | ValueError | TypeError):
            raise UserError(f"trainer: {error.__cause__}; correct trainer.KEY=VALUE") from None
        raise


def first_process() -> bool:
    """Whether this is the process that writes; Lightning keeps the rank on its decorator."""
    return int(vars(rank_zero_only).get("rank", 0)) == 0


def settled_precision(node: DictConfig | dict[str, Any]) -> Any:
    """The precision of a ``trainer`` node; for ``auto`` bf16-mixed where the device is made for it, else 32-true.

    A CPU without instructions for it emulates bf16, fifteen times slower than float32.
    """
    if node.get("precision") != "auto":
        return node.get("precision")
    accelerator = node.get("accelerator", "auto")
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = accelerator in ("auto", "cpu") and cpu_has_bf16()
    return "bf16-mixed" if fast else "32-true"


def cpu_has_bf16() -> bool:
    """Whether this CPU has instructions for bf16 (AVX-512 BF16 or AMX)."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)
