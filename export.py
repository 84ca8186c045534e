"""Export: ``python export.py run=outputs/NAME/seed0 [format=onnx|torch] [key=value ...]``; see conf/export.yaml."""

from __future__ import annotations

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig

from efpn.deploy.formats import check_packages
from efpn.entry import call, start
from efpn.prediction.images import given_images
from efpn.ranges import EXPORT, check_values
from efpn.runs.files import require_place
from efpn.runs.saved import latest_run


def run(cfg: DictConfig) -> None:
    """Find format, run and images without torch, then export."""
    check_values(cfg, EXPORT)
    chosen = instantiate(cfg.format)
    check_packages(chosen)
    saved = latest_run(cfg.run)
    require_place(out := saved.out_folder(cfg.out, "export"))
    images = given_images(cfg, out)
    from efpn.deploy.run import export  # imports torch, which a mistake in a path need not wait for

    export(cfg, saved, chosen, images)


@hydra.main(version_base="1.3", config_path="conf", config_name="export")
def main(cfg: DictConfig) -> None:
    """Compose the config and run."""
    call(run, cfg)


if __name__ == "__main__":
    start(main, "export")
