"""Losses of cross-resolution distillation, eqs. 5 to 8; pure functions of tensors.

``(N, C, h, w)`` are feature maps, ``mask (N, 1, h, w)`` marks positive pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from efpn.errors import UserError
from efpn.types import LevelSpec


def positive_mask(boxes: Sequence[Tensor], stride: float, height: int, width: int) -> Tensor:
    """Mark the cells that ground-truth boxes touch (P_pos of eq. 7).

    Args:
        boxes: per image ``(n, 4)`` xyxy in input pixels.
        stride: input pixels per cell; boxes are snapped outwards (floor, ceil) to whole cells.
        height: of the map, in cells.
        width: of the map, in cells.

    Returns:
        ``(N, 1, height, width)`` bool; cells under several boxes count once.
    """
    mask = torch.zeros(len(boxes), 1, height, width, dtype=torch.bool, device=boxes[0].device)
    for plane, image in zip(mask, boxes, strict=True):
        first = (image[:, :2] / stride).floor().long().clamp(min=0).tolist()
        last = (image[:, 2:] / stride).ceil().long().clamp(min=0).tolist()
        for (x1, y1), (x2, y2) in zip(first, last, strict=True):
            plane[:, y1:y2, x1:x2] = True
    return mask


def global_loss(features: Tensor, target: Tensor) -> Tensor:
    """L_glob, eq. 6, as a mean over pixels and channels: with a sum, lambda = 1 would balance nothing."""
    return (target.float() - features.float()).abs().mean()


def positive_loss(features: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """L_pos, eq. 7: mean absolute difference over the positive pixels of the batch, and over channels.

    Zero, with a gradient path, when no pixel is positive.
    """
    difference = (target.float() - features.float()).abs().mean(dim=1, keepdim=True)
    return (difference * mask).sum() / mask.sum().clamp(min=1)


def balanced_loss(features: Tensor, target: Tensor, mask: Tensor, lambda_pos: float) -> dict[str, Tensor]:
    """L_fbb, eq. 8: ``{"glob": L_glob, "pos": L_pos, "fbb": L_glob + lambda_pos * L_pos}``."""
    glob, pos = global_loss(features, target), positive_loss(features, target, mask)
    return {"glob": glob, "pos": pos, "fbb": glob + lambda_pos * pos}


class DualLoss:
    """L of eq. 5 and its ablations (Table IV), on ``(P3', P2')``.

    Args:
        lambda_pos: weight of the positive loss in eq. 8; 0 leaves the global loss alone.
        on_p3_ext: supervise P3' too (dual supervision); False leaves P2' alone.

    Raises:
        UserError: a negative weight, or one that is not finite.
    """

    def __init__(self, lambda_pos: float = 1.0, on_p3_ext: bool = True) -> None:
        if not 0 <= lambda_pos < float("inf"):
            raise UserError(f"loss.lambda_pos={lambda_pos}: must be a number, 0 or greater")
        self.lambda_pos = lambda_pos
        self.on_p3_ext = on_p3_ext

    def __call__(
        self,
        features: Sequence[Tensor],
        targets: Sequence[Tensor],
        boxes: Sequence[Tensor],
        levels: Sequence[LevelSpec],
    ) -> dict[str, Tensor]:
        """Compare the extended levels with their targets.

        Args:
            features: P3' and P2'.
            targets: of each.
            boxes: of each image, ``(n, 4)`` in 1x pixels.
            levels: what P3' and P2' are called, and their strides.

        Returns:
            ``loss`` and the terms of each level, ``glob_p2_ext``, ``pos_p2_ext`` and those of ``p3_ext`` if supervised.
        """
        compared = list(zip(levels, features, targets, strict=True))
        losses: dict[str, Tensor] = {"loss": features[-1].new_zeros((), dtype=torch.float32)}
        for level, feature, target in compared if self.on_p3_ext else compared[1:]:
            mask = positive_mask(boxes, level.stride, *feature.shape[-2:])
            terms = balanced_loss(feature, target, mask, self.lambda_pos)
            losses["loss"] = losses["loss"] + terms["fbb"]
            losses |= {f"glob_{level.name}": terms["glob"], f"pos_{level.name}": terms["pos"]}
        return losses
