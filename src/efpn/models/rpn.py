"""torchvision's region proposal network on the FPN's own levels; P2' never proposes (Sec. III-A)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

LEVELS = ("p2", "p3", "p4", "p5", "p6")


@dataclass(frozen=True)
class RPNSettings:
    """The RPN's numbers; the defaults are torchvision's.

    Attributes:
        anchor_sizes: side of the square anchor on each of ``p2 .. p6``, pixels of the 1x input.
        aspect_ratios: height over width.
        pre_nms_top_n: proposals kept per level before NMS, in training and in testing.
        post_nms_top_n: proposals kept per picture after it, likewise.
        nms_thresh: IoU above which the lower-scored proposal goes.
        batch_size: anchors sampled per picture for the loss, ``positive_fraction`` of them at most positive.
        fg_iou: an anchor from this IoU on is positive; one below ``bg_iou`` is negative.
    """

    anchor_sizes: Sequence[int] = (32, 64, 128, 256, 512)
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0)
    pre_nms_top_n: tuple[int, int] = (2000, 1000)
    post_nms_top_n: tuple[int, int] = (2000, 1000)
    nms_thresh: float = 0.7
    batch_size: int = 256
    positive_fraction: float = 0.5
    fg_iou: float = 0.7
    bg_iou: float = 0.3


class PyramidRPN(RegionProposalNetwork):
    """Reads ``p2 .. p6`` of a backbone's maps and leaves the others alone.

    Args:
        channels: depth of the levels.
        settings: the numbers.
    """

    def __init__(self, channels: int, settings: RPNSettings) -> None:
        anchors = AnchorGenerator(
            sizes=tuple((int(size),) for size in settings.anchor_sizes),
            aspect_ratios=(tuple(settings.aspect_ratios),) * len(LEVELS),
        )
        super().__init__(
            anchors,
            RPNHead(channels, anchors.num_anchors_per_location()[0]),
            fg_iou_thresh=settings.fg_iou,
            bg_iou_thresh=settings.bg_iou,
            batch_size_per_image=settings.batch_size,
            positive_fraction=settings.positive_fraction,
            pre_nms_top_n=dict(zip(("training", "testing"), settings.pre_nms_top_n, strict=True)),
            post_nms_top_n=dict(zip(("training", "testing"), settings.post_nms_top_n, strict=True)),
            nms_thresh=settings.nms_thresh,
        )

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Propose boxes (1x pixels) per picture and, in training, return the RPN's losses."""
        return super().forward(images, {level: features[level] for level in LEVELS}, targets)
