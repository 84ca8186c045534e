"""Augmentations: what is done to a training image beside resizing and cropping, as the config lists it.

An entry of ``train_transform.augment`` is a transform of albumentations or of ``torchvision.transforms.v2``, or an
`Augmentation` of one's own. It is given the image at the size that the network sees, 2x where there is a pair (1x is
made of that afterwards), so that both scales are always changed alike. It may change pixels and move what the image
shows, boxes included, but not the image's size: that is `short_side`, `scale_jitter` and `crop`.

The only module that imports albumentations.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

import albumentations as A
import numpy as np
import torch
from albumentations.core.composition import BaseCompose
from albumentations.core.transforms_interface import BasicTransform, ImageOnlyTransform
from numpy.typing import NDArray
from torchvision import tv_tensors
from torchvision.transforms import v2

from efpn.errors import UserError

Pixels = NDArray[np.uint8]
Boxes = NDArray[np.float64]
Shown = tuple[Pixels, Boxes]

TRIALS: Final = 8  # draws for which an entry is tried out when it is built
CORNERS: Final = ((0, 1), (2, 1), (2, 3), (0, 3))  # columns of x and y of a box's corners


class Augmentation(Protocol):
    """One entry."""

    pointwise: bool  # whether each pixel is changed by itself, so that it may be done before the image is enlarged

    def __call__(self, image: Pixels, boxes: Boxes, random: np.random.Generator) -> Shown:
        """Change an image ``(h, w, 3)`` uint8 RGB and the boxes in it ``(n, 4)`` float64 xyxy, in its pixels.

        Some boxes are partly or all outside. What is random comes from `random` alone: the same draws are the same
        sample. Returns an image of the same size, and as many boxes in the same order, not clipped.
        """


class HorizontalFlip:
    """The mirror image; not for signs, whose mirror image is another sign."""

    pointwise = False

    def __init__(self, p: float = 0.5) -> None:
        self.p = p  # how often

    def __call__(self, image: Pixels, boxes: Boxes, random: np.random.Generator) -> Shown:
        """See `Augmentation`."""
        if random.random() >= self.p:
            return image, boxes
        width = image.shape[1]
        mirrored = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)
        return image[:, ::-1], mirrored


class FromAlbumentations:
    """A transform or a composition of albumentations."""

    def __init__(self, transform: Any, pointwise: bool = False) -> None:
        self.pointwise = pointwise
        # corners instead of boxes, which albumentations would clip, so that nobody could tell how much is left
        corners = A.KeypointParams(format="xy", remove_invisible=False)
        self._moves = not isinstance(transform, ImageOnlyTransform)
        self._run = A.Compose([transform], keypoint_params=corners if self._moves else None)

    def __call__(self, image: Pixels, boxes: Boxes, random: np.random.Generator) -> Shown:
        """See `Augmentation`."""
        self._run.set_random_seed(int(random.integers(2**31)))
        image = np.ascontiguousarray(image)
        if not self._moves:
            return self._run(image=image)["image"], boxes
        # half a pixel: there (0, 0) is the middle of the first pixel, here its corner
        corners = np.concatenate([boxes[:, axes] for axes in CORNERS]) - 0.5
        done = self._run(image=image, keypoints=corners)
        moved = np.asarray(done["keypoints"], np.float64).reshape(len(CORNERS), len(boxes), 2) + 0.5
        return done["image"], np.concatenate([moved.min(axis=0), moved.max(axis=0)], axis=1)


class FromTorchvision:
    """A transform of ``torchvision.transforms.v2``, which takes and gives uint8 images."""

    pointwise = False

    def __init__(self, transform: v2.Transform) -> None:
        self._run = transform
        known = inspect.signature(tv_tensors.BoundingBoxes.__new__).parameters  # later versions clip unless told not to
        self._unclipped = {"clamping_mode": None} if "clamping_mode" in known else {}

    def __call__(self, image: Pixels, boxes: Boxes, random: np.random.Generator) -> Shown:
        """See `Augmentation`."""
        size: Any = image.shape[:2]
        boxes_in = torch.from_numpy(boxes)
        held: Any = tv_tensors.BoundingBoxes(boxes_in, format="XYXY", canvas_size=size, **self._unclipped)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(random.integers(2**31)))
            pixels = tv_tensors.Image(torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1))
            changed, moved = self._run(pixels, held)
        return changed.permute(1, 2, 0).numpy(), moved.numpy().reshape(-1, 4)


def ColorJitter(
    brightness: Any = 0, contrast: Any = 0, saturation: Any = 0, hue: Any = 0, p: float = 1
) -> FromAlbumentations:
    """`albumentations.ColorJitter` of these strengths alone: its own default hue makes blue signs red."""
    jitter = A.ColorJitter(brightness=brightness, contrast=contrast, saturation=saturation, hue=hue, p=p)
    return FromAlbumentations(jitter, pointwise=True)


def augmentations(entries: Mapping[str, Any] | Iterable[Any] | None) -> list[Augmentation]:
    """The entries of a config, in order, each tried out on a small image (raises `UserError`: it cannot be used here).

    They come as a list, or by names of one's own, which one can override one by one; what is None is left out.
    """
    named = entries if isinstance(entries, Mapping) else {str(n): entry for n, entry in enumerate(entries or ())}
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    boxes = np.array([[10.0, 20, 40, 60], [100, 50, 150, 90]])
    built: list[Augmentation] = []
    for name, entry in named.items():
        place = f"train_transform.augment.{name}"
        if entry is None:
            continue
        if isinstance(entry, BasicTransform | BaseCompose):
            built.append(FromAlbumentations(entry))
        elif isinstance(entry, v2.Transform):
            built.append(FromTorchvision(entry))
        elif callable(entry) and hasattr(entry, "pointwise"):
            built.append(entry)
        else:
            raise UserError(
                f"{place}: {type(entry).__name__} is none; give a _target_ in albumentations, in "
                "torchvision.transforms.v2, or a class like efpn.data.augment.HorizontalFlip"
            )
        for seed in range(TRIALS):
            try:
                changed, moved = built[-1](image, boxes, np.random.default_rng(seed))
                fits = (changed.shape, changed.dtype, moved.shape) == (image.shape, image.dtype, boxes.shape)
            except Exception as error:  # a library's own words on what the transform lacks
                raise UserError(f"{place}: cannot be used here ({error})") from error
            if not fits:
                raise UserError(
                    f"{place}: makes {changed.shape} {changed.dtype} of {image.shape} uint8; an augmentation keeps the "
                    "size (short_side, scale_jitter and crop are there for that) and the type"
                )
    return built
