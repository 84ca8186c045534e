"""Geometry of one image: what the network sees of it. What else is done to it: `efpn.data.augment`.

Every transform maps a native image to a window of the resized one and answers in 1x pixels. The image itself is
handed over at `factor` times the 1x size: a 2x image is what both scales of a pair are made of (1x = its 2x2 mean),
so that they are aligned pixel by pixel, and neither is ever an enlargement of the other. Only the window that is needed
is resized.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from efpn.data.augment import Boxes, Pixels, augmentations
from efpn.errors import UserError

Rows = NDArray[np.int64]

NO_BOXES: Boxes = np.zeros((0, 4))
NO_ROWS: Rows = np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class View:
    """What a transform makes of one image."""

    image: Pixels  # ``(factor * H, factor * W, 3)`` uint8 RGB
    boxes: Boxes  # ``(m, 4)`` float64 xyxy, 1x pixels, inside the image
    kept: NDArray[np.int64]  # ``(m,)`` int64, which of the given boxes they are
    scale: tuple[float, float]  # (x, y), 1x pixels per native pixel
    ignore: Boxes  # ``(k, 4)`` float64 xyxy, 1x pixels: what the image shows of the regions to ignore


@dataclass(frozen=True)
class Window:
    """A window of the native image, in whole native pixels, and the 1x size that it is resized to."""

    x: int
    y: int
    width: int
    height: int
    out_width: int
    out_height: int

    @property
    def scale(self) -> tuple[float, float]:
        """(x, y), 1x pixels per native pixel."""
        return self.out_width / self.width, self.out_height / self.height

    def enlarges(self, factor: int) -> bool:
        """Whether `factor` times the 1x size has more pixels than the native window."""
        return factor * factor * self.out_width * self.out_height > self.width * self.height

    def resize(self, part: Pixels, factor: int) -> Pixels:
        """`part` at `factor` times the 1x size; area mean when shrinking, linear when enlarging."""
        size = (factor * self.out_width, factor * self.out_height)
        if size == (self.width, self.height):
            return part
        how = cv2.INTER_LINEAR if self.enlarges(factor) else cv2.INTER_AREA
        return np.asarray(cv2.resize(part, size, interpolation=how), np.uint8)

    def move(self, boxes: Boxes) -> Boxes:
        """Native `boxes` in 1x pixels of the window, not clipped."""
        return (boxes - [self.x, self.y, self.x, self.y]) * np.tile(self.scale, 2)


def size_factor(height: int, width: int, short_side: int, max_size: int) -> float:
    """Torchvision's rule: the shorter side becomes `short_side`, unless the longer one would pass `max_size`."""
    return min(short_side / min(height, width), max_size / max(height, width))


def clip_boxes(boxes: Boxes, width: float, height: float, min_visibility: float) -> tuple[Boxes, Rows]:
    """Clip to the image and drop what keeps no area or less than `min_visibility` of its own.

    Returns boxes ``(m, 4)`` and their rows ``(m,)``.
    """
    clipped = boxes.clip(0, [width, height, width, height])
    area, left = ((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) for box in (boxes, clipped))
    kept = np.flatnonzero((left > 0) & (left >= min_visibility * area))
    return clipped[kept], kept


@dataclass(eq=False)
class Transform:
    """Resize the whole image, as in evaluation; nothing is random. What the data set calls."""

    short_side: int  # 1x pixels of the shorter side
    max_size: int  # 1x pixels that the longer side may not pass
    # resize 1x straight from the native image where no pair is asked for; by default it is made of the 2x image even
    # then, so that a network sees the same 1x pixels in all phases
    direct: bool = field(default=False, kw_only=True)

    def __call__(
        self, image: Pixels, boxes: Boxes, *, factor: int, seed: int, ignore: Boxes = NO_BOXES, focus: Rows = NO_ROWS
    ) -> View:
        """Transform `image` ``(h, w, 3)`` uint8 and its `boxes` ``(n, 4)``, native pixels, with all that `seed` draws.

        The image is wanted at `factor` times the 1x size. The regions `ignore` ``(k, 4)`` go along; of these every part
        in sight is kept. `focus` are rows of `boxes` for whose sake the image comes again; a training transform crops
        around one of them. All arguments together decide the result; here `seed` and `focus` have no effect.
        """
        height, width = image.shape[:2]
        window = self._whole(image, size_factor(height, width, self.short_side, self.max_size))
        moved, kept = clip_boxes(window.move(boxes), window.out_width, window.out_height, 0)
        regions, _ = clip_boxes(window.move(ignore), window.out_width, window.out_height, 0)
        return View(window.resize(image, factor), moved, kept, window.scale, regions)

    @property
    def factor(self) -> int:
        """Times the 1x size that an image is resized to where no pair is asked for."""
        return 1 if self.direct else 2

    def shrink(self, height: int, width: int, *, factor: int, seed: int) -> int:
        """By how much (1, 2, 4, 8) an image of this size may be read smaller before the call with these arguments.

        Not at all here: evaluation, prediction and an exported detector are to see the same pixels.
        """
        return 1

    def repeat_window(self, size: tuple[int, int] | None) -> float:
        """Native side of the square that an image of ``(height, width)`` shows where it comes again for an object.

        Infinite where it shows all of it, or where the size is not known.
        """
        return np.inf

    def _whole(self, image: Pixels, factor: float) -> Window:
        height, width = image.shape[:2]
        return Window(0, 0, width, height, max(1, round(width * factor)), max(1, round(height * factor)))


