"""Which image files a prediction is asked for, and what each is called. No torch."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from efpn.errors import UserError

DRAWN = "images"  # folder of the annotated images, inside of the results'
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")  # Pillow reads and writes all of them


class ImageFile(NamedTuple):
    """A file to look at."""

    number: int  # its id in the results, from 1
    path: Path  # the file
    name: str  # its path below the folder that all images share, with /; no two images have the same


def find_images(words: Sequence[str], out: Path) -> list[ImageFile]:
    """The images that ``words`` stand for, in the order of their paths, each once.

    Args:
        words: each a file, a folder (searched to the bottom) or a glob (``**`` for any folders).
        out: where results go; the annotated images there are no input, unless they are named as files.

    Raises:
        UserError: one of them is not there, or holds no image.
    """
    if not words:
        raise UserError("images=[]: nothing to look at; give a file, a folder, a glob or a list of those")
    files: set[Path] = set()
    bases: set[Path] = set()
    for word in words:
        base, found = _look_up(word, _whole(out) / DRAWN)
        files.update(found)
        bases.add(base)
    root = Path(os.path.commonpath(bases))
    return [ImageFile(n, path, path.relative_to(root).as_posix()) for n, path in enumerate(sorted(files), 1)]


def check_out(images: Iterable[ImageFile], folder: Path) -> None:
    """Refuse to write annotated images over the images themselves.

    Args:
        images: that are looked at.
        folder: that the annotated ones go to, under their names.

    Raises:
        UserError: with the first image that would be lost.
    """
    for image in images:
        if _whole(folder / image.name) == image.path:
            raise UserError(f"out={folder.parent}: would write over the image {image.path}; give another folder")


def _look_up(word: str, out: Path) -> tuple[Path, list[Path]]:
    """The folder that names are counted from, and the images."""
    place = _whole(Path(word).expanduser())
    if place.is_file():
        if not _is_image(place):
            raise UserError(f"images={word}: no image by its ending; known are {', '.join(ENDINGS)}")
        return place.parent, [place]
    if place.is_dir():
        base, found = place, list(_below(place))
    elif glob.has_magic(word):
        base = _before_magic(place)
        found = [path for match in base.glob(str(place.relative_to(base))) for path in _below(match)]
    else:
        raise UserError(f"images={word}: no such file or folder; give an image, a folder or a glob like 'a/*.jpg'")
    found = [path for path in found if not _hidden(path.relative_to(base)) and not path.is_relative_to(out)]
    if not found:
        what = "holds" if place.is_dir() else "matches"
        raise UserError(f"images={word}: {what} no image; looked for files that end in {', '.join(ENDINGS)}")
    return base, found


def _below(place: Path) -> Iterator[Path]:
    """The images in a folder, at any depth, or the image itself."""
    inside = place.rglob("*") if place.is_dir() else [place]
    yield from (path for path in inside if _is_image(path) and path.is_file())


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _before_magic(place: Path) -> Path:
    """The folder before the first part with a wildcard."""
    parts = place.parts
    return Path(*parts[: next(n for n, part in enumerate(parts) if glob.has_magic(part))])


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS


def _whole(path: Path) -> Path:
    # Not resolved: a link keeps the name that it was given under.
    return Path(os.path.abspath(path))  # noqa: PTH100
