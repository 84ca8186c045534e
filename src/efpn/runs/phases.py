"""Phases as configs: what a run consists of, where it lives, and what it starts from."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from efpn.errors import UserError, nearest
from efpn.ranges import leaves
from efpn.runs.files import (
    CHECKPOINT_FILE,
    CONFIG_FILE,
    FORMER_FILE,
    METRICS_FILE,
    RESUME_FILE,
    checkpoint_in,
    read_config,
)
from efpn.runs.sweeps import composed, own_words

# What is part of a phase's own node where the phase uses it, or says nothing of a phase.
USED_BY_PHASES = (
    "phase", "phases", "sequence", "title", "paths", "loss", "extension", "detail", "ftt_width", "small_roi_below",
    "mining",
)  # fmt: skip
# What a resumed or repeated run may change without being another run: that, how it runs and where things lie.
FREE = (
    *USED_BY_PHASES, "trainer", "logger", "callbacks", "resume", "overwrite", "ckpt_path", "init_ckpt", "score_after",
    "score_threshold", "objective", "backbone.weights", "model.backbone.weights", "data.root", "data.source.root",
    "model.tiles", "model.leaves_out",
    "model.rpn.score_thresh", "data.num_workers", "data.eval_batch_size", "data.limit_val", "data.check_images",
)  # fmt: skip
MARGIN = "model.extension.margin"  # of a phase's own node, as free as model.tiles
ONE_PHASE = ("resume=", "overwrite=", "phase=", "ckpt_path=", "init_ckpt=")  # overrides that are not the whole run's


@dataclass(frozen=True)
class PhaseRun:
    """One phase of one run."""

    name: str  # ``baseline``, ``distill``, ``finetune`` or another of ``cfg.phases``
    folder: Path  # where it writes, ``<outputs>/<name>/seed<seed>/<phase>``
    config: DictConfig  # the phase's own node
    identity: dict[str, Any]  # everything that makes it this run and no other, by dotted key
    shared: bool = False  # whether the jobs of a sweep share it

    def config_hash(self, started_from: str | None = None) -> str:
        """Short digest of the identity and, where weights of another phase began it, of that one's digest."""
        text = json.dumps(self.identity, sort_keys=True, default=str) + (started_from or "")
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def checkpoint(self) -> Path:
        """What it leaves when it is finished."""
        return checkpoint_in(self.folder)

    @property
    def finished(self) -> bool:
        """Whether its checkpoint is there."""
        return self.checkpoint.is_file()

    @property
    def interrupted(self) -> bool:
        """Whether it left a point to resume from, but no checkpoint."""
        return (self.folder / RESUME_FILE).is_file() and not self.finished

    def require_same_config(self) -> None:
        """Refuse to keep or continue what was run with another config (raises `UserError`: the keys that differ)."""
        saved = read_config(self.folder / CONFIG_FILE)
        if self.name not in saved.phases:
            raise UserError(f"{self.folder / CONFIG_FILE}: not of this phase; overwrite=true starts it again")
        before = phase_run(saved, self.name).identity
        keys = sorted(k for k in before.keys() | self.identity.keys() if before.get(k) != self.identity.get(k))
        if keys:
            again = f"`{command(self.name)} overwrite=true`" if self.shared else "overwrite=true"
            changes = ", ".join(f"{key} ({before.get(key)} -> {self.identity.get(key)})" for key in keys[:5])
            raise UserError(
                f"phase={self.name} in {self.folder} was run with another config: {changes}"
                f"{' and more' if len(keys) > 5 else ''}; name=OTHER runs this elsewhere, {again} starts again"
            )

    def clear(self, resume_point: bool) -> None:
        """Remove an earlier run's checkpoint and, if asked, its ``resume_point`` with the record; reports stay."""
        for name in (CHECKPOINT_FILE, FORMER_FILE, *((RESUME_FILE, METRICS_FILE) if resume_point else ())):
            (self.folder / name).unlink(missing_ok=True)


def phase_names(cfg: DictConfig) -> list[str]:
    """The phases to run, in order: ``cfg.phase``, or ``cfg.sequence`` for ``all``.

    Raises:
        UserError: one is no phase, or any of the config's is mistyped, no group, or changes what all phases share.
    """
    for name, phase in cfg.phases.items():
        if phase is not None:
            check_phase_node(cfg, str(name), phase)
    known = [*cfg.phases, "all"]
    names = list(cfg.sequence) if cfg.phase == "all" else [cfg.phase]
    for name in names:
        if name not in known:
            raise UserError(f"phase={name}: unknown{nearest(name, known)}; use one of {', '.join(known)}")
        if name != "all" and cfg.phases[name] is None:
            raise UserError(f"phases.{name}=null: a phase is a group of options; leave it as it is")
    return names


