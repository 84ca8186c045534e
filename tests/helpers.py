"""The real configs at tiny scale."""

from __future__ import annotations

import io
import json
import logging
import runpy
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from scripts import ROOT, Call

import efpn.entry  # noqa: F401  (registers the configs' resolver)

STEPS = 4
TINY = [
    "experiment=demo",
    "backbone.arch=resnet10",
    "data.source.counts={train: 8, val: 5, test: 4}",
    "data.source.options.side=128",
    "data.train_transform.short_side=64",
    "data.train_transform.max_size=64",
    "data.train_transform.crop=64",
    "data.batch_size=2",
    "data.eval_batch_size=2",
    "data.num_workers=0",
    "model.channels=8",
    "model.roi.head_width=16",
    "model.roi.batch_size=16",
    "ftt_width=8",
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "logger=none",
    "callbacks=none",
    *(f"phases.{phase}.max_steps={STEPS}" for phase in ("baseline", "distill", "finetune")),
    *(f"phases.{phase}.checkpoint_every=2" for phase in ("baseline", "distill", "finetune")),
    *(f"phases.{phase}.val_every={STEPS}" for phase in ("baseline", "distill", "finetune")),
]


def config(name: str, *overrides: str) -> DictConfig:
    """Compose one of the real primary configs; each composition once, and a copy of it for every call."""
    return composed(name, overrides).copy()


@cache
def composed(name: str, overrides: tuple[str, ...]) -> DictConfig:
    """What `config` copies."""
    folder = ROOT / "conf" / ("summarise" if name == "summarise" else "")
    with initialize_config_dir(str(folder), version_base="1.3"):
        return compose(name, list(overrides))


def tiny(outputs: Path, data: Path, *overrides: str) -> DictConfig:
    """The demo, shrunk to seconds; what `TINY` says of a group is left out where that is chosen anew."""
    chosen = {override.partition("=")[0] for override in overrides}
    shrunk = [word for word in TINY if word.partition(".")[0] not in chosen]
    return config("train", *shrunk, f"paths.outputs={outputs}", f"data.root={data}", *overrides)


def one_step(*phases: str) -> list[str]:
    """Overrides that end phases after a step, validation included."""
    return [f"phases.{phase}.{key}=1" for phase in phases for key in ("max_steps", "checkpoint_every", "val_every")]


def run(script: str, *arguments: str, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
    """Call one of the command-line entries in a process of its own; a ``PYTHONPATH`` comes before what is there."""
    with tempfile.TemporaryDirectory() as folder:
        return Call(script, arguments, Path(folder) / "said", **environment).wait(timeout)


def run_here(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """As `run`, in this process, which has torch at hand already; for what neither trains nor sweeps."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    handlers, level = logging.root.handlers[:], logging.root.level
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", [str(ROOT / script), *arguments])
        patch.chdir(ROOT)
        patch.setenv("HYDRA_FULL_ERROR", "1")  # set by the entry, and not to outlive it
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            GlobalHydra.instance().clear()
            logging.root.handlers[:], logging.root.level = handlers, level
    return subprocess.CompletedProcess([script, *arguments], status, out.getvalue(), err.getvalue())


def wandb_records(folder: Path) -> dict[str, list[Any]]:
    """What W&B's own reader finds in the offline run below ``folder``, by type; of tables in artifacts, their lines."""
    from wandb.util import get_core_path  # of wandb 0.31; an older one costs its own tests alone

    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    command = [get_core_path(), "leet", "inspect", "-no-observability", "-json", "-run-file", str(file)]
    for _ in range(60):  # on a busy machine W&B's own process writes on after the run has ended
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        if '"type":"exit"' in done.stdout.replace(" ", ""):
            break
        time.sleep(0.5)
    records: dict[str, list[Any]] = {"table": []}
    for record in map(json.loads, done.stdout.splitlines()):
        records.setdefault(record["type"], []).append(record[record["type"]])
    for artifact in records.get("artifact", []):
        (content,) = artifact["manifest"]["contents"]
        records["table"].append(json.loads(Path(content["local_path"]).read_text())["data"])
    return records


SMALL_BENCHMARK = [
    *("size=64", "backbone=resnet18", "model.channels=16", "ftt_width=8", "classes=3", "small_roi_below=16"),
    *("proposals.total=40", "proposals.small=12", "proposals.objects=3"),
    *("repeats=3", "warmup=0", "threads=1", "memory=false", "name=small"),
]


def benchmark_setting(*words: str) -> Any:
    """What the words stand for on the command line of the benchmarks, on top of a tiny setting."""
    from efpn.benchmark.setting import read_setting  # with torch, which other users of this file do not need

    cfg = config("benchmark", *SMALL_BENCHMARK, *words)
    cfg.words = [*SMALL_BENCHMARK, *words]
    return read_setting(cfg)
