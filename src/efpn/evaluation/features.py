"""What the extended level holds, beside what it should hold (Fig. 6): P2' of several runs and P2 of the 2x image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig
from torch import Tensor

from efpn.data.datamodule import DetectionDataModule
from efpn.data.dataset import DetectionDataset
from efpn.errors import UserError
from efpn.evaluation.detect import eval_data
from efpn.evaluation.report import Drawn, keep
from efpn.evaluation.variants import EXTENDED
from efpn.models import EFPNDetector
from efpn.pyramid.upsamplers import upsample2x
from efpn.runs.checkpoints import read_checkpoint
from efpn.runs.rebuild import rebuild_detector
from efpn.runs.saved import SavedRun, row_names

CROP: Final = 64  # 1x pixels of a crop's side
PANEL: Final = 2.1  # inches of a panel's side
TARGET: Final = "P2 of 2x"
WITHOUT: Final = "P2, upsampled"  # what small objects read without the extension
SPREAD: Final = 2.5  # standard deviations of the target that a colour channel spans on either side


class FeatureRow(NamedTuple):
    """One crop of an image and what the maps hold there."""

    image: np.ndarray  # (h, w, 3) uint8, the crop
    target: np.ndarray  # (C, a, b), what the others should be
    maps: Mapping[str, np.ndarray]  # name to (C, a, b)
    title: str = ""  # one line


def draw_features(cfg: DictConfig, extended: Sequence[SavedRun], folder: Path) -> Drawn:
    """Write ``features.png`` and ``.json`` for ``cfg.features`` images of the split with small objects.

    They are of runs `with_extension` of one baseline, whose P2 of the 2x image is the target (raises `UserError`:
    another baseline).
    """
    data = eval_data(cfg, extended[0], pairs=True)
    samples = samples_with_small_objects(data, cfg.split, cfg.features)
    maps: list[dict[str, np.ndarray]] = [{} for _ in samples]
    for run, name in zip(extended, row_names(extended), strict=True):
        detector = rebuild_detector(run, read_checkpoint(run.checkpoint), detail=cfg.detail, changes=cfg.model).eval()
        for found, sample in zip(maps, samples, strict=True):
            levels = compared_maps(detector, *sample[:2])
            target = found.setdefault(TARGET, levels["target"])
            if target.shape != levels["target"].shape or not np.allclose(target, levels["target"], atol=1e-3):
                other = f"another baseline than {extended[0].name}"
                raise UserError(f"features: {name} comes from {other}; draw them apart")
            found |= {WITHOUT: levels["p2"], f"P2' {name}": levels["p2_ext"]}
    rows = [_row(sample, found) for sample, found in zip(samples, maps, strict=True)]
    numbers = {row.title: {name: relative_error(m, row.target) for name, m in row.maps.items()} for row in rows}
    sheet = feature_sheet(rows, title=f"Extended level on {cfg.split}") if rows else None  # none without an object
    return keep(folder / "features", sheet, numbers)


def with_extension(runs: Sequence[SavedRun]) -> list[SavedRun]:
    """The runs whose extended level has learned; the bounds' is its own target (raises `UserError`: none has)."""
    found = [run for run in runs if EXTENDED.met_by(run)]
    if not found:
        raise UserError(f"features: needs {EXTENDED.kind}; add one to run=")
    return found


def samples_with_small_objects(data: DetectionDataModule, split: Any, count: int) -> list[Any]:
    """``(image_1x, image_2x, target)`` of the images of a split whose smallest object is smallest."""
    index = data.index(split)
    boxes = [record.boxes[record.trainable] for record in index.records]
    sizes = [float((b[:, 2:] - b[:, :2]).max(1).min()) if len(b) else np.inf for b in boxes]
    dataset = DetectionDataset(index, data.eval_transform, pairs=True)
    return [dataset[int(row)] for row in np.argsort(sizes, kind="stable")[:count] if np.isfinite(sizes[row])]


