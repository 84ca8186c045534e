"""What the command line of an export may say; checked without torch."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, ListConfig

from efpn.errors import UserError, require_count
from efpn.prediction.pictures import find_pictures
from efpn.runs.saved import SavedRun


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


def out_folder(cfg: DictConfig, run: SavedRun) -> Path:
    """Where the file goes: ``cfg.out``, or ``export`` in the phase's folder."""
    return Path(cfg.out).expanduser() if cfg.out else run.folder / "export"


def given_pictures(cfg: DictConfig, out: Path) -> list[Path]:
    """At most ``check.pictures`` of the files that ``pictures`` names; empty where the run's own are meant."""
    if cfg.pictures is None:
        return []
    words = cfg.pictures if isinstance(cfg.pictures, ListConfig) else [cfg.pictures]
    found = find_pictures([str(word) for word in words], out)
    return [picture.path for picture in found][: cfg.check.pictures]
