"""File names inside a run's folder; apart from torch, so that a command line can look for them at once."""

from pathlib import Path

RESUME_FILE = "last.ckpt"
CHECKPOINT_FILE = "weights.ckpt"  # of a finished phase
FORMER_FILE = "handover.ckpt"  # what it was called before version 0.2
CONFIG_FILE = "config.yaml"
METRICS_FILE = "metrics.json"
LOCK_FILE = ".lock"
ROW_FILE = "row.json"  # in the folder of a sweep's job: which row of a table it is


def checkpoint_in(folder: Path) -> Path:
    """The checkpoint of the finished phase in ``folder``, by the name that it has there or is to have."""
    now, former = folder / CHECKPOINT_FILE, folder / FORMER_FILE
    return former if former.is_file() and not now.is_file() else now


def finished_in(folder: Path, depth: str = "*") -> list[Path]:
    """The checkpoints of all finished phases whose folders match the pattern ``depth`` below ``folder``, sorted."""
    phases = {file.parent for name in (CHECKPOINT_FILE, FORMER_FILE) for file in folder.glob(f"{depth}/{name}")}
    return [checkpoint_in(phase) for phase in sorted(phases)]
