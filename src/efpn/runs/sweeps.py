"""The jobs of a sweep: what each of them varies, what they share, and the row of a table that each leaves. No torch."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from efpn.runs.files import ROW_FILE, read_json, write_json

CONF = Path(__file__).parents[3] / "conf"
ALIKE = ("phase", "seed", "experiment")  # swept or not, they have a place of their own in a run's path


class SweptKeys(metaclass=Singleton):
    """Keys that the user's command line sweeps over; with Hydra's own state they reach the jobs of every launcher."""

    def __init__(self) -> None:
        self.keys: set[str] = set()


def in_sweep() -> bool:
    """Whether Hydra was called with ``-m``."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def swept_words() -> list[str]:
    """This job's values of what is swept, ``loss.lambda_pos=0.5``, and its row, be it the only one; none without -m."""
    if not in_sweep():
        return []
    keys = {"row", *SweptKeys().keys, *map(key_of, HydraConfig.get().sweeper.params or {})}
    return [word for word in HydraConfig.get().overrides.task if key_of(word) in keys]


def own_words() -> list[str]:
    """Those of `swept_words` that make this job another run than the unswept one."""
    return [word for word in swept_words() if key_of(word) not in ALIKE]


def key_of(word: str) -> str:
    """The key of an override, ``size`` of ``size=700``."""
    return word.split("=")[0].lstrip("+~")


def sweep_folder() -> str:
    """``loss.lambda_pos-0.5/`` or, of a row, ``espcn/`` inside a sweep, else nothing; without ``=`` and ``,``."""
    words = [word.lstrip("+").removeprefix("row=") for word in own_words()]
    return re.sub(r"[^\w.+-]+", "-", "_".join(words)) + "/" if words else ""


@lru_cache(maxsize=16)
def composed(words: tuple[str, ...]) -> tuple[DictConfig, Any]:
    """The config of this command line with these words, its run where the unswept one lies; and as plain dicts."""
    cfg = compose(HydraConfig.get().job.config_name, list(words))
    cfg.paths.job = f"{cfg.name}/seed{cfg.seed}"
    return cfg, OmegaConf.to_container(cfg, resolve=True)


def note_row(cfg: DictConfig, last: Path) -> None:
    """Write which row of which tables a job of a sweep is: its title, and where its last phase lies, in ``last``."""
    path = Path(cfg.paths.run) / ROW_FILE
    before = read_json(path, "remove it") if path.is_file() else {}
    sweeps = before.get("sweeps", {})
    if (name := HydraConfig.get().runtime.choices.get("sweep")) is not None:
        sweeps[name] = HydraConfig.get().job.num  # of the job: the order of the rows
    title = cfg.title or path.parent.parent.name
    if "row" in map(key_of, own_words()):
        title = ", ".join([title, *(word for word in own_words() if key_of(word) != "row")])
    phase = os.path.relpath(last, path.parent)
    if cfg.phase != "all":  # a part of the row trained by itself is not the row
        phase = before.get("phase", phase)
    write_json(path, {"title": title, "phase": phase, "sweeps": sweeps}, indent=2)


def read_row(path: Path) -> dict[str, Any]:
    """What `note_row` has written, ``phase`` as a path (raises `UserError`: it is damaged)."""
    fix = "the sweep's command writes it anew once it is removed"
    record = read_json(path, fix, "row", ("title", "phase", "sweeps"))
    return {**record, "phase": Path(os.path.normpath(path.parent / record["phase"]))}


def number_of(row: dict[str, Any]) -> int:
    """Where a row stands among those of all sweeps, by its first job."""
    return min(row["sweeps"].values(), default=0)


def rows_of(sweep: str) -> list[str]:
    """The rows that ``conf/sweep`` names for a sweep, in order; none of one that goes over values, or is not there."""
    file = CONF / "sweep" / f"{sweep}.yaml"
    words = OmegaConf.select(OmegaConf.load(file), "hydra.sweeper.params", default={}) if file.is_file() else {}
    return [name.strip() for name in str((words or {}).get("+row", "")).split(",") if name]


def rows_artifact(name: str) -> str:
    """What W&B calls the table of all rows of the sweeps of this ``name``."""
    return "rows-" + re.sub(r"[^\w.-]", "-", name)
