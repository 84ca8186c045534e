"""An evaluation or a summary in Weights & Biases: the numbers, tables, figures and the page that it writes to disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import wandb
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import WandbLogger

from efpn.errors import UserError
from efpn.evaluation.compare import said_sizes
from efpn.evaluation.rows import Row
from efpn.evaluation.summary_files import Line, long_table
from efpn.evaluation.table import CLASS_METRICS, class_lines
from efpn.metrics.evaluation import Evaluation
from efpn.runs.files import make_folder
from efpn.runs.tracking import log_rows

ADVICE: Final = "`wandb login` once, or logger.offline=true and `wandb sync` later"


@contextmanager
def start_tracking(cfg: DictConfig, called: str, job: str = "evaluate", group: str | None = None) -> Iterator[Any]:
    """Start what ``logger`` asks for, before any image is read; the W&B run, or None where it asks for nothing.

    It ends with the context, as failed where an error ended the evaluation. Its name is the job and ``called``; the
    ``group`` is that of the training's runs that it belongs to (raises `UserError`: no W&B, or one that cannot start).
    """
    if not cfg.logger:
        yield None
        return
    if not issubclass(get_class(cfg.logger._target_), WandbLogger):
        raise UserError("logger: an evaluation writes its files anyway; besides, it can go to logger=wandb alone")
    place = Path(cfg.paths.outputs)
    make_folder(place)
    try:
        logger = instantiate(cfg.logger, save_dir=str(place), name=f"{job} {called}", job_type=job, group=group)
        run = logger.experiment
        # without the logger's own part, which names what only a training has
        own = [str(key) for key in cfg if key != "logger" and not OmegaConf.is_missing(cfg, str(key))]
        run.config.update(OmegaConf.to_object(OmegaConf.masked_copy(cfg, own)))
    except (wandb.errors.Error, wandb.errors.UsageError) as error:
        raise UserError(f"logger=wandb: {error}; {ADVICE}") from error
    failed = True
    try:
        yield run
        failed = False
    finally:
        run.finish(exit_code=int(failed))


def track(
    run: Any,
    rows: Sequence[Row],
    columns: Sequence[str],
    evaluations: Sequence[Evaluation],
    drawn: Mapping[str, Path],
    page: Path | None,
) -> None:
    """Send all that was written to ``run``, of W&B: rows and columns compared, what was evaluated, figures, page."""
    for row in rows:
        run.summary.update({f"{row.name}/{name}": value for name, value in row.metrics.items()})
    run.summary.update({"sizes": said_sizes(rows)})
    compared = [[row.name, *(row.metrics[name] for name in columns)] for row in rows]
    each = [(one.name, at, bins) for one in evaluations for at, bins in one.by_size.items()]
    sizes = [[name, at, size, *rates] for name, at, bins in each for size, rates in bins.items()]
    classes = [
        [name, objects, *(metrics[key] for key in CLASS_METRICS for metrics in every)]
        for name, objects, every in class_lines(evaluations)
    ]
    of_classes = [f"{metric} {one.name}" for metric in CLASS_METRICS for one in evaluations]
    tables: dict[str, tuple[list[str], list[Any]]] = {
        "comparison": (["model", *columns], compared),
        "sizes": (["model", "score from", "size", "accuracy", "recall", "F1"], sizes),
        "classes": (["class", "objects", *of_classes], classes),
    }
    run.log({name: wandb.Table(columns=list(head), data=lines) for name, (head, lines) in tables.items()})
    run.log({name: wandb.Image(str(path)) for name, path in drawn.items()})
    if page is not None:
        run.log({"report": wandb.Html(page.read_text("utf-8"), inject=False)})


def track_summary(
    run: Any, lines: Sequence[Line], sweep: Path, name: str, folder: Path, axes: Sequence[str], curve: Sequence[Any]
) -> None:
    """Send a summary of a sweep: the lines of `statistics`, the rows, and the curve (by the names of x and y).

    ``run`` is of W&B, ``sweep`` the sweep's folder, ``name`` its runs' name, ``folder`` where the summary was written.
    """
    head, rows = long_table(lines)
    log_rows(run, sweep, name)
    run.log({"summary": wandb.Table(columns=list(head), data=rows), "dots": wandb.Image(str(folder / "summary.png"))})
    if curve:
        points = wandb.Table(columns=list(axes), data=[list(point) for point in curve])
        run.log({"curve": wandb.plot.line(points, axes[0], axes[1], title=f"{axes[1]} against {axes[0]}")})
