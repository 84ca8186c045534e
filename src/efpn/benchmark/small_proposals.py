"""What small objects cost: the time of FPN and EFPN against the number of objects that have small proposals.

Every object brings as many small proposals (``--per-object``) until all that a picture has are small; their total is
the same for any number of objects.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from matplotlib.figure import Figure

from efpn.benchmark import inference
from efpn.benchmark.inputs import fixed_boxes
from efpn.benchmark.machine import machine_facts
from efpn.benchmark.options import Options, add_options, read_options
from efpn.benchmark.report import write_report
from efpn.benchmark.timing import Reading, Spread, Workload, interleave, stop_watched
from efpn.benchmark.words import choose, whole_numbers
from efpn.errors import require_count
from efpn.evaluation.table import escaped, fact_list, markdown_table, number
from efpn.figures.curves import scale_curves
from efpn.figures.sheet import save

MODELS: Final = ("fpn-1x", "fpn-2x", "efpn")
COUNTS: Final = "0,1,5,20,50,100,300"
NOTES: Final = (
    "Every turn runs each model with each number of objects once, in rotating order; medians, ratios of medians.",
    "The RPN runs and is timed; its proposals are then replaced by the same number of boxes, of which some are small.",
)


def small_counts(options: Options, objects: Sequence[int], per_object: int) -> list[int]:
    """Small proposals for each number of objects, at most all there are."""
    return [min(per_object * count, options.proposals.total) for count in objects]


def measure(
    names: Sequence[str], settings: Mapping[int, Options], options: Options
) -> dict[str, dict[int, list[Reading]]]:
    """Time each model under each setting, interleaved.

    Args:
        names: of `efpn.benchmark.inference.MODELS`.
        settings: number of objects -> the setting with its proposals.
        options: the setting that the models are built in.
    """
    timed: dict[tuple[str, int], Callable[[int], Reading]] = {}
    for name in names:
        work = inference.prepare(name, options)
        for count, setting in settings.items():
            boxes = fixed_boxes(setting, inference.MODELS[name].proposals)
            timed[name, count] = _with_boxes(work, boxes, stop_watched(work, options.device))
    readings = interleave(timed, options.repeats, options.warmup)
    return {name: {count: readings[name, count] for count in settings} for name in names}


def _with_boxes(work: Workload, boxes: list[Any], measured: Callable[[int], Reading]) -> Callable[[int], Reading]:
    def timed(turn: int) -> Reading:
        assert work.proposals is not None, "only random detectors have proposals that can be set"
        work.proposals.boxes = boxes
        return measured(turn)

    return timed


def add_parser(parser: argparse.ArgumentParser) -> None:
    """The options of this measurement."""
    known = ", ".join(name for name in inference.MODELS if name != "torchvision")
    parser.add_argument("--models", default=",".join(MODELS), metavar="NAME,NAME", help=f"some of {known}")
    parser.add_argument("--counts", default=COUNTS, metavar="K,K", help=f"numbers of objects (default {COUNTS})")
    parser.add_argument("--per-object", type=int, default=15, metavar="N", help="small proposals of each (default 15)")
    add_options(parser, repeats=7, warmup=1)


def run(given: argparse.Namespace, arguments: Sequence[str]) -> str:
    """Measure, write the files and return the report.

    Raises:
        UserError: an option that makes no sense.
    """
    options = read_options(given)
    names = choose("--models", given.models, [name for name in inference.MODELS if name != "torchvision"])
    counts = whole_numbers("--counts", given.counts)
    require_count("--per-object", given.per_object, least=1)
    small = small_counts(options, counts, given.per_object)
    settings = {k: options.with_small(k, n) for k, n in zip(counts, small, strict=True)}
    readings = measure(names, settings, options)
    models = {
        name: {
            "title": inference.MODELS[name].title,
            "seconds": [Spread.of([r.seconds for r in readings[name][count]]).as_record() for count in counts],
        }
        for name in names
    }
    setting = {key: value for key, value in options.as_record().items() if key not in ("small", "objects")}
    record = {
        "objects": counts,
        "small": small,
        "ratios": curve_ratios(models),
        "models": models,
        "setting": {**setting, "per_object": given.per_object},
        "machine": machine_facts(options.device, arguments),
    }
    name = options.name("small-proposals")
    text = curve_text(f"Cost of small objects at {options.size_name} px", record, f"{name}.png")
    write_report(options.out, name, record, text)
    save(curve_figure(record), options.out / f"{name}.png")
    return text


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


def curve_text(title: str, record: Mapping[str, Any], picture: str) -> str:
    """Ratios and times for every number of objects, setting and machine as Markdown."""
    models, ratios = record["models"].values(), record["ratios"]
    head = ["objects", "small proposals", *ratios, *(f"{model['title']}, ms" for model in models)]
    rows = [
        [
            str(count),
            str(record["small"][row]),
            *(number(values[row]) for values in ratios.values()),
            *(number(1000 * model["seconds"][row]["median"], 1) for model in models),
        ]
        for row, count in enumerate(record["objects"])
    ]
    parts = [
        f"# {escaped(title)}",
        markdown_table(head, rows),
        f"![time against the number of small objects]({picture})",
        "## How it was measured",
        "\n".join(f"- {note}" for note in NOTES),
        "## Setting and machine",
        fact_list({**record["setting"], **record["machine"]}),
    ]
    return "\n\n".join(parts) + "\n"


def curve_figure(record: Mapping[str, Any]) -> Figure:
    """Median time of each model against the number of objects, above the number of small proposals."""
    bins = [str(count) for count in record["objects"]]
    runs = {
        model["title"]: {"median time, ms": [1000 * spread["median"] for spread in model["seconds"]]}
        for model in record["models"].values()
    }
    return scale_curves(bins, record["small"], runs, width=6.5, xlabel="small objects", bars="small proposals")
