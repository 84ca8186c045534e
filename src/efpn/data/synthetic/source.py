"""The generated data set on disk, in the TT100K layout."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from efpn.data.records import Categories, Index
from efpn.data.synthetic.scene import SceneOptions, draw_scene
from efpn.data.synthetic.signs import sign_kinds
from efpn.data.tt100k import CORNERS, TT100K
from efpn.errors import UserError

log = logging.getLogger(__name__)

VERSION = 1  # raise it when the same arguments draw other images
COUNTS: Mapping[str, int] = {"train": 400, "val": 60, "test": 120}
JPEG_QUALITY = 95


class Synthetic:
    """Street signs drawn on first use and kept in a folder of their own below `root`.

    The folder's name is a hash of the arguments and the generator's version; it appears when it is complete, so an
    interrupted generation leaves no half set. Every image is drawn from (seed, split, number) alone.
    """

    def __init__(
        self,
        root: str | Path,  # where the generated sets are kept; made if missing
        counts: Mapping[str, int] = COUNTS,  # images per split
        seed: int = 0,  # of everything drawn
        options: Mapping[str, Any] | None = None,  # arguments of `SceneOptions`
    ) -> None:
        self.root = Path(root).expanduser()
        self.counts = dict(counts)
        self.seed = seed
        defaults, given = asdict(SceneOptions()), options or {}
        if unknown := [key for key in given if key not in defaults]:
            known = ", ".join(defaults)
            raise UserError(f"data.source.options has {', '.join(unknown)}; the known options are {known}")
        self.options = SceneOptions(**{key: _like(defaults[key], value) for key, value in given.items()})

    @property
    def categories(self) -> Categories:
        """The classes; nothing is drawn to know them."""
        names = tuple(sign_kinds())
        return Categories(names, tuple(range(1, len(names) + 1)), (True,) * len(names))

    @property
    def folder(self) -> Path:
        """Where this set is or will be."""
        described = {"version": VERSION, "counts": self.counts, "seed": self.seed, "options": asdict(self.options)}
        digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
        return self.root / f"signs-{digest[:12]}"

    def load(self, split: str) -> Index:
        """The images of `split`; draws the whole set if it is not there."""
        if split not in self.counts:
            raise UserError(
                f"data.splits names the split {split!r}, but data.source.counts has only {', '.join(self.counts)}"
            )
        return TT100K(self.generate()).load(split)

    def generate(self) -> Path:
        """Draw the set unless it is there; returns its folder."""
        if self.folder.is_dir():
            return self.folder
        count, hint = sum(self.counts.values()), "images of your own: experiment=own"
        log.info("drawing %d images of street signs into %s (once; %s)", count, self.folder, hint)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            half = Path(tempfile.mkdtemp(prefix=".half-", dir=self.root))
            half.chmod(0o755)  # temporary folders are closed to others, a data set need not be
        except OSError as error:
            raise UserError(
                f"cannot write to {self.root} ({error.strerror}); give another folder with data.root=FOLDER"
            ) from None
        try:
            self._write(half)
            try:
                half.rename(self.folder)
            except OSError:
                if not self.folder.is_dir():  # another process may have been first, with the same images
                    raise
        finally:
            shutil.rmtree(half, ignore_errors=True)
        return self.folder

    def _write(self, folder: Path) -> None:
        images: dict[str, Any] = {}
        for number, (split, count) in enumerate(self.counts.items()):
            (folder / split).mkdir()
            first = sum(list(self.counts.values())[:number]) + 1
            ids = range(first, first + count)
            (folder / split / "ids.txt").write_text("".join(f"{image_id}\n" for image_id in ids))
            for image_id in ids:
                random = np.random.default_rng((self.seed, number, image_id - first))
                image, placed = draw_scene(self.options, random)
                path = f"{split}/{image_id}.jpg"
                Image.fromarray(image).save(folder / path, quality=JPEG_QUALITY)
                objects = [
                    {"category": s.name, "bbox": dict(zip(CORNERS, s.box.tolist(), strict=True))} for s in placed
                ]
                images[str(image_id)] = {"id": image_id, "path": path, "objects": objects}
        content = {"types": list(sign_kinds()), "imgs": images}
        (folder / "annotations.json").write_text(json.dumps(content))


def _like(default: Any, value: Any) -> Any:
    """The value in the default's type: 24 and 24.0, or a list and a tuple, must not name two folders."""
    if isinstance(default, tuple):
        return tuple(_like(one, other) for one, other in zip(default, value, strict=True))
    return type(default)(value)
