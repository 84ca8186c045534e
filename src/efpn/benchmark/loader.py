"""Whether the loader keeps up with training: images per second of both, and what decoding alone takes.

Images are JPEG files that the measurement writes itself into a temporary folder; the loader is the real one, with the
transforms of the config's ``data``. On a CPU loader and training step share the cores, so that each rate is what one of
them reaches alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

import cv2
import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig
from PIL import Image

from efpn.benchmark.inputs import object_boxes
from efpn.benchmark.report import ratio_table, write_report
from efpn.benchmark.setting import Setting, read_setting
from efpn.benchmark.timing import interleave, stop_watched
from efpn.benchmark.training import workload
from efpn.data.datamodule import DetectionDataModule
from efpn.data.images import read_image, read_smaller
from efpn.data.records import Categories, Index, Record
from efpn.errors import UserError
from efpn.markdown import markdown_table, number

QUALITY: Final = 92  # of the JPEG files
PHASES: Final = ("baseline", "distill")  # fed with single images, and with pairs
NOTES: Final = (
    "Loader: decoding, transforms and batching of the real data module; the rate from the first batch to the last.",
    "Step: the rate of the training step alone, from its median time (see python benchmark.py what=training).",
    "On a CPU both share the cores, so that each rate is what one of them reaches alone.",
    "The loader decodes a JPEG at a half, a quarter or an eighth of its size (libjpeg's reduced decode) where what is "
    "trained on has no more pixels: 2 x size x the scale jitter (0.8 to 1.25) within half of file_size.",
)


class WrittenImages:
    """A source of so many square noise images, as JPEG files in a folder, each with the objects of the setting."""

    categories = Categories(("object",), (1,), (True,))

    def __init__(self, folder: Path, files: int, side: int, setting: Setting) -> None:
        self.folder, self.side = folder, side
        self.boxes = {
            write_noise(folder / f"{number}.jpg", side, seed): object_boxes(setting.proposals, side, side, seed)
            for number, seed in enumerate(range(setting.cfg.seed, setting.cfg.seed + files))
        }
        self.paths = list(self.boxes)

    def load(self, split: str) -> Index:
        """All of them, whatever the split."""
        records = tuple(
            Record(number, path, boxes.tolist(), [1] * len(boxes), size=(self.side, self.side))
            for number, (path, boxes) in enumerate(self.boxes.items())
        )
        return Index(split, self.folder / "none.json", self.categories, records)


def write_noise(path: Path, side: int, seed: int) -> Path:
    """A square JPEG with detail at every scale, which is decoded about as slowly as a photograph."""
    random = np.random.default_rng(seed)
    image = np.zeros((side, side, 3), np.float32)
    for cells in (8, 64, 512):
        noise = random.normal(0, 25, (cells, cells, 3)).astype(np.float32)
        image += cv2.resize(noise, (side, side), interpolation=cv2.INTER_LINEAR)
    Image.fromarray((image + 128).clip(0, 255).astype(np.uint8)).save(path, quality=QUALITY)
    return path


def training_data(source: WrittenImages, setting: Setting, workers: int, pairs: bool) -> DetectionDataModule:
    """The data module that a training would use, for ``load`` images and one batch to begin with."""
    cfg = setting.cfg
    short, long = sorted((setting.height, setting.width))
    transforms = [
        instantiate(node, short_side=short, max_size=long, _convert_="all")
        for node in (cfg.data.train_transform, cfg.data.eval_transform)
    ]
    loading = {"batch_size": cfg.batch, "num_workers": workers, "seed": cfg.seed, "check_images": "none"}
    count = cfg.load + cfg.batch
    return DetectionDataModule(source, {"train": "train"}, *transforms, pairs=pairs, samples_per_epoch=count, **loading)


def loader_rate(source: WrittenImages, setting: Setting, workers: int, pairs: bool) -> float:
    """Images a second that the training loader gives, from its first batch on."""
    batches = iter(training_data(source, setting, workers, pairs).train_dataloader())
    next(batches)
    start = time.perf_counter()
    seen = sum(len(batch[0]) for batch in batches)
    return seen / (time.perf_counter() - start)


def decode_rates(paths: Sequence[Path]) -> dict[str, float]:
    """Images a second in one thread: as the loader decodes whole images, and at half size."""
    from torch.utils.benchmark import Timer  # looks for a compiler and CUDA's, aloud: not before it is needed

    def timed(decode: Callable[[Path], Any], turn: int) -> float:
        return Timer("decode(path)", globals={"decode": decode, "path": paths[turn]}).timeit(1).mean

    half = partial(read_smaller, shrink=lambda height, width: 2)
    ways = {"decode": partial(timed, read_image), "decode at half size": partial(timed, half)}
    return {name: 1 / median(seconds) for name, seconds in interleave(ways, len(paths), warmup=0).items()}


def run(cfg: DictConfig) -> str:
    """Measure, write the files and return the report (raises `UserError`: an option that makes no sense)."""
    setting = read_setting(cfg)
    if cfg.file_size < min(setting.height, setting.width):
        raise UserError(f"file_size={cfg.file_size}: smaller than size; images are not to be enlarged")
    with TemporaryDirectory() as folder:
        source = WrittenImages(Path(folder), cfg.files, cfg.file_size, setting)
        rates = {
            phase: {str(n): loader_rate(source, setting, n, cfg.phases[phase].pairs) for n in cfg.workers}
            for phase in PHASES
        }
        decoding = decode_rates(source.paths)
        size = median(path.stat().st_size for path in source.paths)
    watched = {name: stop_watched(workload(setting, name), setting.device) for name in PHASES}
    readings = interleave(watched, cfg.repeats, cfg.warmup)
    steps = {name: cfg.batch / median(reading.seconds for reading in readings[name]) for name in PHASES}

    ratios, rows = [], []
    for phase, given in rates.items():
        for n, rate in given.items():
            value = steps[phase] / rate  # above 1 training waits for the loader
            name = f"{phase} step / loader, workers: {n}"
            ratios.append({"name": name, "value": value, "target": 1.0, "met": value <= 1})
            rows.append([f"{phase} loader, workers: {n}", number(rate, 2)])
    rows += [[f"{phase} step", number(rate, 2)] for phase, rate in steps.items()]
    rows += [[f"{name}, one thread", number(rate, 2)] for name, rate in decoding.items()]
    record = {"ratios": ratios, "loader": rates, "step": steps, "decoding": decoding}
    parts = [ratio_table(ratios), "## Images a second", markdown_table(["", "images/s"], rows)]
    facts = {**setting.as_record(), "files": cfg.files, "file_size": cfg.file_size, "file_bytes": size}
    return write_report(setting, f"Loader at {setting.size_name} px", record, parts, NOTES, facts)
