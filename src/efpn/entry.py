"""What every command-line entry does around its task: resolvers, early checks, and errors without a traceback.

Imports neither torch nor Lightning, so that a typing error, a config error or a missing folder is answered at once.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Callable
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from efpn.errors import UserError

SWEPT = "EFPN_SWEPT_KEYS"  # environment variable: a launcher's jobs have another command line than the user's
SHARED = ("phase", "seed", "experiment")  # swept or not, they have a place of their own in a run's path


def remember_swept_keys() -> None:
    """Keep the keys that the command line sweeps over, for this process and the jobs that it launches."""
    if {"-m", "--multirun"} & set(sys.argv):
        words = [word for word in sys.argv[1:] if not word.startswith("-") and "=" in word]
        given = OverridesParser.create().parse_overrides(words)
        os.environ[SWEPT] = ",".join(o.key_or_group for o in given if o.is_sweep_override())


def sweep_folder() -> str:
    """``loss.lambda_pos-0.5/`` inside a sweep, else nothing; without ``=`` and ``,``, which no override can hold."""
    if not in_sweep():
        return ""
    keys = {*os.environ.get(SWEPT, "").split(","), *(HydraConfig.get().sweeper.params or {})} - set(SHARED)
    own = [word for word in HydraConfig.get().overrides.task if word.split("=")[0].lstrip("+") in keys]
    return re.sub(r"[^\w.+-]+", "-", "_".join(own)) + "/" if own else ""


def in_sweep() -> bool:
    """Whether Hydra was called with ``-m``."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


remember_swept_keys()
OmegaConf.register_new_resolver("efpn.sweep", sweep_folder, replace=True)


def check_sweep(cfg: DictConfig) -> None:
    """Refuse ``-m`` with several processes: Lightning's children would inherit it and replay the whole sweep.

    Raises:
        UserError: with what to use instead.
    """
    launcher = HydraConfig.get().launcher._target_ if in_sweep() else ""
    if "basic" in launcher.lower() and not one_device(cfg):
        raise UserError(
            f"-m with trainer.devices={cfg.trainer.devices}: the processes of a multi-device run would each replay the "
            "sweep. Use trainer.devices=1 in a sweep, start the runs one by one, or use a launcher that gives each "
            "run a job of its own (hydra/launcher=submitit_slurm)"
        )


def check_one_device(cfg: DictConfig) -> None:
    """Refuse several devices, for an entry that runs on one.

    Raises:
        UserError: with what to do instead.
    """
    if not one_device(cfg):
        raise UserError(
            f"trainer.devices={cfg.trainer.devices}: this runs on one device; give trainer.devices=1, and to use "
            "several, give each a call of its own with a part of the pictures and another out="
        )


def one_device(cfg: DictConfig) -> bool:
    """Whether the config names a single device, by count or in a list."""
    devices = cfg.trainer.get("devices", 1)
    return devices == 1 or (isinstance(devices, ListConfig) and len(devices) == 1)


def check_source(cfg: DictConfig) -> None:
    """Find a missing data folder or annotation file before torch is imported."""
    instantiate(cfg.data.source, _convert_="all")


def quieten() -> None:
    """Keep Lightning's tips and device lists, and two of its warnings that are no news here, out of the log."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training")  # that is what frozen means
    warnings.filterwarnings("ignore", message=".*LeafSpec")  # Lightning's own use of a deprecated name


def call(task: Callable[[DictConfig], Any], cfg: DictConfig) -> Any:
    """Call ``task(cfg)``; a `UserError` is printed alone and ends the process with status 2."""
    quieten()
    try:
        return task(cfg)
    except UserError as error:
        message = str(error)
    except InstantiationException as error:
        cause = user_error_behind(error)
        if cause is None:
            raise
        message = str(cause)
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def user_error_behind(error: BaseException | None) -> UserError | None:
    """The `UserError` that Hydra's instantiate has wrapped, if there is one."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error
