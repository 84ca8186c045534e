"""Pictures, ground truth and proposals that a seed draws."""

from __future__ import annotations

import torch
from torch import Tensor

from efpn.benchmark.options import Options
from efpn.benchmark.proposals import make_proposals, object_boxes

Batch = tuple[list[Tensor], list[Tensor]]  # 1x and 2x pictures


def random_batch(options: Options) -> Batch:
    """One batch of noise, 1x and 2x; nothing that is measured depends on what is in the pictures."""
    random = torch.Generator().manual_seed(options.seed)

    def batch(scale: int) -> list[Tensor]:
        shape = (3, scale * options.height, scale * options.width)
        return [torch.rand(shape, generator=random).to(options.device) for _ in range(options.batch)]

    return batch(1), batch(2)


def fixed_boxes(options: Options, scale: int) -> list[Tensor]:
    """Proposals of each picture, in pixels of a picture of ``scale`` times the 1x size."""
    how, seeds = options.proposals, range(options.seed, options.seed + options.batch)
    return [scale * make_proposals(how, options.height, options.width, s).to(options.device) for s in seeds]


def random_targets(options: Options, scale: int = 1) -> list[dict[str, Tensor]]:
    """Ground truth of each picture: the objects that the small proposals lie around, with labels drawn at random."""
    random = torch.Generator().manual_seed(options.seed)
    how, seeds = options.proposals, range(options.seed, options.seed + options.batch)
    return [
        {
            "boxes": scale * object_boxes(how, options.height, options.width, seed).to(options.device),
            "labels": torch.randint(1, options.classes, (how.objects,), generator=random).to(options.device),
        }
        for seed in seeds
    ]
