"""What the command line of a prediction may say; checked without torch."""

from __future__ import annotations

from omegaconf import DictConfig, ListConfig

from efpn.errors import UserError
from efpn.prediction.slices import Slices


def asked_for(cfg: DictConfig) -> list[str]:
    """The files, folders and globs of ``cfg.images``."""
    return [str(word) for word in (cfg.images if isinstance(cfg.images, ListConfig) else [cfg.images])]


def slices_of(cfg: DictConfig) -> Slices | None:
    """How images are cut; None for whole ones.

    Raises:
        UserError: something else than a group of options.
    """
    if not isinstance(cfg.slices, DictConfig | None):
        raise UserError(f"slices={cfg.slices}: a group of options; give slices.size={cfg.slices}")
    return (
        None
        if cfg.slices is None or cfg.slices.size is None
        else Slices(**{str(key): value for key, value in cfg.slices.items()})
    )
