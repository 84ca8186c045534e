"""Evaluate: ``python evaluate.py run=outputs/NAME/seed0 [key=value ...]``; see ``--help`` and conf/evaluate.yaml."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig, OmegaConf

from efpn.entry import call, check_sweep, start
from efpn.ranges import EVALUATE, check_values
from efpn.runs.saved import saved_runs


def run(cfg: DictConfig) -> float | None:
    """Find the runs or the data without torch, then score a model or a file; return the last row's AP."""
    check_sweep(cfg)
    check_values(cfg, EVALUATE)
    runs = [] if cfg.detections and OmegaConf.is_missing(cfg, "run") else saved_runs(cfg.run)
    from efpn.evaluation.run import evaluate  # imports torch, which a mistake in the path need not wait for

    rows = evaluate(cfg, runs)
    return rows[-1].metrics["AP"] if rows else None


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(cfg: DictConfig) -> float | None:
    """Compose the config and run."""
    return call(run, cfg)


if __name__ == "__main__":
    start(main, "evaluate")