def check_phase_node(cfg: DictConfig, name: str, phase: Any) -> None:
    """Refuse a node of ``cfg.phases`` that is no phase (raises `UserError`: what is wrong with it)."""
    if not OmegaConf.is_dict(phase):
        raise UserError(f"phases.{name}={phase}: a phase is a group of options; leave it as it is")
    if not OmegaConf.is_dict(phase.get("model", cfg.model)):
        raise UserError(f"phases.{name}.model={phase.model}: is a group of options; leave it as it is")
    if OmegaConf.select(phase, "task._target_") is None:
        near = nearest(f"phases.{name}", [f"phases.{one}" for one in cfg.phases if one != name])
        raise UserError(f"phases.{name}: no phase, as it has no task{near}; --cfg job prints those there are")
    for key, node in phase.get("model", {}).items():
        if OmegaConf.is_dict(node) and "_target_" not in node and key in cfg and key not in cfg.model:
            option = f"{key}.{next(iter(node), 'KEY')}"
            raise UserError(f"phases.{name}.model.{option}: the phases share one {key}; give {option}=VALUE")


def phase_run(cfg: DictConfig, name: str) -> PhaseRun:
    """Describe phase ``name`` of this config."""
    plain = plain_config(cfg)
    identity = {k: v for k, v in leaves(plain) if not any(k == f or k.startswith(f"{f}.") for f in FREE)}
    identity |= {
        f"phases.{name}.{k}": v for k, v in leaves(plain["phases"][name]) if not k.startswith("val_") and k != MARGIN
    }
    shared = bool(own_words()) and cfg.paths.run == cfg.paths.unswept
    return PhaseRun(name, Path(cfg.paths.run) / name, cfg.phases[name], identity, shared)


def own_config(cfg: DictConfig, name: str) -> DictConfig:
    """The config that phase ``name`` is run with, and whose folder it lies in.

    In a sweep that is the unswept run's, unless a swept value changes the phase or one that it starts from: jobs share
    what is the same for all of them.
    """
    own = own_words()
    if not own:
        return cfg
    words = HydraConfig.get().overrides.task
    _, mine = composed(tuple(words))
    unswept, plain = composed(tuple(word for word in words if word not in own))
    common = [{key: value for key, value in one.items() if key not in USED_BY_PHASES} for one in (mine, plain)]
    lineage: list[str] = []
    while name in cfg.phases and name not in lineage:
        lineage.append(name)
        name = cfg.phases[name].init_from
    same = common[0] == common[1] and all(mine["phases"][one] == plain["phases"][one] for one in lineage)
    return unswept if same else cfg


def model_config(cfg: DictConfig, name: str) -> DictConfig:
    """The common detector with what phase ``name`` adds, and without nodes that the chosen detector does not read."""
    unread = ("leaves_out", *cfg.model.leaves_out)
    common = OmegaConf.create({key: value for key, value in cfg.model.items_ex(resolve=False) if key not in unread})
    own = {key: value for key, value in cfg.phases[name].get("model", {}).items() if key not in unread}
    return changed_model(common, own, cfg)


def changed_model(model: DictConfig, changes: Mapping[Any, Any], root: DictConfig) -> DictConfig:
    """A ``model`` node of the config ``root``, with ``changes``.

    A node that names its class (``_target_``), like a plain value or null, takes the place of what is there; another
    changes keys in that. What the changes refer to (``${...}``) is resolved.
    """
    new = dict(changes)
    changed = {key for key, value in new.items() if OmegaConf.is_dict(value) and "_target_" not in value}
    kept = {key: value for key, value in model.items_ex(resolve=False) if key in changed or key not in new}
    merged = OmegaConf.create(kept)
    merged._set_parent(root)  # first, as a node may stand elsewhere (backbone: ${backbone})
    with open_dict(merged):
        merged.merge_with(new)
    return merged


def reads_2x(model: DictConfig) -> bool:
    """Whether the detector of this ``model`` node reads the 2x images."""
    detail = model.get("detail")
    return model.extension is not None and detail is not None and bool(instantiate(detail).reads_2x)


def find_init(cfg: DictConfig, run: PhaseRun) -> Path | None:
    """The weights that a phase starts from: ``init_ckpt``, or those of the phase before (`own_config`).

    Where there are none, a `UserError` gives the command that makes them.
    """
    if cfg.init_ckpt:
        return Path(cfg.init_ckpt)
    before = run.config.init_from
    if before is None:
        return None
    home = own_config(cfg, before)
    place = checkpoint_in(Path(home.paths.run) / before)
    if place.is_file():
        return place
    apart = own_words() and home is cfg  # what is swept changes it: no command but the sweep's own makes it
    how = f"the same sweep and phase={before}" if apart else f"`{command(before)}`"
    raise UserError(
        f"phase={run.name} starts from the weights of phase={before}, and {place} is not there; make it with "
        f"{how}, or give other weights with init_ckpt=FILE"
    )


def command(phase: str) -> str:
    """The command line that runs ``phase`` of this run, outside a sweep."""
    given = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    words = [word for word in given if not word.startswith((*ONE_PHASE, "+sweep=")) and word not in own_words()]
    return shlex.join(["python", "train.py", *words, f"phase={phase}"])


def plain_config(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config as plain dicts."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
