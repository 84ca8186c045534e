"""An export, from a finished run to a file that says what the detector itself says."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from efpn import __version__
from efpn.data.datamodule import DetectionDataModule, thin_out
from efpn.data.dataset import image_pair
from efpn.data.images import read_image
from efpn.data.transforms import NO_BOXES, Transform
from efpn.deploy.formats import INPUT, OUTPUTS, Format
from efpn.deploy.graph import SMALLEST_SIDE, trace
from efpn.errors import UserError, raise_listed
from efpn.models import EFPNDetector
from efpn.runs.checkpoints import Checkpoint, read_checkpoint
from efpn.runs.files import make_folder, write_json
from efpn.runs.rebuild import rebuild_detector
from efpn.runs.saved import SavedRun
from efpn.types import Detections

log = logging.getLogger(__name__)


class Tolerance(NamedTuple):
    """How far apart two runs of one detection may lie: each side of the box in 1x pixels, and the scores."""

    boxes: float
    scores: float


class Agreement(NamedTuple):
    """How much was compared (images and parts of images, detections), and the largest differences that were found."""

    views: int
    detections: int
    boxes: float  # 1x pixels
    scores: float


def export(cfg: DictConfig, run: SavedRun, chosen: Format, images: list[Path]) -> Path:
    """Write the run's detector, compare it with itself on images, and only then give the file its name.

    The images are the run's own validation images where none are given. Returns the file; beside it lies
    ``<file>.json``, which says what goes in and what comes out.

    Raises:
        UserError: the run cannot be rebuilt, an image cannot be read, or the file says something else.
    """
    checkpoint = read_checkpoint(run.checkpoint)
    detector = rebuild_detector(run, checkpoint).eval()
    detector.backbone.tiles = None  # what is exported is the whole map, and compared with it
    transform = instantiate(run.config.data.eval_transform, _convert_="all")
    if not images:  # those of the run's validation split, evenly spaced over it
        data: DetectionDataModule = instantiate(run.config.data, check_images="none", _convert_="all")
        images = [record.path for record in thin_out(data.index("val"), cfg.check.images).records]
    tolerance = Tolerance(cfg.check.boxes, cfg.check.scores)
    target = run.out_folder(cfg.out, "export") / chosen.file
    partial, facts_file = (target.with_name(name) for name in (f"unchecked.{target.name}", f"{target.name}.json"))
    make_folder(target.parent)
    for earlier in (target, facts_file):
        earlier.unlink(missing_ok=True)
    try:
        chosen.write(trace(detector), partial)
        log.info("written; comparing on %d images", len(images))
        seen = views(images, transform, detector.backbone.reads_2x)
        agreement = compare(detector, chosen.load(partial), seen, tolerance)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    checked = {**agreement._asdict(), "tolerance": tolerance._asdict()}
    write_json(facts_file, {**facts_of(run, checkpoint, detector), **chosen.facts, "check": checked}, indent=1)
    log.info("%s: agrees on %d detections (%.2g px, %.2g of score)", target, *agreement[1:])
    return target


def views(images: list[Path], transform: Transform, double: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Each image as the exported detector takes it (``double``: at 2x), and its upper left two thirds: another size.

    Raises:
        UserError: an image that cannot be read, or too small for an exported detector.
    """
    for path in images:
        single, pair, _ = image_pair(transform, read_image(path), NO_BOXES, seed=0, double=double)
        height, width = single.shape[-2:]
        if min(height, width) < SMALLEST_SIDE:
            raise UserError(
                f"{path}: {width} x {height} px at 1x; an exported detector takes sides from {SMALLEST_SIDE}"
            )
        pixels, factor = (single, 1) if pair is None else (pair, 2)
        yield str(path), pixels
        down, right = (max(SMALLEST_SIDE, 2 * side // 3) for side in (height, width))
        upper_left = pixels[:, : factor * down, : factor * right].contiguous()
        yield f"{path} (upper left {right} x {down} px)", upper_left


@torch.no_grad()
def compare(
    detector: EFPNDetector,
    exported: Callable[[Tensor], Detections],
    views: Iterable[tuple[str, Tensor]],
    tolerance: Tolerance,
) -> Agreement:
    """Run both on every ``(name, image (3, H, W))``; a detector that reads 2x images takes such an image.

    Raises:
        UserError: they differ, with each image on which they do; or nothing is detected in any.
    """
    faults: list[str] = []
    largest, counts = torch.zeros(2), []
    for name, image in views:
        double = detector.backbone.reads_2x
        seen = F.avg_pool2d(image, 2) if double else image
        expected = detector.eval()([seen], images_2x=[image] if double else None)[0]
        found = differences(expected, exported(image), tolerance)
        counts.append(len(expected["scores"]))
        if isinstance(found, str):
            faults.append(f"{name}: {found}")
        else:
            largest = torch.maximum(largest, found)
    raise_listed("the exported model does not say what the detector says", faults)
    if not sum(counts):
        raise UserError(f"nothing to compare: no detection on {len(counts)} views; give others with images=")
    return Agreement(len(counts), sum(counts), *largest.tolist())


def differences(expected: Detections, got: Detections, tolerance: Tolerance) -> Tensor | str:
    """The largest difference of boxes and of scores ``(2,)``, or in words what does not agree.

    Each detection is compared with the nearest one of its class: two of nearly the same score may change places.
    """
    count, other = len(expected["scores"]), len(got["scores"])
    if count != other:
        return f"{other} detections instead of {count}"
    if not count:
        return torch.zeros(2)
    boxes = (expected["boxes"][:, None] - got["boxes"]).abs().amax(dim=2)
    scores = (expected["scores"][:, None] - got["scores"]).abs()
    apart = (boxes / tolerance.boxes).maximum(scores / tolerance.scores)
    apart[expected["labels"][:, None] != got["labels"]] = torch.inf
    nearest = apart.argmin(dim=1)
    rows = torch.arange(count)
    boxes, scores, apart = (table[rows, nearest] for table in (boxes, scores, apart))
    if not (apart <= 1).all():
        row = int(apart.argmax())
        box = ", ".join(f"{side:.1f}" for side in expected["boxes"][row].tolist())
        what = f"the detection of class {int(expected['labels'][row])} at ({box}), score {expected['scores'][row]:.3f},"
        if apart[row].isinf():
            return f"{what} has no counterpart of its class"
        return f"{what} is {boxes[row]:.3g} px and {scores[row]:.3g} of score away from the nearest"
    if len(nearest.unique()) < count:
        return "two detections have one counterpart"
    return torch.stack([boxes.max(), scores.max()])


def facts_of(run: SavedRun, checkpoint: Checkpoint, detector: EFPNDetector) -> dict[str, Any]:
    """What whoever runs the file must know."""
    transform = run.config.data.eval_transform
    factor = 1 if transform.get("direct") and not detector.backbone.reads_2x else 2
    return {
        "run": run.name,
        "config_hash": checkpoint.config_hash,
        "efpn": __version__,
        "torch": torch.__version__,
        "classes": checkpoint.classes,  # of label 1, 2, ...
        "input": {
            "name": INPUT,
            "shape": [3, "height", "width"],
            "values": f"float32 RGB in [0, 1], at the {'2x' if detector.backbone.reads_2x else '1x'} size",
            "short_side": transform.short_side,
            "max_size": transform.max_size,
            "smallest_side": SMALLEST_SIDE,
            "factor": factor,  # the image is resized to so many times the 1x size ...
            "given": 2 if detector.backbone.reads_2x else 1,  # ... and given, by means of blocks, at so many times
        },
        "outputs": dict(zip(OUTPUTS, ("(n, 4) xyxy, 1x pixels", "(n,) from 1", "(n,) falling"), strict=True)),
        "score_thresh": detector.score_thresh,
        "small_roi_below": detector.small.below if detector.small else None,
    }
