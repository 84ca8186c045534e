"""Faster R-CNN on an (extended) feature pyramid."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from efpn.models.detector import EFPNDetector, Features, Resize, make_neck, make_transform
from efpn.models.roi_heads import PyramidRoIHeads, RoISettings, SmallRoIs
from efpn.models.rpn import PyramidRPN, RPNSettings
from efpn.pyramid.backbones import Backbone, ResNet
from efpn.pyramid.detail import Detail, Image2x, Stem
from efpn.pyramid.extension import Extension, WholePass, make_extension
from efpn.pyramid.fpn import extended_levels
from efpn.pyramid.neck import EFPNBackbone
from efpn.pyramid.tiles import Tiles
from efpn.pyramid.upsamplers import FTT, Nearest
from efpn.types import Detections


class FasterRCNN(EFPNDetector):
    """A region proposal network on P2 to P6, and box heads of which small RoIs read P2' (see `EFPNDetector`).

    Args:
        backbone: the levels.
        rpn: proposes boxes.
        roi_heads: classifies and refines them.
        num_classes: classes with the background.
        resize: resize inside the model as torchvision does; None where the data are already at their size.
    """

    def __init__(
        self,
        backbone: EFPNBackbone,
        rpn: PyramidRPN,
        roi_heads: PyramidRoIHeads,
        num_classes: int,
        resize: Resize | None = None,
    ) -> None:
        super().__init__()
        self.transform = make_transform(backbone, resize)
        self.backbone, self.rpn, self.roi_heads = backbone, rpn, roi_heads
        self.num_classes, self.small = num_classes, roi_heads.box_roi_pool.small

    @property
    def score_thresh(self) -> float:
        """Of the RoI heads."""
        return self.roi_heads.score_thresh

    @score_thresh.setter
    def score_thresh(self, value: float) -> None:
        self.roi_heads.score_thresh = value

    @property
    def nms_thresh(self) -> float:  # type: ignore[override]
        """Of the RoI heads."""
        return self.roi_heads.nms_thresh

    @property
    def detections_per_img(self) -> int:  # type: ignore[override]
        """Of the RoI heads."""
        return self.roi_heads.detections_per_img

    def losses(self, features: Features, images: ImageList, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The RPN's losses, unless it is frozen, and those of the RoI heads."""
        proposals, losses = self.rpn(images, features, targets)
        _, more = self.roi_heads(features, proposals, images.image_sizes, targets)
        return {**more, **losses}

    def detections(self, features: Features, images: ImageList) -> list[Detections]:
        """See `EFPNDetector.detections`."""
        proposals, _ = self.rpn(images, features)
        return self.roi_heads(features, proposals, images.image_sizes)[0]

    def starters(self) -> dict[str, Callable[[], None]]:
        """See `EFPNDetector.starters`."""
        return {
            "backbone.extension.": self.backbone.start_extension,
            "roi_heads.small_head.": self.roi_heads.start_small_head,
        }


def build_faster_rcnn(
    backbone: Backbone,
    num_classes: int,
    *,
    channels: int = 256,
    extension: Callable[..., Extension | WholePass] | None = None,
    detail: Detail | None = None,
    rpn: RPNSettings | None = None,
    roi: RoISettings | None = None,
    small: SmallRoIs | None = None,
    resize: Resize | None = None,
    tiles: Tiles | None = None,
) -> FasterRCNN:
    """Put a detector together.

    Args:
        backbone: gives C2 to C5.
        num_classes: classes with the background.
        channels: depth of the pyramid (256 in the paper).
        extension: called with ``stage_channels``, those of C2 to C5, and ``channels``; None gives a plain FPN.
        detail: where C2' comes from; None is the paper's `Stem`.
        rpn: see `RPNSettings`.
        roi: see `RoISettings`.
        small: see `SmallRoIs`.
        resize: see `Resize`.
        tiles: see `Tiles`; None computes P2' whole, as is done where RoIs read P3'.
    """
    reads_p3_ext = small is not None and small.level == "p3_ext"
    neck = make_neck(backbone, channels, extension, detail, None if reads_p3_ext else tiles)
    levels = (*neck.fpn.levels, *extended_levels(channels))
    proposer = PyramidRPN(channels, rpn or RPNSettings())
    heads = PyramidRoIHeads(levels, num_classes, roi or RoISettings(), small)
    detector = FasterRCNN(neck, proposer, heads, num_classes, resize)
    # convolutions run faster in this layout, under bf16 above all; shapes and results stay as they are
    return detector.to(memory_format=torch.channels_last)


def fasterrcnn_resnet50_efpn(
    num_classes: int = 91,
    *,
    arch: str = "resnet50",
    weights_backbone: str | None = "imagenet",
    trainable_stages: int = 3,
    small_roi_below: float = 112.0,
    ftt_width: int | None = None,
    resize: Resize | None = None,
) -> FasterRCNN:
    """Faster R-CNN with an EFPN neck, to be used as torchvision's ``fasterrcnn_resnet50_fpn``.

    Args:
        num_classes: classes with the background.
        arch: a ResNet or ResNeXt of torchvision.
        weights_backbone: ``imagenet``, a local file, or None (then batch-norm learns and all stages train).
        trainable_stages: stages of the backbone that train, from the top.
        small_roi_below: RoIs with ``sqrt(w * h)`` under this read P2' (pixels after resizing).
        ftt_width: None makes P2' by a second pass of stages 2 to 4 on the image at twice the size, which does best;
            a number takes the paper's form, FTT of this width and C2' of the stem's map.
        resize: 800/1333 by default.
    """
    scratch = weights_backbone is None
    backbone = ResNet(arch, weights_backbone, "batch" if scratch else "frozen", 5 if scratch else trainable_stages)

    detail: Detail = Image2x() if ftt_width is None else Stem()
    if ftt_width is None:
        extension = partial(make_extension, partial(Nearest, blocks=2), last_stage=4, margin=0)
    else:
        extension = partial(make_extension, partial(FTT, width=ftt_width))
    detector = build_faster_rcnn(
        backbone,
        num_classes,
        extension=extension,
        detail=detail,
        small=SmallRoIs(small_roi_below, own_head=True),
        resize=resize or Resize(),
        tiles=Tiles(),
    )
    detector.backbone.start_extension()
    return detector
