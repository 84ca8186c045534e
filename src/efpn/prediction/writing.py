"""What a prediction leaves behind: a journal and a progress bar while it runs, annotated images, COCO json."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytorch_lightning as pl
import torch
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from efpn.figures.outcomes import annotated_image, marks
from efpn.prediction.images import ImageFile
from efpn.prediction.task import Shot
from efpn.runs.files import as_utf8, make_folder, plain, write_bytes, write_json

log = logging.getLogger(__name__)

IMAGES, DETECTIONS, JOURNAL = "images.json", "detections.json", "detections.partial.jsonl"
# what one image gave: width and height in native pixels, and as found [label, score, x, y, width, height] of each box
Entry = Mapping[str, Any]
QUALITY: Final[Mapping[str, Mapping[str, Any]]] = {  # by Pillow's name of the format
    "JPEG": {"quality": 92},
    "WEBP": {"quality": 92},
    "TIFF": {"compression": "tiff_lzw"},
}


class Journal:
    """The entries of all images, in memory and as lines of a file that only grows.

    Its first line holds the terms of the prediction, each other one the entry of an image. A file of the same terms
    is read back, up to a line that is cut off or damaged and without images that were changed since; one of other
    terms (weights, classes, settings) is replaced by the first new entry.
    """

    def __init__(self, folder: Path, terms: Mapping[str, Any], images: Sequence[ImageFile]) -> None:
        self.path = folder / JOURNAL
        self.entries: dict[Path, Entry] = {}
        self._terms = plain(terms)
        self._changed = {image.path: image.path.stat().st_mtime_ns for image in images}
        self._end = self._read_back()  # bytes of the file that are sound
        if self.entries:
            log.info("%s: %d images are done already", self.path, len(self.entries))

    def add(self, path: Path, entry: Entry) -> None:
        """Keep what an image gave; no later fault costs it."""
        self.entries[path] = entry
        lines = [] if self._end else [self._terms]
        lines.append({"image": str(path), "changed": self._changed[path], "entry": entry})
        make_folder(self.path.parent)
        with self.path.open("r+b" if self._end else "wb") as file:
            file.seek(self._end)
            file.truncate()
            file.write(b"".join(as_utf8(json.dumps(line, ensure_ascii=False) + "\n") for line in lines))
            self._end = file.tell()

    def _read_back(self) -> int:
        """Take what is sound of the file, and say how many bytes that is."""
        sound: list[Any] = []
        end = 0
        for line in self.path.read_bytes().splitlines(keepends=True) if self.path.is_file() else []:
            try:
                parsed = json.loads(line)
            except ValueError:
                break
            if parsed is None or not line.endswith(b"\n"):
                break
            sound.append(parsed)
            end += len(line)
        if not sound or sound[0] != self._terms:
            return 0
        for line in sound[1:]:
            path = Path(line["image"])
            if self._changed.get(path) == line["changed"]:
                self.entries[path] = line["entry"]
        return end


class ImageWriter(pl.Callback):
    """Writes each image with its detections, and what was found into the journal, as soon as they are there.

    Its ``bar``, a context, shows the time left of ``total`` images and the number of broken ones. The annotated images
    go to ``folder`` under the images' own names; None draws none. Class ``names`` are in label order.
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

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Shot, *args: Any
    ) -> None:
        """Keep all that was found in an image, and draw what reaches the threshold."""
        file, image, error = batch
        if image is None:
            self.broken.append((file, error))
        else:
            boxes, scores, labels = (outputs[key].detach().cpu() for key in ("boxes", "scores", "labels"))
            if self.folder is not None:
                drawn = scores >= self.score_threshold
                names = [self.names[label - 1] for label in labels[drawn].tolist()]
                texts = [f"{name} {score:.2f}" for name, score in zip(names, scores[drawn].numpy(), strict=True)]
                annotated = annotated_image(image, marks("hit", boxes[drawn].numpy(), texts))
                kind, content = Image.registered_extensions()[file.path.suffix.lower()], io.BytesIO()
                Image.fromarray(annotated).save(content, kind, **QUALITY.get(kind, {}))
                write_bytes(self.folder / file.name, content.getvalue())
            corner, other = boxes.double().reshape(-1, 4).split(2, dim=1)
            found = torch.cat([labels.double()[:, None], scores.double()[:, None], corner, other - corner], dim=1)
            self.journal.add(file.path, {"width": image.shape[1], "height": image.shape[0], "found": found.tolist()})
        said = f"images ({len(self.broken)} broken)" if self.broken else None
        self.bar.update(self.row, advance=1, description=said)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Say what is kept."""
        if done := len(self.journal.entries):
            log.error("stopped; %d images are kept in %s, the same command does the rest", done, self.journal.path)
        else:
            log.error("stopped; no image is kept yet")


def write_results(
    out: Path,
    seen: Sequence[tuple[ImageFile, Entry]],
    broken: Sequence[tuple[ImageFile, str]],
    names: Sequence[str],
    info: Mapping[str, Any],
) -> int:
    """Write ``detections.json`` (COCO results) and ``images.json``, which says what their ids mean, into ``out``.

    Given are the images that could be read and what they gave, the others with the reason, class names in label order
    (categories count from 1), and how it all was made. Returns how many detections there are.
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
