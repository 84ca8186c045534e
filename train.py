"""Train: ``python train.py experiment=mosaic_efpn [phase=distill] [key=value ...]``; see ``--help`` and conf/."""

from __future__ import annotations

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from efpn.entry import call, check_source, check_sweep, start
from efpn.errors import UserError
from efpn.ranges import TRAIN, check_values
from efpn.runs.phases import phase_names
from efpn.words import check_detector_reads


def run(cfg: DictConfig) -> float | None:
    """Check what can be checked without torch, then train; return the last phase's ``objective``."""
    check_sweep(cfg)
    check_values(cfg, TRAIN)
    phase_names(cfg)  # refuses an unknown one
    check_detector_reads(cfg, HydraConfig.get().overrides.task)
    check_source(cfg)
    from efpn.training.run import train  # imports torch, which a mistake in the config need not wait for

    metrics, _ = train(cfg)
    value = metrics.get(f"val/{cfg.objective}")
    if value is None and HydraConfig.get().sweeper.get("direction"):
        raise UserError(f"objective={cfg.objective}: the validation split has no such number; give another")
    return value


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float | None:
    """Compose the config and run."""
    return call(run, cfg)


if __name__ == "__main__":
    start(main, "train")
