"""The detector as one traceable graph for one image of any size.

torchvision's anchors and RoI pooler branch on sizes and on how many boxes there are, which `torch.export` cannot
follow. Here the same arithmetic is written without such branches, on the detector's own modules and filters
(`efpn.models.filters`); every export is compared with the detector itself.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torchvision.ops import MultiScaleRoIAlign, roi_align

from efpn.errors import UserError
from efpn.models import EFPNDetector, FasterRCNN
from efpn.models.detector import NormalizeAndPad
from efpn.models.roi_heads import interleave
from efpn.models.rpn import LEVELS

SMALLEST_SIDE = 65  # from here on P6 has two cells or more; a map of one cell is traced as a constant
EXAMPLE_SIZE = (200, 328)  # any size with two different sides that are no multiples of the padding
Size = tuple[int, int]


class DetectorGraph(nn.Module):
    """``image (3, H, W)`` float32 RGB in [0, 1] at the 1x size -> ``boxes (n, 4)``, ``labels (n,)``, ``scores (n,)``.

    Boxes are xyxy in 1x pixels, highest score first, as the detector itself gives them. Where P2' is made of the 2x
    image, that is what is given, ``(3, 2H, 2W)``, and the 1x image is the mean of its 2 x 2 blocks.

    Raises:
        ValueError: the detector itself resizes images.
        UserError: it is another than Faster R-CNN.
    """

    def __init__(self, detector: EFPNDetector) -> None:
        super().__init__()
        if not isinstance(detector, FasterRCNN):
            raise UserError(f"export: {type(detector).__name__} cannot be exported; detector=faster_rcnn can")
        if not isinstance(detector.transform, NormalizeAndPad):
            raise ValueError("an image comes at its 1x size: build the detector with resize=None")
        self.detector = detector  # with its weights; it stays as it is, but for being set to eval mode
        heads = detector.roi_heads
        self.head = nn.Sequential(heads.box_head, heads.box_predictor)
        self.small_head = heads.small_head or self.head
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detect in one image."""
        double, step = None, self.detector.transform.size_divisible
        if self.detector.backbone.reads_2x:
            double = self._padded(self.detector.transform.normalize(image), 2 * step)
            image = F.avg_pool2d(image, 2)
        height, width = image.shape[-2:]
        images = self._padded(self.detector.transform.normalize(image), step)
        maps = self.detector.backbone.whole(images, double)
        rois = self._proposals(maps, images, (height, width))
        logits, deltas = self.box_outputs(maps, rois)
        boxes, scores, labels, _ = self.detector.roi_heads.ranked_in_one(logits, deltas, rois, (height, width)).kept()
        return boxes, labels, scores

    def _padded(self, image: Tensor, step: int) -> Tensor:
        # only numbers above 0 are divided: the ONNX exporter's // rounds towards 0
        below, right = ((side + step - 1) // step * step - side for side in image.shape[-2:])
        return F.pad(image, (0, right, 0, below))[None]

    def _proposals(self, maps: dict[str, Tensor], images: Tensor, size: Size) -> Tensor:
        """The RPN's boxes of all levels together ``(R, 4)``, 1x pixels."""
        rpn = self.detector.rpn
        anchors, moves, objectness = [], [], []
        for cell, logits, deltas in zip(
            rpn.anchor_generator.cell_anchors, *rpn.head([maps[name] for name in LEVELS]), strict=True
        ):
            # torchvision's anchors, a whole number of pixels of the padded image apart, around those of one cell (A, 4)
            down, right = (torch.arange(logits.shape[n]) * (images.shape[n] // logits.shape[n]) for n in (2, 3))
            y, x = torch.meshgrid(down, right, indexing="ij")
            anchors.append((torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4) + cell.float()).reshape(-1, 4))
            moves.append(deltas[0].unflatten(0, (-1, 4)).permute(2, 3, 0, 1).reshape(-1, 4))
            objectness.append(logits[0].permute(1, 2, 0).reshape(-1))
        boxes = rpn.box_coder.decode_single(torch.cat(moves), torch.cat(anchors))
        boxes = boxes.split([one.shape[0] for one in anchors])
        return replace(rpn.filter(), score_thresh=rpn.test_score_thresh)(boxes, objectness, size).kept()[0]

    def box_outputs(self, maps: dict[str, Tensor], rois: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits ``(R, K + 1)`` and deltas ``(R, 4 (K + 1))``, each RoI from its level and head."""
        align = self.detector.roi_heads.box_roi_pool
        if align.extended is None:
            return self.head(pooled(align.regular, maps, rois))
        small = align.is_small(rois)
        others = self.head(pooled(align.regular, maps, rois[~small]))
        smalls = self.small_head(pooled(align.extended, maps, rois[small]))
        return interleave(others[0], smalls[0], small), interleave(others[1], smalls[1], small)


def trace(detector: EFPNDetector) -> ExportedProgram:
    """The detector's graph with free height and width of the 1x image, from `SMALLEST_SIDE` up."""
    factor = 2 if detector.backbone.reads_2x else 1
    sides = {1: factor * Dim("height", min=SMALLEST_SIDE), 2: factor * Dim("width", min=SMALLEST_SIDE)}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*create_unbacked_symint")  # inside torchvision's nms
        return torch.export.export(
            DetectorGraph(detector),
            (torch.zeros(3, *EXAMPLE_SIZE),),
            dynamic_shapes={"image": sides},
            # that maps of two paths have one size for every H and W is checked when the graph runs, not proven here
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def pooled(align: MultiScaleRoIAlign, maps: dict[str, Tensor], rois: Tensor) -> Tensor:
    """Pool ``rois (R, 4)`` of one image, each from its level by eq. 2: ``(R, C, S, S)``."""
    level = align.map_levels([rois])
    rows = [torch.where(level == n)[0] for n in range(len(align.featmap_names))]
    parts = [
        roi_align(maps[name], F.pad(rois[own], (1, 0)), align.output_size, scale, align.sampling_ratio)
        for name, scale, own in zip(align.featmap_names, align.scales, rows, strict=True)
    ]
    return torch.cat(parts)[torch.argsort(torch.cat(rows))]
