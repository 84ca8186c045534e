"""Phases as configs: what a run consists of, where it lives, and what it starts from."""

from __future__ import annotations

import difflib
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from efpn.errors import UserError
from efpn.runs.names import HANDOVER_FILE, RESUME_FILE

# what a resumed or repeated run may change without being another run
FREE_KEYS = ("trainer", "logger", "callbacks", "paths", "resume", "overwrite", "phase", "ckpt_path", "init_ckpt")


@dataclass(frozen=True)
class PhaseRun:
    """One phase of one run.

    Attributes:
        name: ``baseline``, ``distill``, ``finetune``, ``control``.
        folder: where it writes, ``<outputs>/<name>/seed<seed>/<phase>``.
        config: the phase's own node.
        config_hash: of everything that makes it this run and no other.
    """

    name: str
    folder: Path
    config: DictConfig
    config_hash: str

    @property
    def finished(self) -> bool:
        """Whether its handover is there."""
        return (self.folder / HANDOVER_FILE).is_file()

    @property
    def interrupted(self) -> bool:
        """Whether it left a point to resume from, but no handover."""
        return (self.folder / RESUME_FILE).is_file() and not self.finished


def phase_names(cfg: DictConfig) -> list[str]:
    """The phases to run, in order: ``cfg.phase`` itself, or ``cfg.sequence`` for ``all``.

    Raises:
        UserError: unknown phase, with the nearest right name.
    """
    if cfg.phase == "all":
        return list(cfg.sequence)
    known = [*cfg.phases, "all"]
    if cfg.phase not in known:
        near = difflib.get_close_matches(str(cfg.phase), known, 1)
        hint = f" (did you mean phase={near[0]}?)" if near else ""
        raise UserError(f"phase={cfg.phase}: unknown{hint}; use one of {', '.join(known)}")
    return [cfg.phase]


def phase_run(cfg: DictConfig, name: str) -> PhaseRun:
    """Describe phase ``name`` of this config."""
    identity = {k: v for k, v in plain_config(cfg).items() if k not in (*FREE_KEYS, "phases", "sequence")}
    identity["phase"] = plain_config(cfg)["phases"][name]
    text = json.dumps(identity, sort_keys=True, default=str)
    return PhaseRun(name, Path(cfg.paths.run) / name, cfg.phases[name], hashlib.sha256(text.encode()).hexdigest()[:12])


def model_config(cfg: DictConfig, name: str) -> DictConfig:
    """The detector of phase ``name``: the common one with what the phase adds (neck, small RoIs, OHEM)."""
    merged = OmegaConf.create({**cfg.model, **cfg.phases[name].get("model", {})})
    merged._set_parent(cfg)
    assert isinstance(merged, DictConfig)
    return merged


def find_init(cfg: DictConfig, run: PhaseRun) -> Path | None:
    """The weights that a phase starts from: ``init_ckpt``, or the handover of the phase before it.

    In a sweep the phase before may lie in the unswept run's folder.

    Raises:
        UserError: there is no such handover; the message gives the command that makes it.
    """
    if cfg.init_ckpt:
        return Path(cfg.init_ckpt)
    before = run.config.init_from
    if before is None:
        return None
    places = [Path(folder) / before / HANDOVER_FILE for folder in (cfg.paths.run, cfg.paths.unswept)]
    for place in places:
        if place.is_file():
            return place
    raise UserError(
        f"phase={run.name} starts from the weights of phase={before}, and {places[0]} is not there; make it with "
        f"`{command(before)}`, or give other weights with init_ckpt=FILE"
    )


def command(phase: str) -> str:
    """The command line that runs ``phase`` of this run."""
    given = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    words = [word for word in given if not word.startswith(("phase=", "resume="))]
    return " ".join(["python train.py", *words, f"phase={phase}"])


def plain_config(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config as plain dicts."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
