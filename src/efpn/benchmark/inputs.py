"""Images, ground truth and proposals that a seed draws.

The composition of the proposals is chosen, so that the cost of RoI pooling does not hang on random weights: the RPN
runs, and its time counts, but what it proposes is replaced by a few hundred small boxes around some spots, as a trained
RPN proposes around small objects, and larger ones anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from efpn.benchmark.setting import Composition, Setting

SMALLEST: Final = 0.15  # of the threshold: the side of the smallest small proposal
LARGEST: Final = 8.0  # of the threshold, or half of the image: the side of the largest proposal

Batch = tuple[list[Tensor], list[Tensor]]  # 1x and 2x images


def random_batch(setting: Setting) -> Batch:
    """One batch of noise, 1x and 2x; nothing that is measured depends on what is in the images."""
    random = torch.Generator().manual_seed(setting.cfg.seed)
    shapes = [(3, scale * setting.height, scale * setting.width) for scale in (1, 2)]
    ones, twos = (
        [torch.rand(shape, generator=random).to(setting.device) for _ in range(setting.cfg.batch)] for shape in shapes
    )
    return ones, twos


def fixed_boxes(setting: Setting, scale: int) -> list[Tensor]:
    """Proposals of each image, in pixels of an image of ``scale`` times the 1x size."""
    made = [make_proposals(setting.proposals, setting.height, setting.width, seed) for seed in setting.seeds]
    return [scale * boxes.to(setting.device) for boxes in made]


def random_targets(setting: Setting, scale: int = 1) -> list[dict[str, Tensor]]:
    """Ground truth of each image: the objects that the small proposals lie around, with labels drawn at random."""
    random = torch.Generator().manual_seed(setting.cfg.seed)
    how, classes = setting.proposals, setting.cfg.classes
    return [
        {
            "boxes": scale * object_boxes(how, setting.height, setting.width, seed).to(setting.device),
            "labels": torch.randint(1, classes, (how.objects,), generator=random).to(setting.device),
        }
        for seed in setting.seeds
    ]


def object_boxes(how: Composition, height: int, width: int, seed: int) -> Tensor:
    """The small objects themselves, ``(objects, 4)`` xyxy in 1x pixels, each inside the image."""
    return _objects(how, torch.tensor([width, height]), torch.Generator().manual_seed(seed))


def _objects(how: Composition, room: Tensor, random: torch.Generator) -> Tensor:
    """Squares of 0.2 to 0.7 of the threshold, anywhere."""
    side = how.below * (0.2 + 0.5 * torch.rand(how.objects, 1, generator=random))
    start = torch.rand(how.objects, 2, generator=random) * (room - side)
    return torch.cat([start, start + side], dim=1)


def make_proposals(how: Composition, height: int, width: int, seed: int) -> Tensor:
    """Boxes ``(total, 4)`` xyxy inside an image of ``height`` x ``width`` 1x pixels, in mixed order.

    Small ones are the objects in turn, moved by up to half of their side and up to a third larger or smaller on each
    side; the others are anywhere, log-uniform in size from the threshold up, as the RPN's levels share them.
    """
    random, room = torch.Generator().manual_seed(seed), torch.tensor([width, height], dtype=torch.float32)
    middles, sides = [], []
    if how.small:
        objects = _objects(how, room, random)[torch.arange(how.small) % how.objects]
        side = objects[:, 2:] - objects[:, :2]
        stretched = side * (0.75 + 0.5 * torch.rand(how.small, 2, generator=random))
        sides.append(stretched.clamp(SMALLEST * how.below, 0.95 * how.below))
        moved = side * (torch.rand(how.small, 2, generator=random) - 0.5)
        middles.append((objects[:, :2] + objects[:, 2:]) / 2 + moved)

    number = how.total - how.small
    low, high = 1.05 * how.below, max(1.1 * how.below, min(LARGEST * how.below, min(height, width) / 2))
    side = low * (high / low) ** torch.rand(number, 1, generator=random)
    stretch = 0.98 + 0.04 * torch.rand(number, 1, generator=random)
    sides.append(torch.cat([side * stretch, side / stretch], dim=1))
    middles.append(torch.rand(number, 2, generator=random) * room)

    middle, extent = torch.cat(middles), torch.cat(sides)
    start = torch.minimum((middle - extent / 2).clamp(min=0), room - extent)
    boxes = torch.cat([start, start + extent], dim=1)
    return boxes[torch.randperm(len(boxes), generator=random)]


class FixedProposals:
    """Stands between a detector's RPN, which is changed in place and runs as ever, and its heads.

    What it proposes is replaced by ``boxes`` of each image of the batch, in pixels of the image that the RPN sees.
    """

    def __init__(self, detector: nn.Module, boxes: Sequence[Tensor]) -> None:
        self.boxes = list(boxes)  # may be set anew between two runs
        rpn: Any = detector.rpn
        rpn.register_forward_hook(lambda module, given, answer: (list(self.boxes), answer[1]))
