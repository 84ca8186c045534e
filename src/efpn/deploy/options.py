"""What the command line of an export may say; checked without torch."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from efpn.prediction.images import asked_for, find_images


def given_images(cfg: DictConfig, out: Path) -> list[Path]:
    """At most ``check.images`` of the files that ``images`` names; empty where the run's own are meant."""
    if cfg.images is None:
        return []
    return [image.path for image in find_images(asked_for(cfg), out)][: cfg.check.images]
