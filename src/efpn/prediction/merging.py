"""The detections of an image's windows as those of the image.

Neighbouring windows overlap, so an object there is found twice; and one that reaches over the inner edge of a window is
cut off there. A *cut* box ends at such an edge. What two boxes say of one object can be compared in the part of the
image that both windows show, and there alone.

All that was found is one float64 table ``(n, 11)``: box and window that it was found in (xyxy in native pixels of the
whole image), score, label, number of the window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from efpn.prediction.images import Window

BOX, WINDOW, SCORE, LABEL, NUMBER = slice(0, 4), slice(4, 8), 8, 9, 10
EDGE = 0.01  # of a window's side: a box that ends this near to an edge ends at it
AGREE = 0.5  # IoU, in the part that both windows show, from which two boxes are one object
COVERED = 0.7  # share of a cut box inside a whole one from which it is a piece of that


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
    whole, pieces = _yield_to_whole(parts[~cut], parts[cut])
    hulls = [_join_pieces(pieces[pieces[:, LABEL] == label]) for label in pieces[:, LABEL].unique()]
    rest = torch.cat([whole, *hulls])
    rest = rest[batched_nms(rest[:, BOX], rest[:, SCORE], rest[:, LABEL], iou)]
    return {"boxes": rest[:, BOX], "scores": rest[:, SCORE], "labels": rest[:, LABEL].long()}


def gather(found: Sequence[Mapping[str, Tensor]], windows: Sequence[Window]) -> Tensor:
    """All detections in one table, moved from their windows to the image."""
    boxes, scores, labels = (torch.cat([one[key] for one in found]).cpu() for key in ("boxes", "scores", "labels"))
    numbers = torch.arange(len(windows)).repeat_interleave(torch.tensor([len(one["boxes"]) for one in found]))
    places = torch.tensor(windows, dtype=torch.float64)[numbers]
    moved = boxes.double() + places[:, :2].repeat(1, 2)
    return torch.cat([moved, places, torch.stack([scores.double(), labels.double(), numbers.double()], dim=1)], dim=1)


def is_cut(parts: Tensor, height: int, width: int) -> Tensor:
    """Which boxes end at an edge of their window that is no edge of the image, ``(n,)`` bool."""
    boxes, windows = parts[:, BOX], parts[:, WINDOW]
    near = (EDGE * (windows[:, 2:] - windows[:, :2])).clamp(min=1.0).repeat(1, 2)
    inner = windows != windows.new_tensor([0, 0, width, height])
    return (((boxes - windows).abs() <= near) & inner).any(dim=1)


def _yield_to_whole(whole: Tensor, cut: Tensor) -> tuple[Tensor, Tensor]:
    """Step 1; returns the whole boxes with their new scores, and the cut ones that are left."""
    raised, left = whole.clone(), torch.ones(len(cut), dtype=torch.bool)
    for row in range(len(cut) if len(whole) else 0):
        piece = cut[row : row + 1]
        rival = (whole[:, LABEL] == piece[:, LABEL]) & (whole[:, NUMBER] != piece[:, NUMBER])
        agrees = rival & (_shown_iou(piece, whole) >= AGREE)
        if agrees.any():
            best = (whole[:, SCORE] * agrees).argmax()
            raised[best, SCORE] = torch.maximum(raised[best, SCORE], piece[0, SCORE])
            left[row] = False
            continue
        covered = _area(_overlap(piece[:, BOX], whole[:, BOX])) / _area(piece[:, BOX]).clamp(min=1e-9)
        if (rival & (whole[:, SCORE] >= piece[:, SCORE]) & (covered >= COVERED)).any():
            left[row] = False
    return raised, cut[left]


def _join_pieces(cut: Tensor) -> Tensor:
    """Step 2, for one class: each piece, by descending score, takes in what other windows show of the same object.

    The object grows, and with it the part of the image that is known of it, until no window shows more. From one
    window it takes a single piece; others there that agree with it go.
    """
    rest, hulls = cut[cut[:, SCORE].argsort(descending=True, stable=True)], []
    while len(rest):
        hull, rest = rest[:1].clone(), rest[1:]
        used = {int(hull[0, NUMBER])}
        while (agree := (_shown_iou(hull, rest) >= AGREE).nonzero()).numel():
            first = int(agree[0])
            piece, rest = rest[first : first + 1], torch.cat([rest[:first], rest[first + 1 :]])
            if int(piece[0, NUMBER]) not in used:
                used.add(int(piece[0, NUMBER]))
                for part in (BOX, WINDOW):  # the smallest around both
                    one, two = hull[:, part], piece[:, part]
                    low, high = torch.minimum(one[:, :2], two[:, :2]), torch.maximum(one[:, 2:], two[:, 2:])
                    hull[:, part] = torch.cat([low, high], dim=1)
        hulls.append(hull)
    return torch.cat(hulls)


def _shown_iou(one: Tensor, others: Tensor) -> Tensor:
    """IoU of one row ``(1, 11)`` with others, each in the part that both windows show, ``(n,)``."""
    shared = _overlap(one[:, WINDOW], others[:, WINDOW])
    ours, theirs = _overlap(one[:, BOX], shared), _overlap(others[:, BOX], shared)
    common = _area(_overlap(ours, theirs))
    return common / (_area(ours) + _area(theirs) - common).clamp(min=1e-9)


def _overlap(one: Tensor, two: Tensor) -> Tensor:
    """What boxes have in common, as boxes; turned inside out where that is nothing."""
    return torch.cat([torch.maximum(one[:, :2], two[:, :2]), torch.minimum(one[:, 2:], two[:, 2:])], dim=1)


def _area(boxes: Tensor) -> Tensor:
    """Areas ``(n,)``; 0 for boxes turned inside out."""
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1)
