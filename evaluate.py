"""Evaluate: ``python evaluate.py run=outputs/NAME/seed0 [key=value ...]``; see ``--help`` and conf/evaluate.yaml."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from efpn.entry import call, check_sweep
from efpn.runs.saved import saved_runs


def run(cfg: DictConfig) -> float | None:
    """Find the runs without torch, then evaluate them; return the last one's AP."""
    check_sweep(cfg)
    runs = saved_runs(cfg.run)
    from efpn.evaluation.run import evaluate  # imports torch, which a mistake in the path need not wait for

    results = evaluate(cfg, runs)
    return results[-1].metrics["AP"] if results else None


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(cfg: DictConfig) -> float | None:
    """Compose the config and run."""
    return call(run, cfg)


if __name__ == "__main__":
    main()
