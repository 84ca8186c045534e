"""Summarise: ``python summarise.py sweep=outputs/NAME [table=table2] [key=value ...]``; see conf/summarise."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from efpn.entry import call, start
from efpn.errors import check_metrics
from efpn.metrics.resample import column_names
from efpn.ranges import SUMMARISE, check_values
from efpn.runs.saved import swept_rows


def run(cfg: DictConfig) -> None:
    """Find the rows without torch, then work out and write their tables."""
    check_values(cfg, SUMMARISE)
    check_metrics("columns", cfg.columns, column_names())
    check_metrics("choose", filter(None, [cfg.choose]), column_names())
    rows = swept_rows(cfg.sweep, cfg.rows)
    from efpn.evaluation.summary import summarise  # imports torch, which a mistake in the path need not wait for

    summarise(cfg, rows)


@hydra.main(version_base="1.3", config_path="conf/summarise", config_name="summarise")
def main(cfg: DictConfig) -> None:
    """Compose the config and run."""
    call(run, cfg)


if __name__ == "__main__":
    start(main, "summarise", "conf/summarise")
