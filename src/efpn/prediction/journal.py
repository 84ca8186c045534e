"""What a prediction has found so far, on disk, so that a fault at one image costs none of those before it."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypedDict

from efpn.prediction.images import ImageFile
from efpn.runs.files import as_utf8, make_folder, plain

log = logging.getLogger(__name__)

JOURNAL: Final = "detections.partial.jsonl"


class Entry(TypedDict):
    """What one image gave: its size in native pixels, and ``[label, score, x, y, width, height]`` for each box."""

    width: int
    height: int
    found: list[list[float]]


class Journal:
    """The entries of all images, in memory and as lines of a file that only grows.

    Its first line holds the terms of the prediction, each other one the entry of an image. A file of the same terms
    is read back, up to a line that is cut off or damaged and without images that were changed since; one of other
    terms (weights, classes, settings) is replaced by the first new entry.
    """

    def __init__(self, folder: Path, terms: Mapping[str, Any], images: Sequence[ImageFile]) -> None:
        self.path = folder / JOURNAL
        self.entries: dict[Path, Entry] = {}  # by the path of the image
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
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.is_file() else []
        sound = list(itertools.takewhile(lambda line: line is not None, map(_parsed, lines)))
        if not sound or sound[0] != self._terms:
            return 0
        for line in sound[1:]:
            path = Path(line["image"])
            if self._changed.get(path) == line["changed"]:
                self.entries[path] = line["entry"]
        return sum(map(len, lines[: len(sound)]))


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
