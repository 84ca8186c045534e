"""Phases as configs: what a run consists of, where it lives, and what it starts from."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from efpn.configs import leaves
from efpn.errors import UserError
from efpn.runs.files import read_config
from efpn.runs.names import CONFIG_FILE, HANDOVER_FILE, METRICS_FILE, RESUME_FILE, SWEPT

# What a resumed or repeated run may change without being another run: how it runs and where things lie. The loss, the
# extension and the like are part of a phase's own node where the phase uses them.
FREE = (
    "trainer", "logger", "callbacks", "paths", "resume", "overwrite", "phase", "phases", "sequence", "ckpt_path",
    "init_ckpt", "score_threshold", "backbone.weights", "model.backbone.weights", "data.root", "data.source.root",
    "loss", "extension", "detail", "ftt_width", "small_roi_below", "model.windows", "model.rpn.score_thresh",
    "model.leaves_out",
    "data.num_workers", "data.eval_batch_size", "data.limit_val", "data.check_images",
)  # fmt: skip
ONE_PHASE = ("resume=", "overwrite=", "phase=", "ckpt_path=", "init_ckpt=")  # overrides that are not the whole run's


@dataclass(frozen=True)
class PhaseRun:
    """One phase of one run.

    Attributes:
        name: ``baseline``, ``distill``, ``finetune`` or another of ``cfg.phases``.
        folder: where it writes, ``<outputs>/<name>/seed<seed>/<phase>``.
        config: the phase's own node.
        identity: everything that makes it this run and no other, by dotted key.
    """

    name: str
    folder: Path
    config: DictConfig
    identity: dict[str, Any]

    @property
    def config_hash(self) -> str:
        """Short digest of the identity."""
        text = json.dumps(self.identity, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def finished(self) -> bool:
        """Whether its handover is there."""
        return (self.folder / HANDOVER_FILE).is_file()

    @property
    def interrupted(self) -> bool:
        """Whether it left a point to resume from, but no handover."""
        return (self.folder / RESUME_FILE).is_file() and not self.finished

    def require_same_config(self) -> None:
        """Refuse to keep or continue what was run with another config.

        Raises:
            UserError: with the keys that differ.
        """
        saved = read_config(self.folder / CONFIG_FILE)
        if self.name not in saved.phases:
            raise UserError(f"{self.folder / CONFIG_FILE}: not of this phase; overwrite=true starts it again")
        before = phase_run(saved, self.name).identity
        keys = sorted(k for k in before.keys() | self.identity.keys() if before.get(k) != self.identity.get(k))
        if keys:
            changes = ", ".join(f"{key} ({before.get(key)} -> {self.identity.get(key)})" for key in keys[:5])
            raise UserError(
                f"phase={self.name} in {self.folder} was run with another config: {changes}"
                f"{' and more' if len(keys) > 5 else ''}; name=OTHER runs this elsewhere, overwrite=true starts again"
            )

    def clear(self) -> None:
        """Remove what an earlier run of this phase left to go on from; its reports stay."""
        for name in (HANDOVER_FILE, RESUME_FILE, METRICS_FILE):
            (self.folder / name).unlink(missing_ok=True)


def phase_names(cfg: DictConfig) -> list[str]:
    """The phases to run, in order: ``cfg.phase`` itself, or ``cfg.sequence`` for ``all``.

    Raises:
        UserError: unknown phase, with the nearest right name, or one whose options are gone.
    """
    known = [*cfg.phases, "all"]
    names = list(cfg.sequence) if cfg.phase == "all" else [cfg.phase]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = f" (did you mean phase={near[0]}?)" if near else ""
            raise UserError(f"phase={name}: unknown{hint}; use one of {', '.join(known)}")
        if name != "all" and not OmegaConf.is_dict(cfg.phases[name]):
            raise UserError(f"phases.{name}={cfg.phases[name]}: a phase is a group of options; leave it as it is")
    return names


def phase_run(cfg: DictConfig, name: str) -> PhaseRun:
    """Describe phase ``name`` of this config."""
    plain = plain_config(cfg)
    identity = {k: v for k, v in leaves(plain) if not any(k == f or k.startswith(f"{f}.") for f in FREE)}
    identity |= {f"phases.{name}.{k}": v for k, v in leaves(plain["phases"][name]) if not k.startswith("val_")}
    return PhaseRun(name, Path(cfg.paths.run) / name, cfg.phases[name], identity)


def model_config(cfg: DictConfig, name: str) -> DictConfig:
    """The detector of phase ``name``: the common one with what the phase adds (neck, the rule for what is small).

    Nodes that the chosen detector does not read are left out.
    """
    unread = ("leaves_out", *cfg.model.leaves_out)
    common = {key: value for key, value in cfg.model.items_ex(resolve=False) if key not in unread}
    merged = OmegaConf.create({**common, **cfg.phases[name].get("model", {})})
    merged._set_parent(cfg)
    assert isinstance(merged, DictConfig)
    return merged


def reads_2x(model: DictConfig) -> bool:
    """Whether the detector of this ``model`` node reads the 2x images."""
    detail = model.get("detail")
    return model.extension is not None and detail is not None and bool(instantiate(detail).reads_2x)


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
        f"phase={run.name} starts from the weights of phase={before}, and {places[-1]} is not there; make it with "
        f"`{command(before)}`, or give other weights with init_ckpt=FILE"
    )


def in_sweep() -> bool:
    """Whether Hydra was called with ``-m``."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def command(phase: str) -> str:
    """The command line that runs ``phase`` of this run."""
    given = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    swept = tuple(f"{key}=" for key in os.environ.get(SWEPT, "").split(",") if key)
    words = [word for word in given if not word.startswith((*ONE_PHASE, *swept))]
    return shlex.join(["python", "train.py", *words, f"phase={phase}"])


def plain_config(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config as plain dicts."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
