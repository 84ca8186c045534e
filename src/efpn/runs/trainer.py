"""Lightning's Trainer from the config's node."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from efpn.errors import UserError


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
