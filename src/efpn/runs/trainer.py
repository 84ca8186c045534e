"""Lightning's Trainer from the config's node."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from efpn.errors import UserError


def make_trainer(node: DictConfig | dict[str, Any], **options: Any) -> pl.Trainer:
    """Instantiate ``trainer`` with more or other options.

    Raises:
        UserError: Lightning refuses them (an unknown precision, an accelerator that is not here).
    """
    try:
        return instantiate(node, **options, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, MisconfigurationException | ValueError | TypeError):
            raise UserError(f"trainer: {error.__cause__}; correct trainer.KEY=VALUE") from None
        raise
