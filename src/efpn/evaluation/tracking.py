"""An evaluation in Weights & Biases: the numbers, tables, figures and the page that it writes to disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final, Self

import wandb
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import WandbLogger

from efpn.errors import UserError
from efpn.evaluation.compare import Result, said_sizes
from efpn.evaluation.html import REPORT
from efpn.evaluation.scored import CLASS_METRICS, Scored, class_scores
from efpn.metrics.bands import suffix

ADVICE: Final = "`wandb login` once, or logger.offline=true and `wandb sync` later"


class Tracking:
    """A W&B run of one evaluation; a context that ends it.

    Args:
        logger: started.
    """

    def __init__(self, logger: WandbLogger) -> None:
        self.run = logger.experiment

    def __enter__(self) -> Self:
        """Nothing is to be done: the run has started."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the run, as failed where an error ended the evaluation."""
        self.run.finish(exit_code=0 if kind is None else 1)

    def log(
        self,
        results: Sequence[Result],
        columns: Sequence[str],
        rows: Sequence[Scored],
        report: Path,
        stems: Sequence[str] | None,
    ) -> None:
        """Send all that was written.

        Args:
            results: rows of the comparison.
            columns: its metrics.
            rows: what was scored.
            report: folder of the figures of all rows and of the page.
            stems: names of the pictures that were drawn this time; None: all, and the page.
        """
        for result in results:
            self.run.summary.update({f"{result.name}/{name}": value for name, value in result.metrics.items()})
        self.run.summary.update({"sizes": said_sizes(results)})
        compared: list[list[Any]] = [[result.name, *(result.metrics[name] for name in columns)] for result in results]
        tables = {"comparison": (["model", *columns], compared), "sizes": size_table(rows)}
        tables["classes"] = class_table(rows)
        self.run.log({name: wandb.Table(columns=list(head), data=lines) for name, (head, lines) in tables.items()})
        self.run.log({name: wandb.Image(str(path)) for name, path in pictures(rows, report, stems).items()})
        if stems is None:
            self.run.log({"report": wandb.Html((report / REPORT).read_text("utf-8"), inject=False)})


def start_tracking(cfg: DictConfig, called: str) -> AbstractContextManager[Tracking | None]:
    """Start what ``logger`` asks for, before any picture is read: a context with None where it asks for nothing.

    Raises:
        UserError: another logger than W&B, or one that cannot start.
    """
    if not cfg.logger:
        return nullcontext()
    if not issubclass(get_class(cfg.logger._target_), WandbLogger):
        raise UserError("logger: an evaluation writes its files anyway; besides, it can go to logger=wandb alone")
    place = Path(cfg.paths.outputs)
    place.mkdir(parents=True, exist_ok=True)
    try:
        logger = instantiate(cfg.logger, save_dir=str(place), name=f"evaluate {called}", job_type="evaluate")
        logger.experiment.config.update(settings(cfg))
    except (wandb.errors.Error, wandb.errors.UsageError) as error:
        raise UserError(f"logger=wandb: {error}; {ADVICE}") from error
    return Tracking(logger)


def drawn_names(cfg: DictConfig) -> list[str] | None:
    """The pictures that an evaluation draws: all (None), or without figures those that are asked for by themselves."""
    return None if cfg.figures else [name for name in ("pictures", "features") if cfg[name]]


def settings(cfg: DictConfig) -> dict[str, Any]:
    """The evaluation's config without the logger's own part, which names what only a training has."""
    return {
        str(key): OmegaConf.to_object(cfg[key]) if OmegaConf.is_config(cfg[key]) else cfg[key]
        for key in cfg
        if key != "logger" and not OmegaConf.is_missing(cfg, str(key))
    }


def size_table(rows: Sequence[Scored]) -> tuple[list[str], list[list[Any]]]:
    """Accuracy, recall and F1 by size of every row, at the fixed threshold and at that of best F1."""
    lines = []
    for one in rows:
        for at, metrics in one.at_thresholds():
            for name in one.record["rules"]["f1_bins"]:
                lines.append([one.name, at, name, *(metrics.get(f"{m}{suffix(name)}") for m in ("acc", "rec", "F1"))])
    return ["model", "score from", "size", "accuracy", "recall", "F1"], lines


def class_table(rows: Sequence[Scored]) -> tuple[list[str], list[list[Any]]]:
    """AP and AP of small objects by class, commonest first, of every row."""
    lines = [
        [one.name, one.objects, *(scores[metric] for metric in CLASS_METRICS for scores in one.by_row)]
        for one in class_scores(rows)
    ]
    return ["class", "objects", *(f"{metric} {one.name}" for metric in CLASS_METRICS for one in rows)], lines


def pictures(rows: Sequence[Scored], report: Path, stems: Sequence[str] | None) -> Mapping[str, Path]:
    """The pictures of the report and of each row, by the name they go under; those called ``stems``, or all."""
    places = [("", report), *((f"{one.name}/", one.folder) for one in rows)]
    found = {f"{prefix}{path.stem}": path for prefix, place in places for path in sorted(place.glob("*.png"))}
    return {name: path for name, path in found.items() if stems is None or path.stem in stems}
