"""The detections of an image's windows as those of the image.

Neighbouring windows overlap, so an object there is found twice; and one that reaches over the inner edge of a window is
cut off there. A *cut* box ends at such an edge. What two boxes say of one object can be compared in the part of the
image that both windows show, and there alone. All boxes are xyxy in native pixels of the whole image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from efpn.prediction.slices import Window

EDGE = 0.01  # of a window's side: a box that ends this near to an edge ends at it
AGREE = 0.5  # IoU, in the part that both windows show, from which two boxes are one object
COVERED = 0.7  # share of a cut box inside a whole one from which it is a piece of that


@dataclass(frozen=True, eq=False)
class Parts:
    """What was found in all windows of an image."""

    boxes: Tensor  # (n, 4)
    scores: Tensor  # (n,)
    labels: Tensor  # (n,)
    windows: Tensor  # (n, 4) that each was found in
    numbers: Tensor  # (n,) int64 of these windows

    def take(self, rows: Tensor) -> Parts:
        """The parts of ``rows``, a mask or indices."""
        return Parts(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def joined(parts: Sequence[Parts]) -> Parts:
    """All of them in one table."""
    return Parts(*(torch.cat([getattr(one, name) for one in parts]) for name in Parts.__dataclass_fields__))


def merge_windows(
    found: Sequence[Mapping[str, Tensor]], windows: Sequence[Window], height: int, width: int, iou: float
) -> dict[str, Tensor]:
    """Bring the detections of all windows together.

    1. A cut box yields to a whole one of its class from another window that shows the same object; the whole one takes
       the higher score.
    2. Cut boxes that are left are of objects that no window holds: the pieces of one become its hull.
    3. Of what still overlaps, the higher score stays: NMS by class.

    ``found`` has boxes in native pixels of each window, the result in those of the image (``height`` and ``width``), by
    descending score; with one window alone, ``found`` comes back as it is. ``iou`` is of step 3, the detector's own.
    """
    if len(windows) == 1:
        return dict(found[0])
    parts = gather(found, windows)
    cut = is_cut(parts, height, width)
    whole, pieces = yield_to_whole(parts.take(~cut), parts.take(cut))
    hulls = [join_pieces(pieces.take(pieces.labels == label)) for label in pieces.labels.unique()]
    rest = joined([whole, *hulls])
    kept = batched_nms(rest.boxes, rest.scores, rest.labels, iou)
    return {"boxes": rest.boxes[kept], "scores": rest.scores[kept], "labels": rest.labels[kept]}


def gather(found: Sequence[Mapping[str, Tensor]], windows: Sequence[Window]) -> Parts:
    """All detections in one table, moved from their windows to the image."""
    counts = torch.tensor([len(one["boxes"]) for one in found])
    scores = torch.cat([one["scores"] for one in found]).cpu().double()
    labels = torch.cat([one["labels"] for one in found]).cpu()
    numbers = torch.arange(len(windows)).repeat_interleave(counts)
    places = torch.tensor(windows, dtype=torch.float64)[numbers]
    boxes = torch.cat([one["boxes"] for one in found]).cpu().double()
    return Parts(boxes + places[:, :2].repeat(1, 2), scores, labels, places, numbers)


def is_cut(parts: Parts, height: int, width: int) -> Tensor:
    """Which boxes end at an edge of their window that is no edge of the image, ``(n,)`` bool."""
    image = torch.tensor([0.0, 0.0, width, height], dtype=parts.windows.dtype)
    near = (EDGE * (parts.windows[:, 2:] - parts.windows[:, :2])).clamp(min=1.0).repeat(1, 2)
    at_edge = (parts.boxes - parts.windows).abs() <= near
    return (at_edge & (parts.windows != image)).any(dim=1)


def yield_to_whole(whole: Parts, cut: Parts) -> tuple[Parts, Parts]:
    """Step 1; returns the whole boxes with their new scores, and the cut ones that are left."""
    scores, left = whole.scores.clone(), torch.ones(len(cut.boxes), dtype=torch.bool)
    for row in range(len(cut.boxes) if len(whole.boxes) else 0):
        piece = cut.take(torch.tensor([row]))
        rival = (whole.labels == piece.labels) & (whole.numbers != piece.numbers)
        agrees = rival & (shown_iou(piece.boxes, piece.windows, whole) >= AGREE)
        if agrees.any():
            best = (whole.scores * agrees).argmax()
            scores[best] = torch.maximum(scores[best], piece.scores[0])
            left[row] = False
            continue
        covered = area(overlap(piece.boxes, whole.boxes)) / area(piece.boxes).clamp(min=1e-9)
        if (rival & (whole.scores >= piece.scores) & (covered >= COVERED)).any():
            left[row] = False
    return replace(whole, scores=scores), cut.take(left)


def join_pieces(cut: Parts) -> Parts:
    """Step 2, for one class: each piece, by descending score, takes in what other windows show of the same object.

    The object grows, and with it the part of the image that is known of it, until no window shows more. From one
    window it takes a single piece; others there that agree with it go.
    """
    rest, hulls = cut.take(cut.scores.argsort(descending=True, stable=True)), []
    while len(rest.boxes):
        hull, rest = rest.take(torch.tensor([0])), rest.take(torch.arange(1, len(rest.boxes)))
        used = {int(hull.numbers)}
        while (agree := (shown_iou(hull.boxes, hull.windows, rest) >= AGREE).nonzero()).numel():
            first = agree[0]
            if int(rest.numbers[first]) not in used:
                used.add(int(rest.numbers[first]))
                piece = rest.take(first)
                hull = replace(hull, boxes=around(hull.boxes, piece.boxes), windows=around(hull.windows, piece.windows))
            rest = rest.take(torch.arange(len(rest.boxes)) != first)
        hulls.append(hull)
    return joined(hulls)


def shown_iou(box: Tensor, window: Tensor, others: Parts) -> Tensor:
    """IoU of ``box (1, 4)`` with other boxes, each in the part that both windows show, ``(n,)``."""
    shared = overlap(window, others.windows)
    ours, theirs = overlap(box, shared), overlap(others.boxes, shared)
    common = area(overlap(ours, theirs))
    return common / (area(ours) + area(theirs) - common).clamp(min=1e-9)


def overlap(one: Tensor, two: Tensor) -> Tensor:
    """What boxes have in common, as boxes; turned inside out where that is nothing."""
    return torch.cat([torch.maximum(one[:, :2], two[:, :2]), torch.minimum(one[:, 2:], two[:, 2:])], dim=1)


def around(one: Tensor, two: Tensor) -> Tensor:
    """The smallest boxes around both."""
    return torch.cat([torch.minimum(one[:, :2], two[:, :2]), torch.maximum(one[:, 2:], two[:, 2:])], dim=1)


def area(boxes: Tensor) -> Tensor:
    """Areas ``(n,)``; 0 for boxes turned inside out."""
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1)
