"""Which image comes when: an endless seeded stream for training, and an even share per process for evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler


class StreamSampler(Sampler[tuple[int, int, int]]):
    """Epochs cut from one endless stream of shuffled passes over the data; yields (record number, seed, label).

    Position p of the stream lies in pass ``p // n`` and is a pure function of (seed, p), and so is the seed of its
    sample. Epoch e is positions ``[e * samples_per_epoch, (e + 1) * samples_per_epoch)``, whatever the length of the
    data, so a run that is resumed sees what an unbroken one would have seen. Rank r takes every
    `world_size`-th position from r on; all ranks have equally many (the last ones may reach into the next epoch).
    """

    def __init__(
        self,
        order: int | Sequence[int],  # record numbers of one pass, repeats allowed; an int n stands for 0 ... n - 1
        seed: int,  # of the whole stream
        samples_per_epoch: int | None = None,  # over all ranks; None for one pass
        rank: int = 0,  # this process
        world_size: int = 1,
        labels: Sequence[int] | None = None,  # for whose sake each of them comes, 0 for none; None for none at all
    ) -> None:
        self.order = np.arange(order) if isinstance(order, int) else np.asarray(order, np.int64)
        if not len(self.order):
            raise ValueError("nothing to sample from")
        self.labels = np.zeros(len(self.order), np.int64) if labels is None else np.asarray(labels, np.int64)
        self.seed = seed
        self.samples_per_epoch = samples_per_epoch or len(self.order)
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.skip = 0

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
            yield int(self.order[place]), int(drawn >> np.uint64(1)), int(self.labels[place])  # a seed of 63 bits


@dataclass(eq=False)
class EvalSampler(Sampler[int]):
    """Every image once in order, shared out over processes in turn.

    All ranks have equally many, so that none waits for another: the first images are repeated at the end where the
    length does not divide. Score each image id once.
    """

    length: int  # number of images
    rank: int = 0  # this process
    world_size: int = 1  # number of processes

    def __len__(self) -> int:
        return math.ceil(self.length / self.world_size)

    def __iter__(self) -> Iterator[int]:
        for step in range(len(self)):
            yield (step * self.world_size + self.rank) % self.length
