"""What every command-line entry does around its task: resolvers, early checks, and errors without a traceback.

Imports neither torch nor Lightning, so that a typing error, a config error or a missing folder is answered at once.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from efpn.errors import Interrupted, UserError
from efpn.ranges import check_target, one_device
from efpn.runs.files import FULL, RESUME_FILE, finished_in
from efpn.runs.sweeps import SweptKeys, in_sweep, sweep_folder, swept_words
from efpn.signals import end_workers, stop_at_sigterm
from efpn.words import check_added, check_added_keys, missing_option, unknown_key

FULL_ERROR = "HYDRA_FULL_ERROR"  # environment variable: Hydra lets errors through instead of printing them itself
ELSEWHERE = "write elsewhere, with paths.outputs=FOLDER in training and out=FOLDER in the other calls"
IN_THE_WAY = f"something else stands there: move it away, or {ELSEWHERE}"
WAYS_OUT = {  # by the system's number: what the machine refuses, and no line of this program can mend
    **dict.fromkeys(FULL, f"free some space, or {ELSEWHERE}"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), f"change who may use it, or {ELSEWHERE}"),
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.EEXIST), IN_THE_WAY),
    errno.ENAMETOOLONG: "give a shorter name=NAME",
    errno.EIO: "the disk or the network has failed: look there, and start again with resume=true",
    errno.ESTALE: "the network's file system has lost it: look there, and start again with resume=true",
}


def remember_swept_keys() -> None:
    """Keep the keys that the command line sweeps over, for this process and the jobs that it launches."""
    if {"-m", "--multirun"} & set(sys.argv):
        words = [word for word in sys.argv[1:] if not word.startswith("-") and "=" in word]
        try:
            given = OverridesParser.create().parse_overrides(words)
        except HydraException:  # Hydra says it itself, once it starts
            return
        SweptKeys().keys = {one.key_or_group for one in given if one.is_sweep_override()}


remember_swept_keys()
OmegaConf.register_new_resolver("efpn.sweep", sweep_folder, replace=True)


def check_sweep(cfg: DictConfig) -> None:
    """Refuse ``-m`` with several processes, as Lightning's children would replay the sweep; and a sweep without it."""
    if (name := HydraConfig.get().runtime.choices.get("sweep")) and not in_sweep():
        raise UserError(f"+sweep={name}: a sweep is many runs: python {Path(sys.argv[0]).name} -m ... +sweep={name}")
    launcher = HydraConfig.get().launcher._target_ if in_sweep() else ""
    if launcher and "slurm" not in launcher.lower() and not one_device(cfg):
        raise UserError(
            f"-m with trainer.devices={cfg.trainer.devices}: the processes of a multi-device run would each replay the "
            "sweep. Use trainer.devices=1 in a sweep, start the runs one by one, or use a launcher that starts each "
            "run's processes itself (hydra/launcher=slurm)"
        )


def check_one_device(cfg: DictConfig) -> None:
    """Refuse several devices, for an entry that runs on one (raises `UserError`: with what to do instead)."""
    if not one_device(cfg):
        raise UserError(
            f"trainer.devices={cfg.trainer.devices}: this runs on one device; give trainer.devices=1, and to use "
            "several, give each a call of its own with a part of the images and another out="
        )


def check_source(cfg: DictConfig) -> None:
    """Find a missing data folder or annotation file before torch is imported."""
    check_target(cfg.data.source, "data.source")
    instantiate(cfg.data.source, _convert_="all")