@torch.no_grad()
def compared_maps(detector: EFPNDetector, image_1x: Tensor, image_2x: Tensor) -> dict[str, np.ndarray]:
    """Levels of one image ``(3, h, w)`` and its 2x image, each ``(C, H/2, W/2)`` of the padded 1x image.

    They are ``target`` (P2 of the 2x image), ``p2_ext`` (P2'), and ``p2`` (P2 of the 1x image, nearest-upsampled).
    """
    backbone = detector.backbone
    batch_1x, batch_2x = detector.batch_pair([image_1x], [image_2x])
    pyramid, fine = backbone.prepare(batch_1x.tensors, batch_2x)
    maps = {
        "target": backbone.extension.targets(backbone.pyramid(batch_2x))[1],
        "p2_ext": backbone.extension.extend(backbone, pyramid, fine)[1],
        "p2": upsample2x(pyramid.output["p2"]),
    }
    return {name: level[0].float().cpu().numpy() for name, level in maps.items()}


def _row(sample: Any, maps: Mapping[str, np.ndarray]) -> FeatureRow:
    """A crop around the smallest object; P2' and its target have a cell for every 2 x 2 pixels of the 1x image."""
    image, _, target = sample
    boxes = target["boxes"]
    box = boxes[(boxes[:, 2:] - boxes[:, :2]).amax(1).argmin()]
    height, width = image.shape[1:]
    start = (box[:2] + box[2:]) / 2 - CROP / 2
    left, top = (torch.minimum(start, torch.tensor([width, height]) - CROP).clamp(min=0).int() // 2 * 2).tolist()
    crops = {name: m[:, top // 2 : (top + CROP) // 2, left // 2 : (left + CROP) // 2] for name, m in maps.items()}
    pixels = (image[:, top : top + CROP, left : left + CROP].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    return FeatureRow(pixels, crops.pop(TARGET), crops, f"image {int(target['image_id'])}")


def relative_error(features: np.ndarray, target: np.ndarray) -> float:
    """Mean absolute difference of two maps over the target's mean absolute deviation from its mean (per channel).

    0 for a perfect copy, 1 for a map that only knows each channel's mean; both ``(C, a, b)``.
    """
    spread = np.abs(target - target.mean(axis=(1, 2), keepdims=True)).mean()
    return float(np.abs(features - target).mean() / spread)


def feature_sheet(rows: Sequence[FeatureRow], *, title: str = "") -> Figure:
    """A row for each crop: the image, the target, then the maps, each with its relative error.

    All maps of a row are projected onto the target's first three principal components as red, green and blue. The rows
    (at least one) have the same names of maps.
    """
    if not rows:
        raise ValueError("a sheet of features needs at least one crop")
    columns = 2 + len(rows[0].maps)
    size = (PANEL * columns, 0.5 + (PANEL + 0.32) * len(rows))
    figure = Figure(figsize=size, dpi=130, facecolor="white", layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, weight="bold")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes, row in zip(grid, rows, strict=True):
        shown = {row.title: row.image, "target": projected(row.target, row.target)}
        for name, features in row.maps.items():
            words = f"{name}, error {relative_error(features, row.target):.2f}"
            shown[words] = projected(features, row.target)
        for view, (words, image) in zip(axes, shown.items(), strict=True):
            view.imshow(image, interpolation="nearest")
            view.set_title(words, loc="left", fontsize=8, parse_math=False)
            view.set_axis_off()
    return figure


def projected(features: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Features ``(C, a, b)`` as colours ``(a, b, 3)`` uint8, by the first principal components of ``target``.

    What lies beyond the target's spread is clipped.
    """
    flat, own = (side.reshape(len(side), -1).astype(np.float64) for side in (features, target))
    mean = own.mean(axis=1, keepdims=True)
    vectors, values, _ = np.linalg.svd(own - mean, full_matrices=False)
    found = vectors[:, :3].T @ (flat - mean) / (SPREAD * np.maximum(values[:3, None] / np.sqrt(own.shape[1]), 1e-12))
    colours = np.zeros((3, flat.shape[1]))  # black where the target has fewer components
    colours[: len(found)] = found
    return (np.clip(colours.T * 0.5 + 0.5, 0, 1) * 255).astype(np.uint8).reshape(*features.shape[1:], 3)
