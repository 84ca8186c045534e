"""Finding the finished phases of a run on disk; no torch."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from efpn.errors import UserError
from efpn.runs.names import CONFIG_FILE, HANDOVER_FILE

log = logging.getLogger(__name__)

ORDER = ("baseline", "control", "distill", "finetune")  # rows of the comparison, the most advanced one last


@dataclass(frozen=True)
class SavedRun:
    """A finished phase.

    Attributes:
        folder: of the phase.
        checkpoint: its weights.
        config: that it was trained with, resolved.
    """

    folder: Path
    checkpoint: Path
    config: DictConfig

    @property
    def phase(self) -> str:
        """Name of the phase, by its folder."""
        return self.folder.name

    @property
    def name(self) -> str:
        """``mosaic_efpn/finetune``."""
        return f"{self.config.name}/{self.phase}"


def saved_runs(path: str) -> list[SavedRun]:
    """The finished phases under ``path``: a run's folder, one phase's folder, or a checkpoint file.

    Raises:
        UserError: there is none, or its config is missing.
    """
    place = Path(path)
    if place.is_file():
        return [_saved(place)]
    if (place / HANDOVER_FILE).is_file():
        return [_saved(place / HANDOVER_FILE)]
    found = [place / phase / HANDOVER_FILE for phase in ORDER if (place / phase / HANDOVER_FILE).is_file()]
    if found:
        return [_saved(checkpoint) for checkpoint in found]
    if not place.exists():
        raise UserError(f"run={path}: no such file or folder; give a run's folder, such as outputs/demo/seed0")
    raise UserError(
        f"run={path}: no finished phase in it (no {HANDOVER_FILE}); finish one with `python train.py ... resume=true`, "
        "or give the folder outputs/<name>/seed<seed>"
    )


def latest_run(path: str) -> SavedRun:
    """The most advanced finished phase under ``path``; says which where there are several.

    Raises:
        UserError: as `saved_runs`.
    """
    runs = saved_runs(path)
    if len(runs) > 1:
        log.info("%s holds %s; taking %s", path, ", ".join(run.phase for run in runs), runs[-1].phase)
    return runs[-1]


def _saved(checkpoint: Path) -> SavedRun:
    config = checkpoint.parent / CONFIG_FILE
    if not config.is_file():
        raise UserError(f"{config}: not found beside {checkpoint.name}; evaluation needs the config of the run")
    loaded = OmegaConf.load(config)
    assert isinstance(loaded, DictConfig)
    return SavedRun(checkpoint.parent, checkpoint, loaded)
