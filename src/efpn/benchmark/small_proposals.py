"""What small objects cost: the time of FPN and EFPN against the number of objects that have small proposals.

Every object brings as many small proposals (``per_object``) until all that an image has are small; their total is the
same for any number of objects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure
from omegaconf import DictConfig
from torch import Tensor

from efpn.benchmark.inference import workload
from efpn.benchmark.inputs import fixed_boxes
from efpn.benchmark.report import milliseconds, write_report
from efpn.benchmark.setting import Setting, choose, read_setting
from efpn.benchmark.timing import Reading, Spread, Workload, interleave, stop_watched
from efpn.errors import UserError
from efpn.figures.curves import scale_curves
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
    counts = sorted(set(cfg.counts))
    small = [min(cfg.per_object * count, setting.proposals.total) for count in counts]
    readings = measure(names, {k: setting.with_small(k, n) for k, n in zip(counts, small, strict=True)}, setting)
    models = {
        name: {
            "title": cfg.rows[name].title,
            "seconds": [asdict(Spread.of(readings[name][count])) for count in counts],
        }
        for name in names
    }
    record = {"objects": counts, "small": small, "ratios": curve_ratios(models), "models": models}
    facts = {key: value for key, value in setting.as_record().items() if key not in ("small", "objects")}
    facts["per_object"] = cfg.per_object
    figure = Path(cfg.out) / f"{setting.file_name}.png"
    parts = [curve_table(record), f"![time against the number of small objects]({figure.name})"]
    text = write_report(setting, f"Cost of small objects at {setting.size_name} px", record, parts, NOTES, facts)
    save(curve_figure(record), figure)
    return text


def measure(
    names: Sequence[str], settings: Mapping[int, Setting], setting: Setting
) -> dict[str, dict[int, list[Reading]]]:
    """Time each model, built in ``setting``, under each of ``settings`` (by number of objects), interleaved."""
    timed: dict[tuple[str, int], Callable[[int], Reading]] = {}
    for name in names:
        work = workload(setting, name)
        measured = stop_watched(work, setting.device)
        for count, one in settings.items():
            boxes = fixed_boxes(one, setting.cfg.rows[name].get("proposals", 1))
            timed[name, count] = partial(timed_with, boxes, work, measured)
    readings = interleave(timed, setting.cfg.repeats, setting.cfg.warmup)
    return {name: {count: readings[name, count] for count in settings} for name in names}


def timed_with(boxes: list[Tensor], work: Workload, measured: Callable[[int], Reading], turn: int) -> Reading:
    """What ``work`` takes with these proposals."""
    if work.proposals is None:
        raise UserError("what=small-proposals: one-stage detectors have no proposals; use detector=faster_rcnn")
    work.proposals.boxes = boxes
    return measured(turn)


def curve_ratios(models: Mapping[str, Mapping[str, Any]]) -> dict[str, list[float]]:
    """Median time of EFPN over that of each other model, for every number of objects."""
    medians = {name: [spread["median"] for spread in model["seconds"]] for name, model in models.items()}
    return {
        f"{models['efpn']['title']} / {models[name]['title']}": [
            own / other for own, other in zip(medians["efpn"], medians[name], strict=True)
        ]
        for name in medians
        if "efpn" in medians and name != "efpn"
    }


def curve_table(record: Mapping[str, Any]) -> str:
    """Ratios and times for every number of objects as Markdown."""
    models, ratios = record["models"].values(), record["ratios"]
    head = ["objects", "small proposals", *ratios, *(f"{model['title']}, ms" for model in models)]
    rows = [
        [
            str(count),
            str(record["small"][row]),
            *(number(values[row]) for values in ratios.values()),
            *(milliseconds(model["seconds"][row]["median"]) for model in models),
        ]
        for row, count in enumerate(record["objects"])
    ]
    return markdown_table(head, rows)


def curve_figure(record: Mapping[str, Any]) -> Figure:
    """Median time of each model against the number of objects, above the number of small proposals."""
    bins = [str(count) for count in record["objects"]]
    runs = {
        model["title"]: {"median time, ms": [1000 * spread["median"] for spread in model["seconds"]]}
        for model in record["models"].values()
    }
    return scale_curves(bins, record["small"], runs, width=6.5, xlabel="small objects", bars="small proposals")
