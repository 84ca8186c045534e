"""Opening picture files. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from efpn.errors import UserError

# How a complete file ends, by the format's name in Pillow.
ENDINGS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xae\x42\x60\x82"}


class PictureError(UserError):
    """A picture file that cannot be read.

    Attributes:
        path: the file.
        what: what is wrong with it.
        fix: how to mend it.
    """

    def __init__(self, path: str | Path, what: str = "") -> None:
        # One argument is a whole message: a loader's worker hands its errors over as text.
        self.path = path
        self.what = what
        self.fix = "restore it or remove it from the split"
        super().__init__(f"picture {path}: {what}; {self.fix}" if what else str(path))


def read_picture(path: Path) -> NDArray[np.uint8]:
    """The picture as ``(h, w, 3)`` uint8 RGB, in the file's own orientation, as annotations count pixels.

    Raises:
        PictureError: missing, truncated or no picture; the message names the file.
    """
    return read_smaller(path, lambda height, width: 1)[0]


def read_smaller(path: Path, shrink: Callable[[int, int], int]) -> tuple[NDArray[np.uint8], int]:
    """The picture at a fraction of its size, decoded from a JPEG's lower frequencies alone, which is faster.

    Args:
        path: of the file.
        shrink: ``(height, width) -> 1, 2, 4 or 8``, by how much each side may be smaller.

    Returns:
        ``(h, w, 3)`` uint8 RGB as `read_picture`, and by how much it is smaller: 1 where the format cannot do it.

    Raises:
        PictureError: as `read_picture`.
    """
    # Pillow, not OpenCV: the latter returns the readable part of a truncated JPEG without an error.
    with _opened(path) as picture:
        width, height = picture.size
        factor = shrink(height, width)
        if factor > 1:
            picture.draft(None, (max(width // factor, 1), max(height // factor, 1)))
        done = round(max(width, height) / max(picture.size))  # sides are rounded up
        return np.asarray(picture.convert("RGB")), done


def probe_picture(path: Path, decode: bool) -> tuple[int, int]:
    """(height, width) of the picture, from its header; with `decode`, all of it is decoded to see that it can be.

    A JPEG or PNG file that does not end as its format demands is decoded in any case: most are truncated, some only
    carry a trailer.

    Raises:
        PictureError: as `read_picture`.
    """
    with _opened(path) as picture:
        if decode or not _ends_well(path, picture.format or ""):
            picture.load()
        return picture.height, picture.width


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as picture:
            yield picture
    except FileNotFoundError:
        raise PictureError(path, "the file does not exist") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PictureError(path, f"cannot be read ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    return "no picture format known" if isinstance(error, UnidentifiedImageError) else str(error)


def _ends_well(path: Path, kind: str) -> bool:
    ending = ENDINGS.get(kind, b"")
    with path.open("rb") as file:
        file.seek(-len(ending), 2)
        return file.read() == ending
