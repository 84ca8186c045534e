"""Whether the loader keeps up with training: pictures per second of both, and what decoding alone takes.

Pictures are JPEG files that the measurement writes itself into a temporary folder; the loader is the real one, with
the transforms of ``conf/data/tt100k.yaml``. On a CPU loader and training step share the cores, so that each rate is
what one of them reaches alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

import cv2
import numpy as np
from PIL import Image

from efpn.benchmark.machine import machine_facts
from efpn.benchmark.options import Options, add_options, read_options
from efpn.benchmark.proposals import object_boxes
from efpn.benchmark.report import ratio_table, write_report
from efpn.benchmark.timing import interleave, stop_watched
from efpn.benchmark.training import STEPS
from efpn.benchmark.words import whole_numbers
from efpn.data.datamodule import DetectionDataModule
from efpn.data.pictures import read_picture, read_smaller
from efpn.data.reading import make_record
from efpn.data.records import Categories, Index
from efpn.data.transforms import EvalTransform, TrainTransform
from efpn.errors import UserError, require_count
from efpn.evaluation.table import escaped, fact_list, markdown_table, number

QUALITY: Final = 92  # of the JPEG files
JITTER: Final = (0.8, 1.25)
COLOUR: Final = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.02}
VISIBLE: Final = 0.3
PHASES: Final = {"baseline": False, "distill": True}  # training step -> whether it is fed with pairs
NOTES: Final = (
    "Loader: decoding, transforms and batching of the real data module; the rate from the first batch to the last.",
    "Step: the rate of the training step alone, from its median time (see python -m efpn.benchmark training).",
    "On a CPU both share the cores, so that each rate is what one of them reaches alone.",
    "The loader decodes a JPEG at a half, a quarter or an eighth of its size (libjpeg's reduced decode) where what is "
    "trained on has no more pixels: 2 x --size x the scale jitter (0.8 to 1.25) within half of --file-size.",
)


class WrittenPictures:
    """A source of noise pictures as JPEG files, each with boxes.

    Args:
        folder: that they are written into.
        files: how many.
        side: pixels of each, square.
        options: whose objects the boxes are, and whose seed it is.
    """

    categories = Categories(("object",), (1,), (True,))

    def __init__(self, folder: Path, files: int, side: int, options: Options) -> None:
        self.folder = folder
        self.paths = [write_noise(folder / f"{n}.jpg", side, options.seed + n) for n in range(files)]
        self.side = side
        self.boxes = [object_boxes(options.proposals, side, side, options.seed + n).tolist() for n in range(files)]

    def load(self, split: str) -> Index:
        """All of them, whatever the split."""
        records = tuple(
            make_record(number, path, boxes, [1] * len(boxes), size=(self.side, self.side))
            for number, (path, boxes) in enumerate(zip(self.paths, self.boxes, strict=True))
        )
        return Index(split, self.folder / "none.json", self.categories, records)


def write_noise(path: Path, side: int, seed: int) -> Path:
    """A square JPEG with detail at every scale, which is decoded about as slowly as a photograph."""
    random = np.random.default_rng(seed)
    picture = np.zeros((side, side, 3), np.float32)
    for cells in (8, 64, 512):
        noise = random.normal(0, 25, (cells, cells, 3)).astype(np.float32)
        picture += cv2.resize(noise, (side, side), interpolation=cv2.INTER_LINEAR)
    Image.fromarray((picture + 128).clip(0, 255).astype(np.uint8)).save(path, quality=QUALITY)
    return path


def loader_rate(source: WrittenPictures, options: Options, workers: int, pairs: bool, pictures: int) -> float:
    """Pictures a second that the training loader gives, from its first batch on.

    Args:
        source: of the pictures.
        options: the setting; its size is that of the 1x picture.
        workers: processes.
        pairs: as distillation needs them.
        pictures: to load.
    """
    batches = iter(training_data(source, options, workers, pairs, pictures).train_dataloader())
    next(batches)
    start, seen = time.perf_counter(), 0
    for batch in batches:
        seen += len(batch[0])
    return seen / (time.perf_counter() - start)


def training_data(
    source: WrittenPictures, options: Options, workers: int, pairs: bool, pictures: int
) -> DetectionDataModule:
    """The data module that a training would use, for ``pictures`` and one batch to begin with."""
    short, long = sorted((options.height, options.width))
    return DetectionDataModule(
        source,
        {"train": "train"},
        TrainTransform(short, long, scale_jitter=JITTER, color_jitter=COLOUR, min_visibility=VISIBLE),
        EvalTransform(short, long),
        batch_size=options.batch,
        num_workers=workers,
        pairs=pairs,
        seed=options.seed,
        samples_per_epoch=pictures + options.batch,
        check_pictures="none",
    )


def decode_rates(paths: Sequence[Path]) -> dict[str, float]:
    """Pictures a second in one thread: as the loader decodes whole pictures, and at half size."""
    ways: dict[str, Callable[[Path], Any]] = {
        "decode": read_picture,
        "decode at half size": partial(read_smaller, shrink=lambda height, width: 2),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for path in paths:
        for name, decode in ways.items():
            start = time.perf_counter()
            decode(path)
            taken[name].append(time.perf_counter() - start)
    return {name: 1 / median(seconds) for name, seconds in taken.items()}


def step_rates(options: Options) -> dict[str, float]:
    """Pictures a second that each training step takes."""
    watched = {name: stop_watched(STEPS[name].build(options), options.device) for name in PHASES}
    readings = interleave(watched, options.repeats, options.warmup)
    return {name: options.batch / median(r.seconds for r in readings[name]) for name in PHASES}


def add_parser(parser: argparse.ArgumentParser) -> None:
    """The options of this measurement."""
    add = parser.add_argument
    add("--workers", default="0,1,2", metavar="N,N", help="loader processes to try (default 0,1,2)")
    add("--files", type=int, default=16, metavar="N", help="JPEG files to write (default 16)")
    add("--file-size", type=int, default=2048, metavar="PX", help="side of each (default 2048)")
    add("--load", type=int, default=48, metavar="N", help="pictures that are loaded for each rate (default 48)")
    add_options(parser, repeats=5, warmup=1)


def run(given: argparse.Namespace, arguments: Sequence[str]) -> str:
    """Measure, write the files and return the report.

    Raises:
        UserError: an option that makes no sense.
    """
    options, workers = read_options(given), whole_numbers("--workers", given.workers)
    for name in ("files", "file_size", "load"):
        require_count(f"--{name.replace('_', '-')}", getattr(given, name), least=1)
    if given.file_size < min(options.height, options.width):
        raise UserError(f"--file-size={given.file_size}: smaller than --size; pictures are not to be enlarged")
    with TemporaryDirectory() as folder:
        source = WrittenPictures(Path(folder), given.files, given.file_size, options)
        rates = {
            phase: {str(n): loader_rate(source, options, n, pairs, given.load) for n in workers}
            for phase, pairs in PHASES.items()
        }
        decoding = decode_rates(source.paths)
        size = median(path.stat().st_size for path in source.paths)
    steps = step_rates(options)
    record = {
        "ratios": rate_ratios(steps, rates),
        "loader": rates,
        "step": steps,
        "decoding": decoding,
        "setting": {**options.as_record(), "files": given.files, "file_size": given.file_size, "file_bytes": size},
        "machine": machine_facts(options.device, arguments),
    }
    text = loader_text(f"Loader at {options.size_name} px", record)
    write_report(options.out, options.name("loader"), record, text)
    return text


def rate_ratios(steps: dict[str, float], rates: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """What a step takes over what the loader gives; above 1 training waits for the loader."""
    pairs = [(phase, n, steps[phase] / rate) for phase, given in rates.items() for n, rate in given.items()]
    return [
        {"name": f"{phase} step / loader, workers: {n}", "value": value, "target": 1.0, "met": value <= 1}
        for phase, n, value in pairs
    ]


def loader_text(title: str, record: dict[str, Any]) -> str:
    """Ratios, rates, setting and machine as Markdown."""
    rows = [
        [f"{phase} loader, workers: {n}", number(rate, 2)]
        for phase, given in record["loader"].items()
        for n, rate in given.items()
    ]
    rows += [[f"{phase} step", number(rate, 2)] for phase, rate in record["step"].items()]
    rows += [[f"{name}, one thread", number(rate, 2)] for name, rate in record["decoding"].items()]
    parts = [
        f"# {escaped(title)}",
        ratio_table(record["ratios"]),
        "## Pictures a second",
        markdown_table(["", "pictures/s"], rows),
        "## How it was measured",
        "\n".join(f"- {note}" for note in NOTES),
        "## Setting and machine",
        fact_list({**record["setting"], **record["machine"]}),
    ]
    return "\n\n".join(parts) + "\n"
