"""What the command line of an export may say; checked without torch."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from efpn.errors import UserError, require_count
from efpn.prediction.options import asked_for
from efpn.prediction.pictures import find_pictures


def check_numbers(cfg: DictConfig) -> None:
    """Refuse numbers that mean nothing.

    Raises:
        UserError: with the option and what it may be.
    """
    require_count("check.pictures", cfg.check.pictures, least=1)
    for name in ("boxes", "scores"):
        value = cfg.check[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise UserError(f"check.{name}={value}: must be a number greater than 0")


def given_pictures(cfg: DictConfig, out: Path) -> list[Path]:
    """At most ``check.pictures`` of the files that ``pictures`` names; empty where the run's own are meant."""
    if cfg.pictures is None:
        return []
    return [picture.path for picture in find_pictures(asked_for(cfg), out)][: cfg.check.pictures]
