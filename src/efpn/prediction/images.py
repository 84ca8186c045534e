"""Which image files a prediction is asked for, and what each is called. No torch."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig, ListConfig

from efpn.errors import UserError

DRAWN = "images"  # folder of the annotated images, inside of the results'
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")  # Pillow reads and writes all of them


class ImageFile(NamedTuple):
    """A file to look at."""

    number: int  # its id in the results, from 1
    path: Path
    name: str  # its path below the folder that all images share, with /; no two images have the same


def asked_for(cfg: DictConfig) -> list[str]:
    """The files, folders and globs of ``cfg.images``."""
    return [str(word) for word in (cfg.images if isinstance(cfg.images, ListConfig) else [cfg.images])]


def given_images(cfg: DictConfig, out: Path) -> list[Path]:
    """At most ``check.images`` of the files that ``images`` of an export names; empty where the run's own are meant."""
    if cfg.images is None:
        return []
    return [image.path for image in find_images(asked_for(cfg), out)][: cfg.check.images]


def find_images(words: Sequence[str], out: Path) -> list[ImageFile]:
    """The images that ``words`` stand for, in the order of their paths, each once.

    Each is a file, a folder (searched to the bottom) or a glob (``**`` for any folders). The annotated images in
    ``out`` are no input, unless they are named as files.

    Raises:
        UserError: one of them is not there or holds no image.
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
