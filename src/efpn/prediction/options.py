"""What the command line of a prediction may say; checked without torch."""

from __future__ import annotations

from omegaconf import DictConfig, ListConfig

from efpn.errors import UserError, require_count, require_share
from efpn.prediction.slices import Slices


def asked_for(cfg: DictConfig) -> list[str]:
    """The files, folders and globs of ``cfg.pictures``."""
    return [str(word) for word in (cfg.pictures if isinstance(cfg.pictures, ListConfig) else [cfg.pictures])]


def slices_of(cfg: DictConfig) -> Slices | None:
    """How pictures are cut; None for whole ones.

    Raises:
        UserError: a size or an overlap that makes no windows.
    """
    if not isinstance(cfg.slices, DictConfig | None):
        raise UserError(f"slices={cfg.slices}: a group of options; give slices.size={cfg.slices}")
    return (
        None
        if cfg.slices is None or cfg.slices.size is None
        else Slices(**{str(key): value for key, value in cfg.slices.items()})
    )


def check_numbers(cfg: DictConfig) -> None:
    """Refuse numbers that mean nothing.

    Raises:
        UserError: with the option and what it may be.
    """
    for name in ("score_threshold", "min_score"):
        if cfg[name] is not None:
            require_share(name, cfg[name])
    for name in ("short_side", "batch_size"):
        if cfg[name] is not None:
            require_count(name, cfg[name], least=1)
