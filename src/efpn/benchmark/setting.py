"""What a benchmark's config says, checked before anything is built."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from omegaconf import DictConfig, OmegaConf

from efpn.errors import UserError
from efpn.runs.sweeps import key_of

PRECISIONS: Final = {"32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
SIZE: Final = 700  # pixels, where none is given
LONGEST: Final = 200  # characters of a file's name
# options that have a place of their own in a file's name, or say nothing of what is measured
UNNAMED: Final = (
    "what", "device", "run", "size", "precision", "images", "models", "steps", "threads", "repeats", "warmup",
    "memory", "out", "name",
)  # fmt: skip
UNTRAINED: Final = (  # what a trained run has of its own
    "backbone", "detector", "extension", "detail", "mining", "ftt_width", "small_roi_below", "classes", "proposals",
    "phases", "rows",
)  # fmt: skip


@dataclass(frozen=True)
class Composition:
    """What the proposals of one image are."""

    total: int
    small: int  # how many of them are small
    objects: int  # spots that the small ones lie around
    below: float  # pixels of the 1x image that ``sqrt(w * h)`` of a small one stays under


@dataclass(frozen=True, eq=False)
class Setting:
    """One setting; all that is measured beside each other shares it."""

    cfg: DictConfig  # conf/benchmark.yaml as it was composed
    height: int  # of the 1x image, pixels
    width: int
    device: torch.device
    proposals: Composition

    @property
    def layout(self) -> torch.memory_format:
        """Of our models in memory."""
        return torch.channels_last if self.cfg.channels_last else torch.contiguous_format

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision as a context; full precision is one that does nothing."""
        dtype = PRECISIONS[str(self.cfg.precision)]
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    @property
    def run(self) -> str | None:
        """Folder of a trained run, None for random weights."""
        return self.cfg.get("run")

    @property
    def seeds(self) -> range:
        """One for each image of the batch."""
        return range(self.cfg.seed, self.cfg.seed + self.cfg.batch)

    @property
    def run_name(self) -> str:
        """``mosaic_efpn/seed0``: the last two folders of the run."""
        return Path(*Path(str(self.run)).resolve().parts[-2:]).as_posix()

    @property
    def size_name(self) -> str:
        """``700``, or ``700x1000`` (height x width)."""
        if self.run and self.cfg.size is None:
            return "the run's own"
        return str(self.height) if self.height == self.width else f"{self.height}x{self.width}"

    @property
    def file_name(self) -> str:
        """Of the results, by what was measured: ``inference-cpu-700-32``, and what else was given."""
        if self.cfg.name:
            return str(self.cfg.name)
        run = [self.run_name.replace("/", "-")] if self.run else []
        size = [] if self.run and self.cfg.size is None else [self.size_name]
        marks = [re.sub(r"[^\w.]+", "-", word).strip("-") for word in self.cfg.words if key_of(word) not in UNNAMED]
        return "-".join([self.cfg.what, self.device.type, *run, *size, str(self.cfg.precision), *sorted(marks)])

    def changes(self) -> DictConfig:
        """What was given of ``model``: with a trained run, what differs from its own."""
        changes = OmegaConf.create({})
        for word in self.cfg.words:
            if (key := key_of(word)).startswith("model."):
                OmegaConf.update(changes, key.removeprefix("model."), OmegaConf.select(self.cfg, key))
        return changes

    def as_record(self) -> dict[str, Any]:
        """For JSON and Markdown; no path of the machine."""
        cfg, how = self.cfg, self.proposals
        if self.run:
            changes = self.changes()
            objectness = OmegaConf.select(changes, "rpn.score_thresh")
            own: dict[str, Any] = {"run": self.run_name, "objectness": objectness}
        else:
            own = {"backbone": cfg.backbone.get("arch") or cfg.backbone.get("name"), "channels": cfg.model.channels}
            own |= {"ftt_width": cfg.ftt_width, "classes": cfg.classes}
            own |= {"proposals": how.total, "small": how.small, "objects": how.objects, "small_below": how.below}
        named = ("batch", "channels_last", "compile", "precision", "repeats", "warmup", "seed")
        how_often = {name: cfg[name] for name in named} | {"precision": str(cfg.precision)}
        return {"size": self.size_name, **own, **how_often}


def read_setting(cfg: DictConfig) -> Setting:
    """Check a composed config, and give torch its threads (raises `UserError`: the option and what it may be)."""
    height, width = read_size(cfg.size or SIZE)
    try:
        device = torch.device(cfg.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):  # what torch raises depends on how it was built
        raise UserError(f"device={cfg.device}: not to be had here; use cpu, or cuda where there is a GPU") from None
    total, small, room = cfg.proposals.total, cfg.proposals.small, 0.8 * min(height, width)
    if cfg.get("run") or cfg.get("images"):
        if not (cfg.run and cfg.images):
            raise UserError("run= and images=: a trained run detects in real images; give both or neither")
        for word in cfg.words:
            if key_of(word) == "model" or key_of(word).split(".")[0] in UNTRAINED:
                raise UserError(f"{word}: a trained run= has its own; leave it out")
    elif total < small:
        raise UserError(f"proposals.total={total}: fewer than proposals.small={small}; raise it or lower the other")
    elif not 8 <= cfg.small_roi_below <= room:
        raise UserError(
            f"small_roi_below={cfg.small_roi_below:g}: must be from 8 to 0.8 of the image's shorter side ({room:g} "
            "here), so that small and other proposals fit in; give another, or another size="
        )
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    setting = Setting(cfg, height, width, device, Composition(**cfg.proposals, below=float(cfg.small_roi_below)))
    if len(setting.file_name) > LONGEST:
        raise UserError("name is not given, and all that was given makes too long a one for the files; name=NAME")
    return setting


def read_size(size: int | str) -> tuple[int, int]:
    """``700`` or ``700x1000`` as height and width."""
    parts = str(size).lower().split("x")
    return int(parts[0]), int(parts[-1])


def choose(option: str, asked: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """The names of ``asked`` in the order of ``known``; all where it is None (raises `UserError`: one is unknown)."""
    if asked is None:
        return list(known)
    if strange := [name for name in asked if name not in known]:
        raise UserError(f"{option}={list(asked)}: unknown {', '.join(strange)}; choose from {', '.join(known)}")
    return [name for name in known if name in asked]
