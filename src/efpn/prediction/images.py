"""What a prediction looks at: image files, what each is called, and the windows that large ones are cut into. No torch.

A network has learned objects at the scale of its training images. Resized as a whole, a much larger image shows
them smaller, or not at all; cut into windows, each resized like an image of its own, it shows them as learned.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from efpn.errors import UserError

DRAWN = "images"  # folder of the annotated images, inside of the results'
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")  # Pillow reads and writes all of them
Window = tuple[int, int, int, int]  # x1, y1, x2, y2 in whole native pixels


class ImageFile(NamedTuple):
    """A file to look at."""

    number: int  # its id in the results, from 1
    path: Path
    name: str  # its path below the folder that all images share, with /; no two images have the same


def find_images(asked: str | Sequence[str], out: Path) -> list[ImageFile]:
    """The images that are asked for, in the order of their paths, each once.

    Each word is a file, a folder (searched to the bottom) or a glob (``**`` for any folders). The annotated images in
    ``out`` are no input, unless they are named as files.

    Raises:
        UserError: one of them is not there or holds no image.
    """
    words = asked if isinstance(asked, Sequence) and not isinstance(asked, str) else [asked]
    if not words:
        raise UserError("images=[]: nothing to look at; give a file, a folder, a glob or a list of those")
    bases, found = zip(*(_look_up(str(word), _whole(out) / DRAWN) for word in words), strict=True)
    root, files = Path(os.path.commonpath(bases)), sorted({path for paths in found for path in paths})
    return [ImageFile(n, path, path.relative_to(root).as_posix()) for n, path in enumerate(files, 1)]


def given_images(cfg: DictConfig, out: Path) -> list[Path]:
    """At most ``check.images`` of the files that ``images`` of an export names; empty where the run's own are meant."""
    found = [] if cfg.images is None else find_images(cfg.images, out)
    return [image.path for image in found[: cfg.check.images]]


def check_out(images: Iterable[ImageFile], folder: Path) -> None:
    """Raise `UserError` where the annotated images, which go to ``folder`` under their names, would replace one."""
    for image in images:
        if _whole(folder / image.name) == image.path:
            raise UserError(f"out={folder.parent}: would write over the image {image.path}; give another folder")


def _look_up(word: str, out: Path) -> tuple[Path, list[Path]]:
    """The folder that names are counted from, and the images."""
    place = _whole(Path(word).expanduser())
    if place.is_file():
        if place.suffix.lower() not in ENDINGS:
            raise UserError(f"images={word}: no image by its ending; known are {', '.join(ENDINGS)}")
        return place.parent, [place]
    if place.is_dir():
        base, matches = place, [place]
    elif glob.has_magic(word):
        parts = place.parts
        base = Path(*parts[: next(n for n, part in enumerate(parts) if glob.has_magic(part))])
        matches = list(base.glob(str(place.relative_to(base))))
    else:
        raise UserError(f"images={word}: no such file or folder; give an image, a folder or a glob like 'a/*.jpg'")
    found = []
    for match in matches:
        for path in match.rglob("*") if match.is_dir() else [match]:
            hidden = any(part.startswith(".") for part in path.relative_to(base).parts)
            if path.suffix.lower() in ENDINGS and path.is_file() and not hidden and not path.is_relative_to(out):
                found.append(path)
    if not found:
        what = "holds" if place.is_dir() else "matches"
        raise UserError(f"images={word}: {what} no image; looked for files that end in {', '.join(ENDINGS)}")
    return base, found


def _whole(path: Path) -> Path:
    # Not resolved: a link keeps the name that it was given under.
    return Path(os.path.abspath(path))  # noqa: PTH100


@dataclass(frozen=True)
class Slices:
    """How images are cut."""

    # side of a square window, native pixels; at the shorter side of the training images, objects have the scale of
    # training
    size: int
    overlap: float = 0.2  # least share of a side that neighbours have in common
    # also look at the image as a whole, for objects that no window holds; it adds those larger than the overlap, as all
    # others are whole in a window, and better resolved there
    whole: bool = True

    def windows(self, height: int, width: int) -> list[Window]:
        """Windows that cover an image of that size and nothing else, row by row; the image itself first, if `whole`.

        They are spread evenly, so that neighbours share at least ``overlap`` of a side (to the whole pixel); along a
        side that is shorter than ``size``, they are as long as the image, which comes alone where it fits in one; that
        side then decides how they are resized, as it does of an image.
        """
        stride = max(1, int(self.size * (1 - self.overlap)))
        starts = []
        for length in (height, width):
            last = max(length - self.size, 0)
            steps = -(-last // stride)
            starts.append([step * last // max(steps, 1) for step in range(steps + 1)])
        right, bottom = (min(self.size, side) for side in (width, height))
        parts: list[Window] = [(x, y, x + right, y + bottom) for y in starts[0] for x in starts[1]]
        return [(0, 0, width, height), *parts] if self.whole and len(parts) > 1 else parts


def slices_of(cfg: DictConfig) -> Slices | None:
    """How the config asks for images to be cut; None: not (raises `UserError`: ``slices`` is no group of options)."""
    if not isinstance(cfg.slices, DictConfig | None):
        raise UserError(f"slices={cfg.slices}: a group of options; give slices.size={cfg.slices}")
    if cfg.slices is None or cfg.slices.size is None:
        return None
    return Slices(**{str(key): value for key, value in cfg.slices.items()})
