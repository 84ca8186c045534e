"""Opening image files. No torch."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from efpn.errors import UserError

JPEG_END = b"\xff\xd9"
# How a complete file ends, by the format's name in Pillow.
ENDINGS = {"JPEG": JPEG_END, "PNG": b"IEND\xae\x42\x60\x82"}
# Pillow's names of what is sure to become RGB; of the rest, only decoding shows whether it does.
PLAIN = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I;16B", "I;16L"})
# What libjpeg warns of where all pixels are there.
HARMLESS = ("extraneous bytes", "bad ICC marker", "Adobe color transform", "JFIF revision", "SOS parameters")
# What Pillow and its plugins raise at damaged files.
DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    RuntimeError,
    struct.error,
    zlib.error,
)
Image.MAX_IMAGE_PIXELS = None  # the files are the user's own, and satellites take larger ones than Pillow trusts
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262  # tags of TIFF
EIGHT_BITS = "save it with 8 or 16 bits a channel"


class ImageError(UserError):
    """An image file that cannot be read."""

    def __init__(self, path: str | Path, what: str = "", fix: str = "restore it or remove it from the split") -> None:
        # One argument is a whole message: a loader's worker hands its errors over as text.
        self.path, self.what, self.fix = path, what, fix
        super().__init__(f"image {path}: {what}; {fix}" if what else str(path))


def read_image(path: Path) -> NDArray[np.uint8]:
    """The image as ``(h, w, 3)`` uint8 RGB, in the file's own orientation, as annotations count pixels.

    More than eight bits a channel are brought to eight by their upper ones, floats from 0 to 1 by 255. What is
    transparent is shown on white, as most viewers do: the colour stored below is whatever the program left there, and
    nobody who drew the boxes saw it. Colour profiles are not applied.

    Raises:
        ImageError: missing, damaged, no image, or of numbers whose range is not known; the message names the file.
    """
    return read_smaller(path, lambda height, width: 1)[0]


def read_smaller(path: Path, shrink: Callable[[int, int], int]) -> tuple[NDArray[np.uint8], int]:
    """The image at a fraction of its size, decoded from a JPEG's lower frequencies alone, which is faster.

    ``shrink(height, width)`` says by how much each side may be smaller: 1, 2, 4 or 8. Returns the pixels as
    `read_image` does, with its errors, and by how much they are smaller: 1 where the format cannot do it.
    """
    with _opened(path) as image:
        width, height = image.size
        pixels = _pixels(path, image, shrink(height, width))
        return pixels, round(max(width, height) / max(pixels.shape[:2]))  # sides are rounded up


def probe_image(path: Path, decode: bool) -> tuple[int, int]:
    """(height, width) of the image, from its header; with `decode`, all of it is decoded to see that it can be.

    A JPEG or PNG file that does not end as its format demands is decoded in any case (most are truncated, some only
    carry a trailer), and so is one of a kind that may be refused. Raises as `read_image` does.
    """
    with _opened(path) as image:
        ending = ENDINGS.get(image.format or "", b"")
        with path.open("rb") as file:
            file.seek(-len(ending), 2)
            ends_well = file.read() == ending
        if decode or image.mode not in PLAIN or not ends_well:
            _pixels(path, image)
        return image.height, image.width


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise ImageError(path, "the file does not exist") from None
    except DAMAGE as error:
        reason = "no image format known" if isinstance(error, UnidentifiedImageError) else str(error)
        raise ImageError(path, f"cannot be read ({reason})") from None


def _pixels(path: Path, image: Image.Image, shrink: int = 1) -> NDArray[np.uint8]:
    """All of an image as `read_image` gives it; a JPEG at a half, a quarter or an eighth of its size if asked."""
    if image.format == "JPEG" and image.mode in ("L", "RGB"):
        return _jpeg_pixels(path.read_bytes(), -(-image.height // shrink), -(-image.width // shrink))
    if image.format == "JPEG" and image.mode == "CMYK":
        _jpeg_pixels(path.read_bytes(), image.height, image.width, "CMYK")  # are all there? Pillow knows the ink
    if image.mode.startswith("I;16"):
        tags = getattr(image, "tag_v2", {})  # a TIFF's say how many bits there are, and whether 0 is white
        grey = (np.asarray(image) >> (tags.get(BITS_PER_SAMPLE, (16,))[0] - 8)).astype(np.uint8)
        image = Image.fromarray(255 - grey if tags.get(PHOTOMETRIC) == 0 else grey)
    elif image.mode == "F":
        values = np.asarray(image)
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
        if not 0 <= low <= high <= 1:  # and so not NaN
            what = f"holds floats from {low:g} to {high:g}; known are those from 0 to 1"
            raise ImageError(path, what, fix=EIGHT_BITS)
        image = Image.fromarray((values * 255).round().astype(np.uint8))
    elif image.mode == "I":
        raise ImageError(path, "holds 32-bit numbers, of which nobody knows which is white", fix=EIGHT_BITS)
    elif image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def _jpeg_pixels(data: bytes, height: int, width: int, colour: str = "RGB") -> NDArray[np.uint8]:
    """Decode a JPEG to at least that size (raises `ValueError`: pixels are missing).

    The values are Pillow's to the last bit, but Pillow and OpenCV paint what is missing in grey, and say nothing.
    """
    size = {"min_height": height, "min_width": width}
    data += JPEG_END  # where that alone is missing, no pixel is
    try:
        return simplejpeg.decode_jpeg(data, colour, **size)
    except ValueError as error:
        if not any(sign in str(error) for sign in HARMLESS):
            raise ValueError(f"truncated or damaged: {error}") from None
        return simplejpeg.decode_jpeg(data, colour, strict=False, **size)
