"""What small objects cost: the time of FPN and EFPN against the number of objects that have small proposals.

Every object brings as many small proposals (``per_object``) until all that an image has are small; their total is the
same for any number of objects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure
from omegaconf import DictConfig
from torch import Tensor

from efpn.benchmark.inference import workload
from efpn.benchmark.inputs import fixed_boxes
from efpn.benchmark.report import milliseconds, write_report
from efpn.benchmark.setting import Composition, Setting, choose, read_setting
from efpn.benchmark.timing import Reading, Workload, interleave, spread, stop_watched
from efpn.errors import UserError
from efpn.figures.curves import STYLES, scale_curves
from efpn.figures.sheet import save
from efpn.markdown import markdown_table, number

NOTES: Final = (
    "Every turn runs each model with each number of objects once, in rotating order; medians, ratios of medians.",
    "The RPN runs and is timed; its proposals are then replaced by the same number of boxes, of which some are small.",
)


def run(cfg: DictConfig) -> str:
    """Measure, write the files and return the report (raises `UserError`: an option that makes no sense)."""
    setting = read_setting(cfg)
    names = choose("models", cfg.models, [name for name in cfg.rows if name != "torchvision"])
    if len(names) > len(STYLES):
        raise UserError(
            f"models: a figure tells {len(STYLES)} apart, {len(names)} are asked for; name those to measure"
        )
    counts, total = sorted(set(cfg.counts)), setting.proposals.total
    small = [min(cfg.per_object * count, total) for count in counts]
    mixed = [replace(setting.proposals, objects=k, small=n) for k, n in zip(counts, small, strict=True)]
    readings = measure(names, mixed, setting)
    models = {
        name: {
            "title": cfg.rows[name].title,
            "seconds": [spread([reading.seconds for reading in readings[name, how]]) for how in mixed],
        }
        for name in names
    }
    medians = {name: [one["median"] for one in model["seconds"]] for name, model in models.items()}
    own = medians.get("efpn", [])
    ratios = {
        f"{models['efpn']['title']} / {models[name]['title']}": [a / b for a, b in zip(own, other, strict=True)]
        for name, other in medians.items()
        if own and name != "efpn"
    }
    record = {"objects": counts, "small": small, "ratios": ratios, "models": models}
    head = ["objects", "small proposals", *ratios, *(f"{model['title']}, ms" for model in models.values())]
    columns = [
        *([str(count) for count in side] for side in (counts, small)),
        *([number(ratio) for ratio in one] for one in ratios.values()),
        *([milliseconds(seconds) for seconds in one] for one in medians.values()),
    ]
    table = markdown_table(head, zip(*columns, strict=True))
    facts = {key: value for key, value in setting.as_record().items() if key not in ("small", "objects")}
    facts["per_object"] = cfg.per_object
    figure = Path(cfg.out) / f"{setting.file_name}.png"
    parts = [table, f"![time against the number of small objects]({figure.name})"]
    text = write_report(setting, f"Cost of small objects at {setting.size_name} px", record, parts, NOTES, facts)
    save(curve_figure(record), figure)
    return text


def measure(
    names: Sequence[str], mixed: Sequence[Composition], setting: Setting
) -> dict[tuple[str, Composition], list[Reading]]:
    """Time each model, built in ``setting``, with proposals of each composition, interleaved."""
    timed: dict[tuple[str, Composition], Callable[[int], Reading]] = {}
    for name in names:
        work = workload(setting, name)
        measured = stop_watched(work, setting.device)
        for how in mixed:
            boxes = fixed_boxes(replace(setting, proposals=how), setting.cfg.rows[name].get("proposals", 1))
            timed[name, how] = partial(timed_with, boxes, work, measured)
    return interleave(timed, setting.cfg.repeats, setting.cfg.warmup)


def timed_with(boxes: list[Tensor], work: Workload, measured: Callable[[int], Reading], turn: int) -> Reading:
    """What ``work`` takes with these proposals."""
    if work.proposals is None:
        raise UserError("what=small-proposals: one-stage detectors have no proposals; use detector=faster_rcnn")
    work.proposals.boxes = boxes
    return measured(turn)


def curve_figure(record: Mapping[str, Any]) -> Figure:
    """Median time of each model against the number of objects, above the number of small proposals."""
    bins = [str(count) for count in record["objects"]]
    runs = {
        model["title"]: {"median time, ms": [1000 * one["median"] for one in model["seconds"]]}
        for model in record["models"].values()
    }
    return scale_curves(bins, record["small"], runs, width=6.5, xlabel="small objects", bars="small proposals")