EvalTransform = Transform


@dataclass(eq=False)
class TrainTransform(Transform):
    """Scale jitter, crop and the augmentations of the config, all drawn from the seed of the sample.

    A JPEG that ends up at half of its size or less (files from four times the 1x size on, since 1x is made of the 2x
    image) may be read at that size, see `shrink`; its pixels are then libjpeg's means in place of OpenCV's. Sides are
    those before jitter.
    """

    scale_jitter: Sequence[float] | None = None  # (low, high) factor on that size, drawn log-uniformly; None for none
    crop: int | None = None  # side of a square window, 1x pixels, zero-padded where the image is smaller; None: all
    object_crop_prob: float = 0.0  # how often the crop is placed around a random object; else anywhere
    min_visibility: float = 0.3  # share of a box that must be left in sight for it to be kept
    # the same around an object that a class balance repeats the image for; where there is a `crop`, that is its side
    repeat_crop: int | None = None
    augment: Any = None  # a list of transforms, or some by name, done one after the other, see `efpn.data.augment`

    def __post_init__(self) -> None:
        low, high = (1.0, 1.0) if self.scale_jitter is None else self.scale_jitter
        self.jitter = float(low), float(high)
        self.augment = augmentations(self.augment)

    def __call__(
        self, image: Pixels, boxes: Boxes, *, factor: int, seed: int, ignore: Boxes = NO_BOXES, focus: Rows = NO_ROWS
    ) -> View:
        """See `Transform`."""
        random = np.random.default_rng(seed)
        crop = self.repeat_crop if self.crop is None and len(focus) else self.crop
        window = self._window(image, boxes, crop, focus, random)
        shown = factor * window.move(np.concatenate([boxes, ignore]))
        pixels, resized = image[window.y : window.y + window.height, window.x : window.x + window.width], False
        for augmentation in self.augment:  # first ones that change each pixel by itself, where the pixels are fewer
            if not resized and not (augmentation.pointwise and window.enlarges(factor)):
                pixels, resized = window.resize(pixels, factor), True
            size = pixels.shape
            pixels, shown = augmentation(pixels, shown, random)
            if pixels.shape != size:  # one that does so seldom was not found when it was built
                raise UserError(
                    f"train_transform.augment: made {pixels.shape} of {size}; leave out what changes the size"
                )
        pixels, shown = pixels if resized else window.resize(pixels, factor), shown / factor
        moved, kept = clip_boxes(shown[: len(boxes)], window.out_width, window.out_height, self.min_visibility)
        regions, _ = clip_boxes(shown[len(boxes) :], window.out_width, window.out_height, 0)
        if crop is not None:
            below, right = factor * crop - pixels.shape[0], factor * crop - pixels.shape[1]
            pixels = np.pad(pixels, ((0, below), (0, right), (0, 0))) if below or right else pixels
        return View(pixels, moved, kept, window.scale, regions)

    def shrink(self, height: int, width: int, *, factor: int, seed: int) -> int:
        """As far as the resized image still has no more pixels than the one that is read."""
        scale = factor * self._scale(height, width, np.random.default_rng(seed))
        return next(by for by in (8, 4, 2, 1) if by * scale <= 1 or by == 1)

    def repeat_window(self, size: tuple[int, int] | None) -> float:
        """The side of the crop, at the middle of the scale jitter."""
        crop = self.repeat_crop if self.crop is None else self.crop
        if crop is None or size is None:
            return np.inf
        return crop / (size_factor(*size, self.short_side, self.max_size) * float(np.sqrt(np.prod(self.jitter))))

    def _scale(self, height: int, width: int, random: np.random.Generator) -> float:
        """1x pixels per native pixel: the first number that a sample draws."""
        low, high = np.log(self.jitter)
        return float(size_factor(height, width, self.short_side, self.max_size) * np.exp(random.uniform(low, high)))

    def _window(
        self, image: Pixels, boxes: Boxes, crop: int | None, focus: Rows, random: np.random.Generator
    ) -> Window:
        """The part of the image that is shown: all of it, or a square around an object or anywhere."""
        height, width = image.shape[:2]
        factor = self._scale(height, width, random)
        if crop is None:
            return self._whole(image, factor)
        around = boxes[focus] if len(focus) else boxes
        wanted = len(around) > 0 and (len(focus) > 0 or random.random() < self.object_crop_prob)
        target = around[random.integers(len(around))] if wanted else None
        x, w, out_w = _place(width, factor, crop, None if target is None else target[[0, 2]], random)
        y, h, out_h = _place(height, factor, crop, None if target is None else target[[1, 3]], random)
        return Window(x, y, w, h, out_w, out_h)


def _place(
    length: int, factor: float, crop: int, target: NDArray[np.float64] | None, random: np.random.Generator
) -> tuple[int, int, int]:
    """One axis of a crop: native start and length, and 1x length (below `crop` where the image is too small).

    The native length is a whole number of pixels, so the scale differs from `factor` by a rounding; a window around
    `target` (native start and end) holds all of it if it can.
    """
    native = round(crop / factor)
    if native >= length:
        return 0, length, min(crop, max(1, round(length * factor)))
    low, high = 0, length - native
    if target is not None:
        ends = sorted((int(np.ceil(target[1])) - native, int(np.floor(target[0]))))
        low, high = (int(np.clip(end, low, high)) for end in ends)
    return int(random.integers(low, high + 1)), max(1, native), crop
