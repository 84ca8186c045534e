"""What detecting costs: the time of each row, and how far an image may be enlarged until a plain FPN takes as long."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Final

import numpy as np
import torch
from omegaconf import DictConfig
from pytorch_lightning.utilities import move_data_to_device

from efpn.benchmark.timing import interleave, synchronise
from efpn.errors import UserError
from efpn.evaluation.detect import eval_data, rebuild
from efpn.evaluation.variants import PLAIN, Variant, find_variants
from efpn.runs.checkpoints import read_checkpoint
from efpn.runs.rebuild import quiet_trainer
from efpn.runs.saved import SavedRun, latest_run

log = logging.getLogger(__name__)

SCALES: Final = (1.0, 1.2, 1.4, 1.7, 2.0)  # at which the plain FPN is timed
IMAGES: Final = 8  # timed one by one
TURNS: Final = 3


def equal_cost_scales(cfg: DictConfig, runs: Sequence[SavedRun]) -> list[float]:
    """The scales of ``variant=fpn_scaled``: those given, or the one at which it takes the time of ``cfg.cost_of``.

    That is searched between 1 and 2, to two digits (raises `UserError`: there is no plain FPN to be enlarged).
    """
    if cfg.cost_of is None:
        return list(dict.fromkeys(cfg.scale))
    plain = next((run for run in runs if PLAIN.met_by(run)), None)
    if plain is None:
        raise UserError(f"cost_of={cfg.cost_of}: needs {PLAIN.kind}, to be enlarged; add one to run=")
    rival = latest_run(cfg.cost_of, "cost_of")
    enlarged = find_variants("fpn_scaled", [1.0], SCALES)
    ways = [(rival, find_variants("own", [1.0])[0]), *((plain, one) for one in enlarged)]
    wanted, *taken = seconds_per_image(cfg, ways)
    rising = np.maximum.accumulate(taken)  # a larger image that took less is noise
    if not rising[0] <= wanted <= rising[-1]:
        bound = "less than at 1 times" if wanted < rising[0] else "more than at 2 times"
        log.warning("cost_of: %s takes %s the 1x size, where the search ends", rival.name, bound)
    scale = round(float(np.interp(wanted, rising, SCALES)), 2)
    log.info("the plain FPN takes as long as %s at %.2f times the 1x size", rival.name, scale)
    return [scale]


def seconds_per_image(cfg: DictConfig, ways: Sequence[tuple[SavedRun, Variant]]) -> list[float]:
    """How long each way takes for an image, on one device: the median over turns that they take with each other."""
    timed = {place: stopwatch(cfg, run, variant) for place, (run, variant) in enumerate(ways)}
    with torch.inference_mode():
        return [median(seconds) for seconds in interleave(timed, TURNS, warmup=1).values()]


def stopwatch(cfg: DictConfig, run: SavedRun, variant: Variant) -> Callable[[int], float]:
    """A function that detects in some validation images of a run and says how many seconds each took on average."""
    data = eval_data(cfg, run, pairs=True)
    data.eval_batch_size, data.limit_val = 1, None  # timed on the same images however few are scored
    strategy = quiet_trainer(cfg.trainer, run).strategy  # with the precision that the run detects in
    device = strategy.root_device
    loader = zip(range(IMAGES), data.val_dataloader(), strict=False)
    batches = [move_data_to_device(batch, device) for _, batch in loader]
    detector = rebuild(cfg, run, read_checkpoint(run.checkpoint), variant, data).eval().to(device)

    def measured(turn: int) -> float:
        synchronise(device)
        start = time.perf_counter()
        for batch in batches:
            with strategy.precision_plugin.forward_context():  # for each, as Lightning does: it keeps cast weights
                variant.predict(detector, batch)
        synchronise(device)
        return (time.perf_counter() - start) / len(batches)

    return measured