def quieten() -> None:
    """Keep what is no news out of the log: Lightning's tips and device lists, three of its warnings, Hydra's errors."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # it logs what it raises
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training")  # that is what frozen means
    warnings.filterwarnings("ignore", message=".*ended before the epoch ended")  # the stream goes on from that batch
    warnings.filterwarnings("ignore", message="The number of training batches")  # the log goes by steps, not epochs
    warnings.filterwarnings("ignore", message=".*LeafSpec")  # Lightning's own use of a deprecated name


def start(main: Callable[[], Any], config_name: str, folder: str = "conf") -> None:
    """Run a ``hydra.main`` function; a config that does not compose is one line that names the nearest right key."""
    os.environ.setdefault(FULL_ERROR, "1")
    FAILED.clear()
    try:
        check_added(sys.argv[1:])
        main()
    except JobFailed:
        raise SystemExit(list_failed()) from None
    except UserError as error:
        message = str(error)
    except InstantiationException:
        raise  # no mistake in the config, which `call` answers, but a bug
    except HydraException as error:
        mistyped = re.match(r"Could not override '([^']+)'", str(error))
        deeper = re.search(r"full_key: (\S+)", str(error.__cause__))  # of KEY={...}, the one in it
        message = (
            unknown_key(mistyped[1], deeper[1] if deeper else "", config_name, folder)
            if mistyped
            else missing_option(str(error).split("Config search path")[0].strip(), config_name)
        )
    except yaml.YAMLError as error:
        message = f"a config file is no YAML: {' '.join(str(error).split())}"
    except ValueError as error:
        if FAILED:  # a sweeper that goes by the jobs' results, and has none
            raise SystemExit(list_failed()) from None
        if not re.match("Only one of --run|Config group override must be", str(error)):
            raise
        message = f"{error} (--cfg goes without -m; a group is never null, true or a number)"
    else:
        if FAILED:  # some; a sweeper that goes by the results goes on with the others
            raise SystemExit(list_failed())
        return
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def call(task: Callable[[DictConfig], Any], cfg: DictConfig) -> Any:
    """Call ``task(cfg)``; what a user can mend is printed alone and ends the process with status 2.

    A signal ends it with 128 + its number, and a whole sweep with it. Any other failure of a sweep's job leaves the
    other jobs their turn.
    """
    quieten()
    stop_at_sigterm()
    try:
        if HydraConfig.initialized():
            check_added_keys(cfg)
        return task(cfg)
    except Interrupted as stopped:
        raise SystemExit(say_how_to_go_on(stopped, cfg)) from None
    except (KeyboardInterrupt, SystemExit) as stopped:
        if isinstance(stopped, SystemExit) and not isinstance(stopped.__context__, KeyboardInterrupt):
            raise  # Lightning makes a status of 1 out of Ctrl-C
        raise SystemExit(say_how_to_go_on(Interrupted(signal.SIGINT, "stopped"), cfg)) from None
    except Exception as error:
        message = in_one_line(error)
        if message is None:
            if not in_sweep():
                raise
            traceback.print_exc()
        told, status = message or repr(error), 2 if message else 1
    finally:
        end_workers()
    if in_sweep():
        raise JobFailed(" ".join(swept_words()), told, status)  # out here it holds no frame of the job, and no memory
    print(f"error: {told}", file=sys.stderr)
    raise SystemExit(2)


def in_one_line(error: Exception) -> str | None:
    """What to tell a user of an error that can be mended; None of a bug."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is not given; {error.full_key}=VALUE, see --help"
    if isinstance(error, InterpolationResolutionError):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in WAYS_OUT:
        return f"{error.filename or 'a file'}: {error.strerror}; {WAYS_OUT[error.errno]}"
    if not isinstance(error, InstantiationException):
        return None
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        return str(cause)
    found = re.match(r"Error in call to target '(?!efpn\.)([^']+)':.*full_key: (\S+)", str(error), re.DOTALL)
    if found is None or not isinstance(error.__cause__, ValueError | TypeError):
        return None  # of a class of ours, where it is a bug
    return f"{found[2]}: {found[1]} refuses it: {' '.join(str(error.__cause__).split())}"


class JobFailed(Exception):
    """One job of a sweep has failed; noted in the sweep's process, also where it ran in another.

    ``job`` is its own words on the command line.

    A launcher's jobs send their results home pickled, and unpickling makes an exception anew. Of these Hydra raises the
    first alone. The status is that which the process would have ended with, had it been alone.
    """

    def __init__(self, job: str, message: str, status: int) -> None:
        super().__init__(job, message, status)
        self.job, self.message, self.status = job, message, status
        FAILED.setdefault(job, self)  # of a job's several processes the first, which the others follow


FAILED: dict[str, JobFailed] = {}  # of this process's sweep, by job


def list_failed() -> int:
    """Print the failed jobs of a sweep, those that failed for one reason together; returns the exit status."""
    reasons: dict[str, list[str]] = {}
    for one in FAILED.values():
        reasons.setdefault(one.message, []).append(one.job)
    lines = [f"  {'; '.join(filter(None, jobs)) or 'the only job'}: {message}" for message, jobs in reasons.items()]
    told = f"error: {len(FAILED)} of the sweep's jobs failed; the same command does only what is missing"
    print("\n".join([told, *lines]), file=sys.stderr)
    return min(one.status for one in FAILED.values())


def follows_another() -> bool:
    """Whether this is a further process of a run of several; `efpn.runs.rebuild.first_process` without torch."""
    ranks = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK", "NODE_RANK", "GROUP_RANK")
    return any(os.environ.get(rank, "0") != "0" for rank in ranks)


def say_how_to_go_on(stopped: Interrupted, cfg: DictConfig) -> int:
    """Print, on the first process, what a signal has left and the command that goes on; returns the exit status."""
    if follows_another():
        return 128 + stopped.number
    if Path(sys.argv[0]).name != "train.py":
        print(stopped.message, file=sys.stderr)
        return 128 + stopped.number
    kept = [word for word in sys.argv[1:] if not word.startswith(("resume=", "overwrite=", "ckpt_path="))]
    again = ["overwrite=false"] if cfg.overwrite else []  # which a group has chosen, such as +quick=yes
    command = shlex.join(["python", "train.py", *kept, *again, "resume=true"])
    places = {Path(cfg.paths.run), Path(cfg.paths.unswept)}
    saved = any(finished_in(place) or any(place.glob(f"*/{RESUME_FILE}")) for place in places)
    way = f"go on with `{command}`" if saved else "nothing was saved yet; run the same command again"
    print(f"{stopped.message}; {way}", file=sys.stderr)
    return 128 + stopped.number
