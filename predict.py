"""Predict: ``python predict.py run=outputs/NAME/seed0 images=FOLDER [key=value ...]``; see conf/predict.yaml."""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig

from efpn.entry import call, check_one_device, check_sweep, start
from efpn.errors import UserError
from efpn.prediction.images import DRAWN, check_out, find_images, slices_of
from efpn.ranges import PREDICT, check_values
from efpn.runs.files import require_place
from efpn.runs.saved import latest_run

COMES_ALONG = "models/signs/seed0", "examples/signs"  # what there is to try without a run of one's own


def run(cfg: DictConfig) -> int:
    """Find run and images without torch, then predict; return how many images could not be read."""
    check_sweep(cfg)
    check_one_device(cfg)
    if cfg.run is None and cfg.images is None:
        cfg.run, cfg.images = COMES_ALONG
    elif missing := next((key for key in ("run", "images") if cfg[key] is None), None):
        more = f" (run={COMES_ALONG[0]} is one for drawn signs)" if missing == "run" else ""
        raise UserError(f"{missing} is not given; {missing}=VALUE{more}, see --help")
    check_values(cfg, PREDICT)
    slices_of(cfg)
    saved = latest_run(cfg.run)
    out = saved.out_folder(cfg.out, "predictions")
    require_place(out)
    images = find_images(cfg.images, out)
    if cfg.draw:
        check_out(images, out / DRAWN)
    from efpn.prediction.run import listed, predict  # imports torch, which a mistake in a path need not wait for

    broken = predict(cfg, saved, images)
    if broken:
        print(f"{len(broken)} of {len(images)} images could not be read:\n{listed(broken)}", file=sys.stderr)
    return len(broken)


@hydra.main(version_base="1.3", config_path="conf", config_name="predict")
def main(cfg: DictConfig) -> None:
    """Compose the config and run; end with status 1 if an image could not be read."""
    if call(run, cfg):
        raise SystemExit(1)


if __name__ == "__main__":
    start(main, "predict")
