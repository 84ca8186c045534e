"""What the command line of an export may say; checked without torch."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from efpn.prediction.options import asked_for
from efpn.prediction.pictures import find_pictures


def given_pictures(cfg: DictConfig, out: Path) -> list[Path]:
    """At most ``check.pictures`` of the files that ``pictures`` names; empty where the run's own are meant."""
    if cfg.pictures is None:
        return []
    return [picture.path for picture in find_pictures(asked_for(cfg), out)][: cfg.check.pictures]
