"""The detector as one traceable graph for one picture of any size.

torchvision's own RPN filter, RoI pooler and post-processing branch on how many boxes are left (an ``if`` on
``boxes.numel()``, ``len(rois)``), which `torch.export` cannot follow. Here the same arithmetic is written without such
branches, on the detector's own modules and numbers; every export is compared with the detector itself.
"""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torchvision.ops import MultiScaleRoIAlign, clip_boxes_to_image, nms, roi_align

from efpn.models import EFPNDetector
from efpn.models.detector import NormalizeAndPad
from efpn.models.roi_heads import interleave
from efpn.models.rpn import LEVELS

SMALLEST_SIDE = 65  # from here on P6 has two cells or more; a map of one cell is traced as a constant
EXAMPLE_SIZE = (200, 328)  # any size with two different sides that are no multiples of the padding
DETECTION_MIN_SIZE = 1e-2  # 1x pixels; fixed in torchvision's post-processing
OUTSIDE = ((-2.0, -2.0, -1.0, -1.0), (-4.0, -2.0, -3.0, -1.0))  # two boxes that meet neither each other nor a picture
Size = tuple[int, int]


class DetectorGraph(nn.Module):
    """``picture (3, H, W)`` float32 RGB in [0, 1] at the 1x size -> ``boxes (n, 4)``, ``labels (n,)``, ``scores (n,)``.

    Boxes are xyxy in 1x pixels, highest score first, as the detector itself gives them. Where P2' is made of the 2x
    image, that is what is given, ``(3, 2H, 2W)``, and the 1x image is the mean of its 2 x 2 blocks.

    Args:
        detector: with its weights; it stays as it is, but for being set to eval mode.

    Raises:
        ValueError: the detector itself resizes pictures.
    """

    def __init__(self, detector: EFPNDetector) -> None:
        super().__init__()
        if not isinstance(detector.transform, NormalizeAndPad):
            raise ValueError("a picture comes at its 1x size: build the detector with resize=None")
        self.detector = detector
        heads = detector.roi_heads
        self.head = nn.Sequential(heads.box_head, heads.box_predictor)
        self.small_head = heads.small_head or self.head
        self.eval()

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detect in one picture."""
        double, step = None, self.detector.transform.size_divisible
        if self.detector.backbone.reads_2x:
            double = self._padded(self.detector.transform.normalize(picture), 2 * step)
            picture = F.avg_pool2d(picture, 2)
        height, width = picture.shape[-2:]
        images = self._padded(self.detector.transform.normalize(picture), step)
        maps = self.detector.backbone.whole(images, double)
        rois = self._proposals(maps, images, (height, width))
        logits, deltas = self.box_outputs(maps, rois)
        return self._detections(logits, deltas, rois, (height, width))

    def _padded(self, picture: Tensor, step: int) -> Tensor:
        # only numbers above 0 are divided: the ONNX exporter's // rounds towards 0
        below, right = ((side + step - 1) // step * step - side for side in picture.shape[-2:])
        return F.pad(picture, (0, right, 0, below))[None]

    def _proposals(self, maps: dict[str, Tensor], images: Tensor, size: Size) -> Tensor:
        """The RPN's boxes of all levels together ``(R, 4)``, 1x pixels."""
        rpn = self.detector.rpn
        outputs = zip(*rpn.head([maps[name] for name in LEVELS]), strict=True)
        levels = [
            self._level_proposals(cell, logits, deltas, images, size)
            for cell, (logits, deltas) in zip(rpn.anchor_generator.cell_anchors, outputs, strict=True)
        ]
        boxes, scores = (torch.cat(parts) for parts in zip(*levels, strict=True))
        return boxes[highest(scores, rpn.post_nms_top_n())]

    def _level_proposals(
        self, cell: Tensor, logits: Tensor, deltas: Tensor, images: Tensor, size: Size
    ) -> tuple[Tensor, Tensor]:
        """Boxes and scores of one level after its NMS, from ``logits (1, A, h, w)`` and ``deltas (1, 4 A, h, w)``."""
        rpn = self.detector.rpn
        anchors = level_anchors(cell.float(), logits, images)
        objectness = logits[0].permute(1, 2, 0).reshape(-1)
        moves = deltas[0].unflatten(0, (-1, 4)).permute(2, 3, 0, 1).reshape(-1, 4)
        top = highest(objectness, rpn.pre_nms_top_n())
        boxes = clip_boxes_to_image(rpn.box_coder.decode_single(moves[top], anchors[top]), size)
        scores = objectness[top].sigmoid()
        boxes, scores = pick((boxes, scores), (shorter(boxes) >= rpn.min_size) & (scores >= rpn.test_score_thresh))
        kept = survivors(boxes, scores, rpn.nms_thresh)
        return boxes[kept], scores[kept]

    def box_outputs(self, maps: dict[str, Tensor], rois: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits ``(R, K + 1)`` and deltas ``(R, 4 (K + 1))``, each RoI from its level and head."""
        align = self.detector.roi_heads.box_roi_pool
        if align.extended is None:
            return self.head(pooled(align.regular, maps, rois))
        small = align.is_small(rois)
        others = self.head(pooled(align.regular, maps, rois[~small]))
        smalls = self.small_head(pooled(align.extended, maps, rois[small]))
        return interleave(others[0], smalls[0], small), interleave(others[1], smalls[1], small)

    def _detections(self, logits: Tensor, deltas: Tensor, rois: Tensor, size: Size) -> tuple[Tensor, Tensor, Tensor]:
        heads = self.detector.roi_heads
        classes = logits.shape[1]
        boxes = heads.box_coder.decode_single(deltas, rois).unflatten(1, (classes, 4))
        boxes = clip_boxes_to_image(boxes, size)[:, 1:].reshape(-1, 4)
        scores = logits.softmax(1)[:, 1:]
        labels = torch.arange(1, classes).expand_as(scores).reshape(-1)
        scores = scores.reshape(-1)
        wanted = (scores > heads.score_thresh) & (shorter(boxes) >= DETECTION_MIN_SIZE)
        boxes, labels, scores = pick((boxes, labels, scores), wanted)
        kept = survivors(apart(boxes, labels), scores, heads.nms_thresh)[: heads.detections_per_img]
        return boxes[kept], labels[kept], scores[kept]


def trace(detector: EFPNDetector) -> ExportedProgram:
    """The detector's graph with free height and width of the 1x image, from `SMALLEST_SIDE` up."""
    factor = 2 if detector.backbone.reads_2x else 1
    sides = {1: factor * Dim("height", min=SMALLEST_SIDE), 2: factor * Dim("width", min=SMALLEST_SIDE)}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*create_unbacked_symint")  # inside torchvision's nms
        return torch.export.export(
            DetectorGraph(detector),
            (torch.zeros(3, *EXAMPLE_SIZE),),
            dynamic_shapes={"picture": sides},
            # that maps of two paths have one size for every H and W is checked when the graph runs, not proven here
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def level_anchors(cell: Tensor, logits: Tensor, images: Tensor) -> Tensor:
    """torchvision's anchors of one level ``(h w A, 4)``, a whole number of pixels of the padded picture apart.

    Args:
        cell: ``(A, 4)`` around the origin.
        logits: ``(1, A, h, w)``.
        images: ``(1, 3, H, W)``.
    """
    down, right = (torch.arange(logits.shape[n]) * (images.shape[n] // logits.shape[n]) for n in (2, 3))
    y, x = torch.meshgrid(down, right, indexing="ij")
    return (torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4) + cell).reshape(-1, 4)


def pooled(align: MultiScaleRoIAlign, maps: dict[str, Tensor], rois: Tensor) -> Tensor:
    """Pool ``rois (R, 4)`` of one picture, each from its level by eq. 2: ``(R, C, S, S)``."""
    level = align.map_levels([rois])
    rows = [torch.where(level == n)[0] for n in range(len(align.featmap_names))]
    parts = [
        roi_align(maps[name], F.pad(rois[own], (1, 0)), align.output_size, scale, align.sampling_ratio)
        for name, scale, own in zip(align.featmap_names, align.scales, rows, strict=True)
    ]
    return torch.cat(parts)[torch.argsort(torch.cat(rows))]


def highest(scores: Tensor, count: int) -> Tensor:
    """Rows of the ``count`` highest scores, or of all where there are fewer, in falling order."""
    return scores.topk(torch.sym_min(count, scores.shape[0])).indices


def survivors(boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
    """Rows that are left by NMS, highest score first; boxes ``(n, 4)`` inside the picture, scores from 0 up, n from 0.

    torchvision declares to `torch.export` that NMS leaves two boxes or more, and the graph would stop where there are
    fewer. Two that always stay, last by their score, make that true.
    """
    boxes = torch.cat([boxes, boxes.new_tensor(OUTSIDE)])
    scores = torch.cat([scores, scores.new_full((len(OUTSIDE),), -1.0)])
    return nms(boxes, scores, iou)[: -len(OUTSIDE)]


def pick(columns: tuple[Tensor, ...], wanted: Tensor) -> tuple[Tensor, ...]:
    """The wanted rows of each."""
    rows = torch.where(wanted)[0]
    return tuple(column[rows] for column in columns)


def shorter(boxes: Tensor) -> Tensor:
    """The shorter side of each box ``(n,)``."""
    return (boxes[:, 2:] - boxes[:, :2]).amin(dim=1)


def apart(boxes: Tensor, labels: Tensor) -> Tensor:
    """Boxes moved so that no two of different classes meet, as torchvision does for one NMS over all classes."""
    largest = torch.cat([boxes.reshape(-1), boxes.new_zeros(1)]).max()  # of no box at all: 0
    return boxes + (labels.to(boxes) * (largest + 1))[:, None]
