"""What a prediction leaves behind: a progress bar while it runs, annotated images, COCO json."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from efpn.figures.annotated import annotated_image
from efpn.figures.outcomes import marks
from efpn.prediction.images import ImageFile
from efpn.prediction.journal import Entry, Journal
from efpn.prediction.task import Shot
from efpn.runs.files import write_bytes, write_json

log = logging.getLogger(__name__)

IMAGES, DETECTIONS = "images.json", "detections.json"
QUALITY: Final[Mapping[str, Mapping[str, Any]]] = {  # by Pillow's name of the format
    "JPEG": {"quality": 92},
    "WEBP": {"quality": 92},
    "TIFF": {"compression": "tiff_lzw"},
}


class ImageBar(pl.Callback):
    """A progress bar over the images, with the time left and the number of broken ones."""

    def __init__(self, total: int) -> None:
        text = TextColumn("[progress.description]{task.description}")
        self.bar = Progress(text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), transient=False)
        self.row = self.bar.add_task("images", total=total)
        self.broken = 0

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show it."""
        self.bar.start()

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Shot, *args: Any
    ) -> None:
        """Move on by one image."""
        self.broken += batch.image is None
        self.bar.update(self.row, advance=1, description=f"images ({self.broken} broken)" if self.broken else None)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave it as it is."""
        self.bar.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the terminal back."""
        self.bar.stop()


class ImageWriter(pl.Callback):
    """Writes each image with its detections, and what was found into the journal, as soon as they are there.

    Args:
        journal: of this prediction.
        folder: for the annotated images, under the images' own names; None draws none.
        names: class names in label order.
        score_threshold: detections below are not drawn.
    """

    def __init__(self, journal: Journal, folder: Path | None, names: Sequence[str], score_threshold: float) -> None:
        self.journal = journal
        self.folder = folder
        self.names = names
        self.score_threshold = score_threshold
        self.broken: list[tuple[ImageFile, str]] = []  # that could not be read, each with the reason

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Shot, *args: Any
    ) -> None:
        """Take one image down."""
        file, image, error = batch
        if image is None:
            self.broken.append((file, error))
            return
        if self.folder is not None:
            kind = Image.registered_extensions()[file.path.suffix.lower()]
            drawn = io.BytesIO()
            Image.fromarray(self.draw(image, outputs)).save(drawn, kind, **QUALITY.get(kind, {}))
            write_bytes(self.folder / file.name, drawn.getvalue())
        boxes, scores, labels = (outputs[name].detach().cpu().double() for name in ("boxes", "scores", "labels"))
        corner, other = boxes.reshape(-1, 4).split(2, dim=1)
        rows = torch.cat([labels[:, None], scores[:, None], corner, other - corner], dim=1).tolist()
        height, width = image.shape[:2]
        self.journal.add(file.path, {"width": width, "height": height, "found": rows})

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Say what is kept."""
        done = len(self.journal.entries)
        log.error("stopped; %d images are kept in %s, the same command does the rest", done, self.journal.path)

    def draw(self, image: np.ndarray, found: Mapping[str, Tensor]) -> np.ndarray:
        """The image with the detections that reach the threshold."""
        rows = found["scores"] >= self.score_threshold
        boxes, scores, labels = (found[key][rows].cpu().numpy() for key in ("boxes", "scores", "labels"))
        texts = [f"{self.names[label - 1]} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
        return annotated_image(image, marks("hit", boxes, texts))


def write_results(
    out: Path,
    seen: Sequence[tuple[ImageFile, Entry]],
    broken: Sequence[tuple[ImageFile, str]],
    names: Sequence[str],
    info: Mapping[str, Any],
) -> int:
    """Write ``detections.json`` (COCO results) and ``images.json``, which says what their ids mean, into ``out``.

    Args:
        out: folder.
        seen: the images that could be read, and what they gave.
        broken: the others, each with the reason.
        names: class names in label order; categories count from 1.
        info: how they were made.

    Returns:
        How many detections there are.
    """
    images = [
        {"id": image.number, "file_name": image.name, "width": entry["width"], "height": entry["height"]}
        for image, entry in seen
    ]
    detections = [
        {"image_id": image.number, "category_id": int(label), "bbox": box, "score": score}
        for image, entry in seen
        for label, score, *box in entry["found"]
    ]
    categories = [{"id": label, "name": name} for label, name in enumerate(names, 1)]
    failed = [{"file_name": image.name, "reason": reason} for image, reason in broken]
    record = {"info": info, "images": images, "annotations": [], "categories": categories, "failed": failed}
    write_json(out / IMAGES, record, indent=1)
    write_json(out / DETECTIONS, detections)
    return len(detections)
