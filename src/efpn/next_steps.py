"""What a training ends with: the command lines that look at what it has left, printed or run. No torch."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import InstantiationException
from hydra.experimental.callback import Callback
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from efpn.data.splits import load_role
from efpn.entry import FAILED, follows_another, in_one_line
from efpn.errors import Interrupted, UserError
from efpn.runs.files import ROW_FILE
from efpn.runs.sweeps import ALIKE, CONF, SweptKeys, in_sweep


class SayWhatNext(Callback):
    """Prints, when a whole run or all jobs of a sweep have ended well, the command lines that look at what it has left.

    With ``score_after=true`` it runs them too; one that fails ends the process with its status. ``after_run`` and
    ``after_sweep`` are further words of ``evaluate.py``.
    """

    def __init__(self, after_run: Sequence[str] = (), after_sweep: Sequence[str] = ()) -> None:
        self.after_run, self.after_sweep = list(after_run), list(after_sweep)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Hydra's call."""
        if in_sweep() or job_return.status != JobStatus.COMPLETED or config.phase != "all" or follows_another():
            return
        split, why = split_to_score(config)
        words = ["evaluate.py", f"run={config.paths.run}", *split, *self.after_run, *same_logger(config)]
        say_and_run(f"all phases are finished; evaluate them{why} with", [words], config)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Hydra's call; a sweep over experiments has no one folder to speak of."""
        folder = Path(config.paths.unswept).parent
        no_rows = SweptKeys().keys <= {*ALIKE} and not {"sweep", "row"} & set(config.hydra.runtime.choices)
        runs = "seed*" if no_rows else f"*/seed*/{ROW_FILE}"
        if FAILED or "experiment" in SweptKeys().keys or not any(folder.glob(runs)):
            return
        sweep = config.hydra.runtime.choices.get("sweep")
        known = sweep and (CONF / "summarise" / "table" / f"{sweep}.yaml").is_file()
        table = [f"{'table' if known else 'rows'}={sweep}"] if sweep else []
        split, why = split_to_score(config)
        further = [word for word in self.after_sweep if not (split and word.startswith("split="))]
        commands = [  # Hydra takes -m before all other words or behind them
            ["evaluate.py", *further, f"run={folder}/{runs}", *split, *same_logger(config)],
            ["summarise.py", f"sweep={folder}", *split, *table, *same_logger(config)],
        ]
        say_and_run(f"the sweep is done; evaluate and summarise it{why} with", commands, config)


def say_and_run(told: str, commands: Sequence[Sequence[str]], config: DictConfig) -> None:
    """Print the command lines and, with ``score_after=true``, run one after the other on this machine."""
    lines = [f"  {shlex.join(['python', *words])}" for words in commands]
    print("\n".join([told, *lines]), flush=True)
    for script, *words in commands if config.score_after else ():
        try:
            status = subprocess.call([sys.executable, str(CONF.parent / script), *words])
        except (KeyboardInterrupt, Interrupted) as stopped:  # all is trained; the commands stand above
            status = 128 + getattr(stopped, "number", signal.SIGINT)
        if status:
            raise SystemExit(status)


def same_logger(config: DictConfig) -> list[str]:
    """What sends the scores where the training went, if that was W&B: the words that were typed of it."""
    if config.hydra.runtime.choices.get("logger") != "wandb":
        return []
    typed = [word for word in config.hydra.overrides.task if re.match(r"(logger\.\w+|paths\.outputs)=", word)]
    return ["logger=wandb", *typed]


def split_to_score(cfg: DictConfig) -> tuple[list[str], str]:
    """What ``evaluate.py`` has to be told of the split, and why: validation, where no test split can be read."""
    try:
        source = instantiate(cfg.data.source, _convert_="all")
        load_role(source, OmegaConf.to_container(cfg.data.splits, resolve=True), "test")  # type: ignore[arg-type]
    except (UserError, InstantiationException) as error:
        told = in_one_line(error) or error
        return ["split=val"], f" on the validation images (the test split cannot be read: {told})"
    return [], ""
