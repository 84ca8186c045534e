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


class ImageWriter(pl.Callback):
    """Writes each image with its detections, and what was found into the journal, as soon as they are there.

    A progress bar shows the time left of ``total`` images and the number of broken ones. The annotated images go to
    ``folder`` under the images' own names; None draws none. Class ``names`` are in label order.
    """

    def __init__(
        self, journal: Journal, total: int, folder: Path | None, names: Sequence[str], score_threshold: float
    ) -> None:
        self.journal = journal
        self.folder = folder
        self.names = names
        self.score_threshold = score_threshold
        self.broken: list[tuple[ImageFile, str]] = []  # that could not be read, each with the reason
        text = TextColumn("[progress.description]{task.description}")
        self.bar = Progress(text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), transient=False)
        self.row = self.bar.add_task("images", total=total)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar."""
        self.bar.start()

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Shot, *args: Any
    ) -> None:
        """Take one image down."""
        file, image, error = batch
        if image is None:
            self.broken.append((file, error))
        else:
            self.write(file, image, outputs)
        said = f"images ({len(self.broken)} broken)" if self.broken else None
        self.bar.update(self.row, advance=1, description=said)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the bar as it is."""
        self.bar.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Say what is kept, and give the terminal back."""
        done = len(self.journal.entries)
        log.error("stopped; %d images are kept in %s, the same command does the rest", done, self.journal.path)
        self.bar.stop()

    def write(self, file: ImageFile, image: np.ndarray, found: Mapping[str, Tensor]) -> None:
        """Draw ``image (H, W, 3)`` uint8 with the detections that reach the threshold, and keep all of them."""
        boxes, scores, labels = (found[key].detach().cpu() for key in ("boxes", "scores", "labels"))
        if self.folder is not None:
            drawn = scores >= self.score_threshold
            names = [self.names[label - 1] for label in labels[drawn].tolist()]
            texts = [f"{name} {score:.2f}" for name, score in zip(names, scores[drawn].numpy(), strict=True)]
            kind = Image.registered_extensions()[file.path.suffix.lower()]
            content = io.BytesIO()
            annotated = annotated_image(image, marks("hit", boxes[drawn].numpy(), texts))
            Image.fromarray(annotated).save(content, kind, **QUALITY.get(kind, {}))
            write_bytes(self.folder / file.name, content.getvalue())
        corner, other = boxes.double().reshape(-1, 4).split(2, dim=1)
        columns = [labels.double()[:, None], scores.double()[:, None], corner, other - corner]
        height, width = image.shape[:2]
        self.journal.add(file.path, {"width": width, "height": height, "found": torch.cat(columns, dim=1).tolist()})


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

    Returns how many detections there are.
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
