"""Table III on any machine: what it costs to detect with each of its models, interleaved in one process.

Weights are random, and what the RPN proposes is replaced by boxes of a chosen composition after the RPN has run; or
weights, proposals and pictures are those of a trained run. Of the random ones post-processing is nearly free: an
untrained head is sure of nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from efpn.benchmark.detectors import Detectors, RandomDetectors, compile_parts
from efpn.benchmark.inputs import Batch, fixed_boxes, random_batch
from efpn.benchmark.machine import machine_facts
from efpn.benchmark.measure import measure
from efpn.benchmark.options import Options, add_memory_options, add_options, read_options
from efpn.benchmark.proposals import FixedProposals
from efpn.benchmark.ratios import Ratio, evaluate, peak
from efpn.benchmark.report import comparison_text, write_report
from efpn.benchmark.stages import Stages
from efpn.benchmark.timing import Workload
from efpn.benchmark.words import choose
from efpn.errors import UserError
from efpn.models import Doubled, Image2x, Oracle

NOTES: Final = (
    "Every turn runs each model once, in rotating order; medians of the turns that count, ratios of medians.",
    "EFPN computes P2' on windows under small proposals, as it does by default, and so does EFPN without FTT; --margin "
    "limits what FTT sees around a window (without it: all that it can see, which is exact).",
    "Second pass: stages 2 and 3 on an image of twice the size, under small proposals too, in the place of FTT.",
    "Trunk includes C2' and C3'; heads are RoI pooling and box heads; rest is normalising and padding. A stage that "
    "runs inside another one stops the other's clock.",
    "Peak memory is what a run needs above weights and input: on a CPU the growth of a fresh process, on CUDA that of "
    "the allocated tensors (see efpn.benchmark.memory).",
    "torchvision is its own Faster R-CNN with the same trunk and depth, as it comes (its own memory layout).",
)


@dataclass(frozen=True)
class Model:
    """A row of the table.

    Attributes:
        title: for people.
        build: makes it.
        scale: it is given pictures of this many times the 1x size.
        proposals: its RPN proposes in pixels of a picture of this many times the 1x size.
    """

    title: str
    build: Callable[[Detectors], nn.Module]
    scale: int = 1
    proposals: int = 1


MODELS: Final = {
    "fpn-1x": Model("FPN-1x", lambda make: make.fpn()),
    "fpn-2x": Model("FPN-2x", lambda make: make.fpn(), scale=2, proposals=2),
    "oracle": Model("FPN-1x + P2-2x", lambda make: Oracle(make.oracle()), scale=2),
    "efpn-nearest": Model("EFPN without FTT", lambda make: make.nearest()),
    "efpn": Model("EFPN", lambda make: make.efpn()),
    "second-pass": Model("EFPN, second pass on 2x", lambda make: make.second_pass(Image2x())),
    "second-pass-doubled": Model("EFPN, second pass on 1x doubled", lambda make: make.second_pass(Doubled())),
    "efpn-whole": Model("EFPN, P2' whole", lambda make: make.efpn(whole=True)),
    "torchvision": Model("torchvision, 1x", lambda make: make.reference()),
}
UNTRAINED: Final = ("second-pass", "second-pass-doubled", "torchvision")  # a trained run has its one extension: efpn
RATIOS: Final = (
    Ratio("time, EFPN-1x / FPN-2x", "efpn", "fpn-2x", target=0.45),
    Ratio("time, EFPN-1x / FPN-1x", "efpn", "fpn-1x", target=1.7),
    Ratio("peak memory, EFPN-1x / FPN-2x", "efpn", "fpn-2x", peak, target=0.5),
    Ratio("time, second pass on 2x / FPN-2x", "second-pass", "fpn-2x", target=0.45),
    Ratio("time, second pass on 2x / FPN-1x", "second-pass", "fpn-1x", target=1.6),
    Ratio("peak memory, second pass on 2x / FPN-2x", "second-pass", "fpn-2x", peak, target=0.45),
    Ratio("time, EFPN-1x with P2' whole / FPN-2x", "efpn-whole", "fpn-2x"),
    Ratio("time, FPN-1x / torchvision", "fpn-1x", "torchvision"),
)


def add_parser(parser: argparse.ArgumentParser) -> None:
    """The options of this measurement."""
    parser.add_argument("--models", metavar="NAME,NAME", help=f"some of {', '.join(MODELS)} (default: all)")
    parser.add_argument("--run", metavar="FOLDER", help="weights and proposals of this trained run; with --pictures")
    parser.add_argument("--objectness", type=float, metavar="P", help="drop the run's proposals below it, 0 to 1")
    parser.add_argument("--pictures", metavar="WHAT", help="folder or glob of pictures to detect in; with --run")
    add_options(parser, repeats=10, warmup=2)
    add_memory_options(parser)


def run(given: argparse.Namespace, arguments: Sequence[str]) -> str:
    """Measure, write the files and return the report.

    Raises:
        UserError: an option that makes no sense.
    """
    options, names = check(given)
    titles = {name: MODELS[name].title for name in names}
    setting = {**options.as_record(), **proposed(options)}
    models = measure(titles, lambda name: prepare(name, options), options, arguments)
    record = {
        "ratios": evaluate(RATIOS, models),
        "models": models,
        "setting": setting,
        "machine": machine_facts(options.device, arguments),
    }
    text = comparison_text(f"Inference at {options.size_name} px" if not options.run else "Inference", record, NOTES)
    write_report(options.out, options.name("inference"), record, text)
    return text


def peak_work(given: argparse.Namespace) -> tuple[Workload, Options]:
    """What a child process measures the memory of: the model ``given.peak_of``."""
    options, _ = check(given)
    return prepare(given.peak_of, options), options


def check(given: argparse.Namespace) -> tuple[Options, list[str]]:
    """The setting, and the names of the models.

    Raises:
        UserError: an option that makes no sense.
    """
    options = read_options(given)
    if bool(options.run) != bool(options.pictures):
        raise UserError("--run and --pictures: a trained run detects in real pictures; give both or neither")
    if options.objectness is not None and not options.run:
        raise UserError("--objectness: untrained detectors have none that means anything; give --run too")
    known = [name for name in MODELS if not options.run or name not in UNTRAINED]
    return options, choose("--models", given.models, known)


def prepare(name: str, options: Options) -> Workload:
    """Build a model and what it detects in."""
    kind = MODELS[name]
    make, batches = trained(options) if options.run else (RandomDetectors(options), [random_batch(options)])
    model = kind.build(make).eval().to(options.device)
    boxes = [] if options.run else fixed_boxes(options, kind.proposals)
    proposals = FixedProposals(getattr(model, "detector", model), boxes) if boxes else None
    if options.compile:
        compile_parts(model)

    double = kind.scale == 1 and getattr(getattr(model, "backbone", None), "reads_2x", False)

    def detect(turn: int) -> Any:
        images, images_2x = batches[turn % len(batches)]
        with torch.inference_mode(), options.autocast():
            if double:
                return model(images, images_2x=images_2x)
            return model(images if kind.scale == 1 else images_2x)

    return Workload(model, detect, Stages(model), proposals)


def proposed(options: Options) -> dict[str, float]:
    """What a trained run proposes in its pictures; that of random detectors is among the options."""
    if not options.run:
        return {}
    from efpn.benchmark.trained import proposal_counts

    return proposal_counts(options)


def trained(options: Options) -> tuple[Detectors, list[Batch]]:
    """The detectors of a run, and batches of real pictures."""
    from efpn.benchmark.trained import TrainedDetectors, picture_batches  # with Lightning and Hydra: seconds

    return TrainedDetectors(options), picture_batches(options)
