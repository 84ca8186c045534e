"""What scoring a model and scoring a file have in common: the data, the place of the report, and the report."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig

from efpn.data.datamodule import DetectionDataModule, Role
from efpn.data.pictures import read_picture
from efpn.data.records import Index
from efpn.data.tt100k import TT100K
from efpn.errors import UserError
from efpn.evaluation.funnel_table import funnel_markdown
from efpn.evaluation.gallery import draw_run, draw_together
from efpn.evaluation.html import write_html
from efpn.evaluation.pictures import Boxes, LoadPicture
from efpn.evaluation.plots import clear_plot, split_by_level
from efpn.evaluation.provenance import command_line, git_commit, hardware
from efpn.evaluation.report import METRICS, Facts, write_report
from efpn.evaluation.scored import Scored
from efpn.metrics import best_f1_threshold, metric_names, rates, restrict
from efpn.metrics.funnel import loss_funnel
from efpn.metrics.split import SplitScorer
from efpn.metrics.stages import StageRecord
from efpn.ranges import EVALUATE, check_values
from efpn.runs.files import read_json, write_json, write_text
from efpn.runs.rebuild import resize_to
from efpn.runs.saved import SavedRun

log = logging.getLogger(__name__)
ROLES: Final[tuple[Role, ...]] = ("val", "test")


def check_choices(cfg: DictConfig) -> None:
    """Raise `UserError` for values that no evaluation can have or that nothing reads, and columns that do not exist."""
    check_values(cfg, EVALUATE)
    if cfg.cost_of and "fpn_scaled" not in cfg.variant:
        raise UserError(f"cost_of={cfg.cost_of}: is the cost of variant=fpn_scaled; name that too")
    if unknown := [str(column) for column in cfg.columns if column not in metric_names()]:
        raise UserError(f"columns: no metric {', '.join(unknown)}; choose from {', '.join(metric_names())}")


def eval_data(cfg: DictConfig, run: SavedRun, pairs: bool = False) -> DetectionDataModule:
    """The run's own data, with what the evaluation asks to be different; ``pairs`` gives the 2x pictures too."""
    node = run.config.data.copy()
    changes = {"root": cfg.data_root, "eval_batch_size": cfg.batch_size}
    node.update({key: value for key, value in changes.items() if value is not None})
    # what shortened the validation in training does not shorten this
    node.update({"limit_val": None, f"limit_{cfg.split}": cfg.limit})
    if cfg.data_root:
        node.source.root = cfg.data_root
    resize_to(node.eval_transform, cfg.short_side)
    return instantiate(node, eval_pairs=pairs, _convert_="all")


def scored_index(data: DetectionDataModule, split: Role) -> Index:
    """The split to score.

    Raises:
        UserError: it cannot be read; for the test split with what to score instead.
    """
    try:
        return data.index(split)
    except UserError as error:
        if split != "test":
            raise
        advice = "split=val scores the validation pictures; data_root=FOLDER says where the data set lies now"
        raise UserError(f"the test split cannot be read: {advice}\n  {error}") from None


def shared_pictures(data: DetectionDataModule) -> int:
    """How many pictures the validation and the test split have in common; a warning says what follows."""
    val, test = ({record.path for record in data.index(role).records} for role in ROLES)
    shared = len(val & test)
    if shared:
        log.warning(
            "val and test share %d pictures: no threshold of best F1, which must not be chosen on what is scored",
            shared,
        )
    return shared


def choose_threshold(cfg: DictConfig, data: DetectionDataModule, detect_val: Callable[[], Boxes]) -> float | None:
    """The threshold of best F1 on the validation split; None if not wanted, or if its pictures are to be scored.

    Args:
        cfg: of the evaluation.
        data: whose validation split it is.
        detect_val: gives the detections there; called only if they are needed.
    """
    if not cfg.choose_threshold or cfg.split == "val" or shared_pictures(data):
        return None
    ids = list(data.categories.evaluated_ids)
    return best_f1_threshold(data.index("val").to_coco(), detect_val(), category_ids=ids).score


def facts_of(
    cfg: DictConfig,
    data: DetectionDataModule,
    name: str,
    best: float | None,
    start: float,
    more: Mapping[str, Any],
    seed: int | None = None,
) -> Facts:
    """What stands beside the numbers of one row; ``start`` is when its evaluation began (`time.perf_counter`)."""
    return Facts(
        name=name,
        split=data.index(cfg.split).name,
        score_threshold=cfg.score_threshold,
        best_threshold=best,
        best_chosen_on=None if best is None else data.index("val").name,
        seed=seed,
        commit=git_commit(),
        command=command_line(),
        seconds=round(time.perf_counter() - start, 1),
        hardware=hardware(),
        more=more,
    )


def write_scores(
    out: Path,
    data: DetectionDataModule,
    cfg: DictConfig,
    detections: list[dict[str, Any]],
    image_ids: list[int],
    facts: Facts,
    stages: StageRecord | None = None,
) -> Scored:
    """Score the detections of the pictures ``image_ids`` at the thresholds of ``facts`` and write the report.

    Args:
        out: folder of the report.
        data: whose split ``cfg.split`` is scored.
        cfg: of the evaluation.
        detections: COCO results, native pixels.
        image_ids: the pictures that were looked at.
        facts: thresholds, rules, and where the numbers come from.
        stages: what the detector did before its detections, if it was recorded.
    """
    index, ids = data.index(cfg.split), list(data.categories.evaluated_ids)
    truth, best = restrict(index.to_coco(), image_ids), facts.best_threshold
    load_picture = picture_loader(index)
    metrics = SplitScorer(truth, ids, facts.score_threshold)(detections, image_ids)
    write_report(
        out,
        metrics,
        detections,
        ground_truth=truth,
        facts=facts,
        at_best=None if best is None else metrics | rates(truth, detections, best, ids),
        category_ids=ids,
        load_picture=load_picture,
        pictures=cfg.pictures,
        tt100k=isinstance(data.source, TT100K),
    )
    funnel = loss_funnel(truth, detections, stages, score_threshold=facts.score_threshold, category_ids=ids)
    write_json(out / "losses.json", funnel.as_dict(), indent=2)
    write_text(out / "losses.md", funnel_markdown(funnel, f"Where {facts.name} loses objects on {facts.split}"))
    log.info("%s on %s: %s", facts.name, index.name, out)
    levels = split_by_level(stages.with_levels(detections), stages.levels) if stages else {}
    return Scored(facts.name, out, read_json(out / METRICS), truth, ids, detections, funnel, load_picture, levels)


def draw(folder: Path, rows: list[Scored], configs: Mapping[str, Path], with_features: bool = False) -> None:
    """The figures of each row and of all together, and the page that holds them.

    Args:
        folder: of what shows all rows.
        rows: what was scored, no two of one name.
        configs: name of a row to the folder that holds its run's config.
        with_features: the features of the extended level were drawn too; one of an earlier evaluation goes otherwise.
    """
    if not with_features:
        clear_plot(folder / "features")
    for row in rows:
        draw_run(row)
    draw_together(folder, rows)
    log.info("report: %s", write_html(folder, rows, configs))


def picture_loader(index: Index) -> LoadPicture:
    """``image id -> (H, W, 3) uint8`` of a split, for the sheet of pictures."""
    paths = {record.image_id: record.path for record in index.records}

    def load(image_id: int) -> np.ndarray:
        return read_picture(paths[image_id])

    return load
