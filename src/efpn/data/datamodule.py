"""The data module: sources, splits, transforms and loaders behind Lightning's interface."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, DistributedSampler, Sampler

from efpn.data.balance import make_plan
from efpn.data.check import OnError, OpenImages, check_index, log_report
from efpn.data.dataset import DetectionDataset, PairSample, Sample, StreamSampler
from efpn.data.records import Categories, Index
from efpn.data.splits import Source, SplitRule, load_role
from efpn.data.transforms import Transform
from efpn.errors import UserError
from efpn.signals import leave_to_main

log = logging.getLogger(__name__)

Role = Literal["train", "val", "test"]


@dataclass(eq=False, repr=False)
class DetectionDataModule(pl.LightningDataModule):
    """Loaders of one data set; samplers share out by rank: run the Trainer with ``use_distributed_sampler=False``."""

    source: Source  # reader with ``load(split)`` and ``categories``
    splits: Mapping[str, SplitRule]  # split of the source, or part of one, for ``train``, ``val``, ``test``
    train_transform: Transform  # makes a training view of an image
    eval_transform: Transform  # makes the view that is scored
    _: KW_ONLY
    root: str | Path = ""  # folder of the data set, for messages
    batch_size: int = 8  # images per process and training step
    eval_batch_size: int = 8  # images per process and evaluation step
    num_workers: int = 2  # loader processes; 0 loads in the main process
    pairs: bool = False  # training batches are ``(images_1x, images_2x, targets)``, else ``(images, targets)``
    eval_pairs: bool = False  # the same for validation and test
    seed: int = 0  # of the training stream
    samples_per_epoch: int | None = None  # over all processes, rounded up to whole batches; None for one pass
    balance: int | None = None  # instances that each evaluated class is repeated up to; None for none
    keep_empty: bool = True  # train on images without a box too (one with nothing but a crowd region has none)
    limit_val: int | None = None  # validate on this many images, evenly spaced; None for all
    limit_test: int | None = None  # the same for test
    check_images: OpenImages = "header"  # what the check before training opens, see `efpn.data.check`
    on_unreadable: OnError = "error"  # or ``skip`` to warn of a broken image or box, count it and go on without it

    def __post_init__(self) -> None:
        super().__init__()
        # what an interrupted run has already had of the epoch that the next training loader begins with
        self.batches_done = 0
        self._indices: dict[str, Index] = {}

    @property
    def categories(self) -> Categories:
        """The classes."""
        return self.source.categories

    @property
    def num_classes(self) -> int:
        """K + 1: the classes and the background, as torchvision counts."""
        return len(self.categories) + 1

    def index(self, role: Role) -> Index:
        """What `role` reads, limited as configured, checked and mended; loaded once."""
        if role not in self._indices:
            limit = {"val": self.limit_val, "test": self.limit_test}.get(role)
            index = thin_out(load_role(self.source, self.splits, role), limit)
            checked, report = check_index(index, open_images=self.check_images, on_error=self.on_unreadable)
            log_report(report)
            if role == "train" and not any(record.trainable.any() for record in checked.records):
                what = f"{checked.name}: no box to learn from in {len(checked)} images"
                raise UserError(f"{what}; check data.splits.train and {checked.source}")
            self._indices[role] = checked
        return self._indices[role]

    def check(self, *roles: Role) -> None:
        """Load and check `roles` (raises `UserError`: everything that is wrong in any of them)."""
        errors: list[str] = []
        said: set[str] = set()  # a split that has nothing wrong beyond what others of its file have is left out
        for role in roles:
            try:
                self.index(role)
            except UserError as error:
                head, *lines = str(error).splitlines()
                if not said.issuperset(lines or [head]):
                    errors.append(str(error))
                said.update([head, *lines])
        if errors:
            raise UserError("\n".join(errors))

    def train_order(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Record numbers of one training pass, and for whose label they come (0: none).

        Balanced, and without empty images, if so configured.
        """
        index = self.index("train")
        order, labels = np.arange(len(index)), np.zeros(len(index), np.int64)
        if self.balance is not None:
            order, labels = make_plan(index, self.balance, self.train_transform.repeat_window)
        if self.keep_empty:
            return order, labels
        has_box = np.array([record.trainable.any() for record in index.records])
        log.info("data.keep_empty=false: %d of %d training images have no box", (~has_box).sum(), len(index))
        kept = has_box[order]
        return order[kept], labels[kept]

    def train_dataloader(self) -> DataLoader[Any]:
        """The stream's current epoch in full batches."""
        rank, world_size = self._rank_and_world_size()
        order, labels = self.train_order()
        whole = self.batch_size * world_size
        samples = math.ceil((self.samples_per_epoch or len(order)) / whole) * whole
        sampler = StreamSampler(order.tolist(), self.seed, samples, rank, world_size, labels.tolist())
        if self.trainer is not None:  # a resumed Trainer starts iterating before it sets the epoch
            sampler.resume(self.trainer.current_epoch, self.batches_done * self.batch_size)
            self.batches_done = 0
        return self._loader("train", sampler)

    def val_dataloader(self) -> DataLoader[Any]:
        """Each validation image once, in order, shared out over processes in turn.

        All have equally many, so that none waits for another: the first images are repeated at the end where their
        number does not divide. Score each image id once.
        """
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """The same of the test images."""
        return self._loader("test")

    def _loader(self, role: Role, sampler: Sampler[Any] | None = None) -> DataLoader[Any]:
        transform, pairs, batch_size = self.eval_transform, self.eval_pairs, self.eval_batch_size
        if role == "train":
            transform, pairs, batch_size = self.train_transform, self.pairs, self.batch_size
        dataset = DetectionDataset(self.index(role), transform, pairs, self.on_unreadable)
        rank, world_size = self._rank_and_world_size()
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=DistributedSampler(dataset, world_size, rank, shuffle=False) if sampler is None else sampler,
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            worker_init_fn=_one_thread,
        )

    def _rank_and_world_size(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)


def collate(batch: list[Sample | PairSample]) -> tuple[list[Any], ...]:
    """Lists of images, of pairs 1x and 2x, and of targets; images keep their own sizes."""
    return tuple(map(list, zip(*batch, strict=True)))


def thin_out(index: Index, limit: int | None) -> Index:
    """At most `limit` records, evenly spaced over the split."""
    if limit is None or limit >= len(index):
        return index
    chosen = np.linspace(0, len(index) - 1, limit).round().astype(int)
    return replace(index, name=f"{index.name}[{limit}]", records=tuple(index.records[row] for row in chosen))


def _one_thread(worker: int) -> None:
    # Workers are the parallelism; OpenCV's own threads would fight over the same cores.
    cv2.setNumThreads(0)
    leave_to_main()
