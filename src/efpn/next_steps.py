"""What a training ends with: the command lines that look at what it has left. No torch."""

from __future__ import annotations

import shlex
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
from efpn.errors import UserError
from efpn.runs.files import ROW_FILE
from efpn.runs.sweeps import ALIKE, CONF, SweptKeys, in_sweep


class SayWhatNext(Callback):
    """Prints, when a whole run or all jobs of a sweep have ended well, the command lines that look at what it has left.

    ``after_run`` and ``after_sweep`` are further words of ``evaluate.py``.
    """

    def __init__(self, after_run: Sequence[str] = (), after_sweep: Sequence[str] = ()) -> None:
        self.after_run, self.after_sweep = list(after_run), list(after_sweep)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Hydra's call."""
        if in_sweep() or job_return.status != JobStatus.COMPLETED or config.phase != "all" or follows_another():
            return
        split, why = split_to_score(config)
        command = shlex.join(["python", "evaluate.py", f"run={config.paths.run}", *split, *self.after_run])
        print(f"all phases are finished; evaluate them{why} with\n  {command}", flush=True)

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
        commands = [
            ["evaluate.py", f"run={folder}/{runs}", *split, *self.after_sweep],
            ["summarise.py", f"sweep={folder}", *split, *table],
        ]
        print(f"the sweep is done; evaluate and summarise it{why} with", flush=True)
        print("\n".join(f"  {shlex.join(['python', *words])}" for words in commands), flush=True)


def split_to_score(cfg: DictConfig) -> tuple[list[str], str]:
    """What ``evaluate.py`` has to be told of the split, and why: validation, where no test split can be read."""
    try:
        source = instantiate(cfg.data.source, _convert_="all")
        load_role(source, OmegaConf.to_container(cfg.data.splits, resolve=True), "test")  # type: ignore[arg-type]
    except (UserError, InstantiationException) as error:
        told = in_one_line(error) or error
        return ["split=val"], f" on the validation images (the test split cannot be read: {told})"
    return [], ""
