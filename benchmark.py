"""Benchmark: ``python benchmark.py [what=training] [key=value ...]``; see ``--help`` and conf/benchmark.yaml."""

from __future__ import annotations

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from efpn.entry import call, start
from efpn.ranges import BENCHMARK, check_values
from efpn.runs.files import require_place
from efpn.runs.saved import saved_runs


def run(cfg: DictConfig) -> None:
    """Check what can be checked without torch, then measure and print the report."""
    check_values(cfg, BENCHMARK)
    cfg.words = list(HydraConfig.get().overrides.task)
    require_place(Path(cfg.out))
    if cfg.get("run"):
        saved_runs(cfg.run)
    print(instantiate(cfg.task)(cfg))  # imports torch, which a mistake in the config need not wait for


@hydra.main(version_base="1.3", config_path="conf", config_name="benchmark")
def main(cfg: DictConfig) -> None:
    """Compose the config and run."""
    call(run, cfg)


if __name__ == "__main__":
    start(main, "benchmark")
