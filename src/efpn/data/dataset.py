"""A split as images and targets for training and evaluation, and the stream in which they come."""

from __future__ import annotations

import logging
import math
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from efpn.data.images import ImageError, read_smaller
from efpn.data.records import Index, Record
from efpn.data.transforms import Boxes, Transform, View
from efpn.errors import UserError
from efpn.types import Target

log = logging.getLogger(__name__)

Key = int | tuple[int, int] | tuple[int, int, int]
Sample = tuple[Tensor, Target]
PairSample = tuple[Tensor, Tensor, Target]
GO_ON = "or let training go on without such images: data.on_unreadable=skip"
MAX_SKIPS = 20  # unreadable images in a row after which the disk, not an image, is at fault


class DetectionDataset(Dataset[Sample | PairSample]):
    """One split, transformed.

    An item's key is ``(record number, seed of the sample)``, or the record number alone (then it is the seed too); a
    third number is the label for whose sake the image comes again (0: none), see `efpn.data.balance`. The item is a
    pure function of its key: ``(image, target)``, or ``(image_1x, image_2x, target)`` as pairs. Images are
    ``(3, H, W)`` float32 in 0 to 1, the 2x one ``(3, 2H, 2W)``, and 1x is its 2x2 mean; targets are in 1x pixels.
    """

    def __init__(
        self,
        index: Index,  # what to load, as `efpn.data.check` has left it
        transform: Transform,  # see `efpn.data.transforms`
        pairs: bool = False,  # give both scales
        on_unreadable: Literal["error", "skip"] = "error",  # or warn, count it in `unreadable`, take the next one
    ) -> None:
        self.index = index
        self.transform = transform
        self.pairs = pairs
        self.on_unreadable = on_unreadable
        self._unreadable = multiprocessing.Value("l", 0)  # shared, so that the workers' counts reach the main process

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: Key) -> Sample | PairSample:
        number, seed, label = (*key, 0)[:3] if isinstance(key, tuple) else (key, key, 0)
        factor = 2 if self.pairs else self.transform.factor
        record, image, shrunk = self._read(number, partial(self.transform.shrink, factor=factor, seed=seed))
        boxes, labels = record.boxes[record.trainable] / shrunk, record.labels[record.trainable]
        given = {"ignore": record.boxes[record.crowd] / shrunk, "focus": np.flatnonzero(labels == label)}
        image_1x, image_2x, view = image_pair(self.transform, image, boxes, seed, self.pairs, **given)
        target: Target = {
            "boxes": torch.as_tensor(view.boxes, dtype=torch.float32).reshape(-1, 4),
            "labels": torch.as_tensor(labels[view.kept], dtype=torch.int64),
            "image_id": torch.tensor(record.image_id),
            "scale": torch.tensor(view.scale, dtype=torch.float32) / shrunk,
            "ignore_boxes": torch.as_tensor(view.ignore, dtype=torch.float32).reshape(-1, 4),
        }
        return (image_1x, target) if image_2x is None else (image_1x, image_2x, target)

    @property
    def unreadable(self) -> int:
        """How many unreadable images were skipped so far, in all workers."""
        return int(self._unreadable.value)

    def _read(self, number: int, shrink: Callable[[int, int], int]) -> tuple[Record, NDArray[np.uint8], int]:
        for step in range(MAX_SKIPS):
            record = self.index.records[(number + step) % len(self.index)]
            try:
                return record, *read_smaller(record.path, shrink)
            except ImageError as error:
                if self.on_unreadable == "error":
                    raise ImageError(error.path, error.what, f"{error.fix}, {GO_ON}") from None
                with self._unreadable.get_lock():
                    self._unreadable.value += 1
                log.warning("%s (skipped; %d so far)", error, self.unreadable)
        raise UserError(f"{MAX_SKIPS} images in a row cannot be read, up to {record.path}; is the disk there?")


@dataclass(eq=False)
class StreamSampler(Sampler[tuple[int, int, int]]):
    """Epochs cut from one endless stream of shuffled passes over the data; yields (record number, seed, label).

    Position p of the stream lies in pass ``p // n`` and is a pure function of (seed, p), and so is the seed of its
    sample. Epoch e is positions ``[e * samples_per_epoch, (e + 1) * samples_per_epoch)``, whatever the length of the
    data, so a run that is resumed sees what an unbroken one would have seen. Rank r takes every
    `world_size`-th position from r on; all ranks have equally many (the last ones may reach into the next epoch).
    """

    order: Sequence[int]  # record numbers of one pass, repeats allowed
    seed: int  # of the whole stream
    samples_per_epoch: int  # over all ranks
    rank: int = 0  # this process
    world_size: int = 1
    labels: Sequence[int] | None = None  # for whose sake each of `order` comes, 0 for none; None for none at all

    def __post_init__(self) -> None:
        self.epoch = self.skip = 0

    def resume(self, epoch: int, samples: int) -> None:
        """Begin the next iteration inside an epoch, after so many samples of this process; its length stays."""
        self.epoch, self.skip = epoch, samples

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(self.samples_per_epoch / self.world_size)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        first = self.epoch * self.samples_per_epoch + self.rank
        places, current = np.arange(len(self.order)), -1
        skipped, self.skip = self.skip, 0
        for position in range(first, first + len(self) * self.world_size, self.world_size)[skipped:]:
            number, offset = divmod(position, len(self.order))
            if number != current:
                places, current = np.random.default_rng((self.seed, number)).permutation(len(self.order)), number
            place = places[offset]
            drawn = np.random.SeedSequence((self.seed, position)).generate_state(1, np.uint64)[0]
            label = 0 if self.labels is None else self.labels[place]
            yield int(self.order[place]), int(drawn >> np.uint64(1)), int(label)  # a seed of 63 bits


def image_pair(
    transform: Transform, image: NDArray[np.uint8], boxes: Boxes, seed: int, double: bool = False, **more: Any
) -> tuple[Tensor, Tensor | None, View]:
    """What a network sees of an image, float32 in 0 to 1: at 1x ``(3, H, W)``, if ``double`` at 2x, and the view.

    ``more`` are the transform's further arguments.
    """
    factor = 2 if double else transform.factor
    view = transform(image, boxes, factor=factor, seed=seed, **more)
    pixels = to_tensor(view.image)
    return (pixels if factor == 1 else halve(pixels)), (pixels if double else None), view


def to_tensor(image: NDArray[np.uint8]) -> Tensor:
    """``(H, W, 3)`` uint8 to ``(3, H, W)`` float32 in 0 to 1."""
    return torch.from_numpy(np.stack(cv2.split(image))).float().div_(255)


def halve(image: Tensor) -> Tensor:
    """The mean of each 2 x 2 block: ``(3, 2H, 2W)`` to ``(3, H, W)``."""
    height, width = image.shape[1] // 2, image.shape[2] // 2
    # OpenCV's area mean is four times as fast as avg_pool2d on a CPU.
    planes = [cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA) for plane in image.numpy()]
    return torch.from_numpy(np.stack(planes))
