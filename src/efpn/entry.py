"""What every command-line entry does around its task: resolvers, early checks, and errors without a traceback.

Imports neither torch nor Lightning, so that a typing error, a config error or a missing folder is answered at once.
"""

from __future__ import annotations

import difflib
import errno
import logging
import os
import re
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from efpn.errors import Interrupted, UserError, nearest
from efpn.ranges import check_target, leaves, one_device, walk
from efpn.runs.files import FULL, RESUME_FILE, finished_in
from efpn.runs.sweeps import CONF, SweptKeys, in_sweep, sweep_folder, swept_words
from efpn.signals import end_workers, stop_at_sigterm

FULL_ERROR = "HYDRA_FULL_ERROR"  # environment variable: Hydra lets errors through instead of printing them itself
ADDED = ("quick", "row", "sweep")  # groups of train.py that are there by a plus alone

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


def check_read(cfg: DictConfig, words: Sequence[str]) -> None:
    """Refuse what the command line says of the model and the chosen detector does not read.

    A copy of the config has a mark in the place of each value that an override, as it was typed, gives; where the marks
    come out says what reads them. What an experiment says for all detectors stays as it is.
    """
    left_out = tuple(cfg.model.leaves_out)
    if not left_out:
        return
    given = OverridesParser.create().parse_overrides(list(words))
    typed = {one.key_or_group: one.key_or_group for one in given}  # keys, and what to call each
    rows = [one.value() for one in given if one.key_or_group == "row"]
    for row in (name for value in rows for name in (value if isinstance(value, list) else [value])):
        if (file := CONF / "row" / f"{row}.yaml").is_file():
            config = OmegaConf.load(file)
            typed |= {key: f"+row={row} ({key})" for key, _ in leaves(config)}  # type: ignore[arg-type]
    marked, known = cfg.copy(), [key for key, _ in leaves(cfg)]
    for number, word in enumerate(typed):
        for key in known:
            if f"{key}.".startswith(f"{word}."):
                OmegaConf.update(marked, key, f"<{number}>")
    models = [marked.model, *(phase.get("model") for phase in marked.phases.values() if OmegaConf.is_dict(phase))]
    plain = [OmegaConf.to_container(model, resolve=True) for model in models if OmegaConf.is_dict(model)]
    values = [one for model in plain for one in leaves(model)]  # type: ignore[arg-type]
    unread = []
    for number, said in enumerate(typed.values()):
        readers = [f"{key}." for key, value in values if f"<{number}>" in str(value)]
        if readers and all(key.startswith(tuple(f"{node}." for node in left_out)) for key in readers):
            unread.append(said)
    if unread:
        own = [f"model.{key}" for key in cfg.model if key not in (*left_out, "_target_", "leaves_out")]
        raise UserError(
            f"{', '.join(unread)}: read by detector=faster_rcnn, not by the one chosen ({cfg.model._target_}); leave "
            f"that out, or see what this one reads: {', '.join(own)}"
        )


def check_source(cfg: DictConfig) -> None:
    """Find a missing data folder or annotation file before torch is imported."""
    check_target(cfg.data.source, "data.source")
    instantiate(cfg.data.source, _convert_="all")


def quieten() -> None:
    """Keep what is no news out of the log: Lightning's tips and device lists, two of its warnings, Hydra's errors."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # it logs what it raises
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training")  # that is what frozen means
    warnings.filterwarnings("ignore", message=".*ended before the epoch ended")  # the stream goes on from that batch
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


def check_added(words: Sequence[str]) -> None:
    """Refuse what Hydra would misread or explain at length of ``ADDED`` (raises `UserError`: how it is written).

    Beside a sweep that is one without its plus, which would be crossed with the sweep's own; without ``-m`` several
    rows.
    """
    if not {"-m", "--multirun"} & set(words) and (several := [w for w in words if re.match(r"\+row=.*,", w)]):
        raise UserError(f"{several[0]}: several rows are a sweep: python train.py -m ... {several[0]}")
    for group in ADDED if any(word.startswith("+sweep=") for word in words) else ():
        if any(word.startswith(f"{group}=") for word in words):
            raise UserError(needs_plus(group))


def needs_plus(group: str) -> str:
    """What to say of one of ``ADDED`` that is given without its plus."""
    return f"{group}: a group that is not there by itself; add it with a plus, +{group}=CHOICE"


def unknown_key(key: str, deeper: str, config_name: str, folder: str) -> str:
    """Say that the config has no ``key``, and which one is meant: the only one of that last name, or the nearest.

    Both are looked for in the config without that override.

    ``deeper`` is the full key that Hydra has not found where ``key`` was given as a whole group, else passed over.
    """
    given = [word for word in sys.argv[1:] if "=" in word and not word.startswith(("-", f"{key}="))]
    key = deeper if deeper.startswith(f"{key}.") else key
    with initialize_config_dir(str(Path(sys.argv[0]).resolve().parent / folder), version_base="1.3"):
        try:
            known = [key for key, _ in walk(compose(config_name, given))]
        except HydraException:  # there is more wrong with the other words, or they are a sweep's
            known = [key for key, _ in walk(compose(config_name))]
    if config_name == "train" and key in ADDED:
        return needs_plus(key)
    if key.startswith("model.") and not any(one.startswith("model.") for one in known):
        return f"{key}: the run's model has its own; change it with a plus, +{key}=VALUE"
    group, _, last = key.rpartition(".")
    namesakes = [one for one in known if one.rpartition(".")[2] == last and not one.startswith("phases.")]
    near = namesakes if len(namesakes) == 1 else difflib.get_close_matches(key, known, 1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    taken = f"{group}._target_" in known and len(namesakes) != 1
    plus = f"; what else {group}'s class takes needs a plus, +{key}=VALUE" if taken else ""
    return f"{key}: the config has no such key{hint}{plus}; --cfg job prints all of them"


def missing_option(error: str, config_name: str) -> str:
    """Hydra's list of a group's options, with the one that is nearest to what is not there.

    For a table that the other command has, it says which command.
    """
    lacking = re.search(r"Could not find '([\w/]+)/([^'/]+)'", error)
    if lacking is None:
        return error
    group, name = lacking.groups()
    places = {
        "evaluate": ("conf/summarise/table", "is made of trainings: train.py -m +sweep=TABLE, then summarise.py"),
        "summarise": ("conf/table", "is made of one run's ways to detect: evaluate.py run=RUN table=TABLE"),
    }
    if group == "table" and config_name in places:
        folder, command = places[config_name]
        if (Path(sys.argv[0]).resolve().parent / folder / f"{name}.yaml").is_file():
            return f"{error}\n{name} {command}"
    options = [line.strip() for line in error.splitlines() if line.startswith("\t")]
    return error.replace(lacking[0], f"{lacking[0]}{nearest(name, options)}", 1)


def call(task: Callable[[DictConfig], Any], cfg: DictConfig) -> Any:
    """Call ``task(cfg)``; what a user can mend is printed alone and ends the process with status 2.

    A signal ends it with 128 + its number, and a whole sweep with it. Any other failure of a sweep's job leaves the
    other jobs their turn.
    """
    quieten()
    stop_at_sigterm()
    try:
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
