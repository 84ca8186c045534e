"""Faster R-CNN on an (extended) feature pyramid, in torchvision's calling convention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from efpn.models.backbone import EFPNBackbone
from efpn.models.crowds import ResizeWithCrowds
from efpn.models.extension import Extension
from efpn.models.roi_heads import OHEM, PyramidRoIHeads, RoISettings, SmallRoIs
from efpn.models.rpn import PyramidRPN, RPNSettings
from efpn.models.trunk import ResNetTrunk
from efpn.models.upsamplers import FTT
from efpn.models.windows import Windows
from efpn.types import Detections

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Resize:
    """How the detector itself resizes pictures (torchvision's rule): shorter side, then a cap on the longer one."""

    short_side: int = 800
    max_size: int = 1333


class NormalizeAndPad(GeneralizedRCNNTransform):
    """torchvision's transform for pictures that come at their size.

    Its own ``_skip_resize`` skips in training alone and still resizes in eval mode.
    """

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Leave picture and boxes as they are."""
        return image, target


class EFPNDetector(GeneralizedRCNN):
    """torchvision's two-stage detector of an `EFPNBackbone`, `PyramidRPN` and `PyramidRoIHeads`.

    ``model(images, targets)`` takes a list of ``(3, h, w)`` pictures in [0, 1] and, in training, a list of
    ``{"boxes": (n, 4) xyxy in pixels of the given picture, "labels": (n,)}``; it returns a dict of losses in training
    and a list of `Detections`, in pixels of the given pictures, in eval mode.

    Args:
        backbone: the levels.
        num_classes: classes with the background.
        rpn: numbers of the region proposal network.
        roi: numbers of the box heads.
        small: which RoIs are small and where they go; None without an extended level.
        ohem: mine hard small RoIs in training (the finetuning phase).
        resize: resize inside the model as torchvision does; None where the data are already at their size.
    """

    def __init__(
        self,
        backbone: EFPNBackbone,
        num_classes: int,
        rpn: RPNSettings | None = None,
        roi: RoISettings | None = None,
        small: SmallRoIs | None = None,
        ohem: OHEM | None = None,
        resize: Resize | None = None,
    ) -> None:
        sizes = resize or Resize()
        transform = ResizeWithCrowds if resize else NormalizeAndPad
        super().__init__(
            backbone,
            PyramidRPN(backbone.out_channels, rpn or RPNSettings()),
            PyramidRoIHeads(backbone.out_channels, num_classes, roi or RoISettings(), small, ohem),
            transform(sizes.short_side, sizes.max_size, list(IMAGENET_MEAN), list(IMAGENET_STD), size_divisible=32),
        )
        self.num_classes = num_classes

    def starters(self) -> dict[str, Callable[[], None]]:
        """Parts that a phase may add to a trained detector: name prefix -> how they start from what is trained."""
        return {
            "backbone.extension.": self.backbone.start_extension,
            "roi_heads.small_head.": self.roi_heads.start_small_head,
        }

    def batch_pair(self, images_1x: list[Tensor], images_2x: list[Tensor]) -> tuple[ImageList, Tensor]:
        """Normalise and pad both scales so that the 2x batch is exactly twice the 1x batch.

        Args:
            images_1x: ``(3, h, w)`` each.
            images_2x: ``(3, 2h, 2w)`` each.

        Returns:
            torchvision's `ImageList` of the 1x pictures, ``(N, 3, H, W)``, and the 2x batch ``(N, 3, 2H, 2W)``.

        Raises:
            ValueError: the detector itself resizes, which would break the pair.
        """
        if not isinstance(self.transform, NormalizeAndPad):
            raise ValueError("a pair comes at its size: build the detector with resize=None")
        batch_1x, _ = self.transform(images_1x)
        height, width = batch_1x.tensors.shape[-2:]
        batch_2x = batch_1x.tensors.new_zeros(len(images_2x), 3, 2 * height, 2 * width)
        for slot, image in zip(batch_2x, images_2x, strict=True):
            slot[:, : image.shape[-2], : image.shape[-1]] = self.transform.normalize(image)
        return batch_1x, batch_2x

    @torch.no_grad()
    def detect(
        self, features: Mapping[str, Tensor], images: ImageList, sizes: Sequence[tuple[int, int]]
    ) -> list[Detections]:
        """RPN, heads and post-processing on ready-made levels.

        Args:
            features: the levels by name.
            images: torchvision's `ImageList` of the batch.
            sizes: ``(height, width)`` that the boxes are brought back to.
        """
        proposals, _ = self.rpn(images, features)
        detections, _ = self.roi_heads(features, proposals, images.image_sizes)
        return self.transform.postprocess(detections, images.image_sizes, list(sizes))


def build_detector(
    trunk: ResNetTrunk,
    num_classes: int,
    *,
    channels: int = 256,
    extension: Callable[..., Extension] | None = None,
    rpn: RPNSettings | None = None,
    roi: RoISettings | None = None,
    small: SmallRoIs | None = None,
    ohem: OHEM | None = None,
    resize: Resize | None = None,
    windows: Windows | None = None,
) -> EFPNDetector:
    """Put a detector together.

    Args:
        trunk: the ResNet.
        num_classes: classes with the background.
        channels: depth of the pyramid (256 in the paper).
        extension: called with ``c2_channels`` and ``channels``; None gives a plain FPN.
        rpn: see `RPNSettings`.
        roi: see `RoISettings`.
        small: see `SmallRoIs`.
        ohem: see `OHEM`.
        resize: see `Resize`.
        windows: see `Windows`; None computes P2' whole.
    """
    built = extension(c2_channels=trunk.channels["c2"], channels=channels) if extension else None
    backbone = EFPNBackbone(trunk, channels, built, windows)
    detector = EFPNDetector(backbone, num_classes, rpn, roi, small, ohem, resize)
    # convolutions run faster in this layout, under bf16 above all; shapes and results stay as they are
    return detector.to(memory_format=torch.channels_last)


def make_extension(upsampler: Callable[..., Any], c2_channels: int, channels: int, **options: Any) -> Extension:
    """Build an `Extension` around an upsampler class that takes the pyramid's ``channels``."""
    return Extension(upsampler(channels=channels), c2_channels, channels, **options)


def fasterrcnn_resnet50_efpn(
    num_classes: int = 91,
    *,
    arch: str = "resnet50",
    weights_backbone: str | None = "imagenet",
    trainable_stages: int = 3,
    small_roi_below: float = 112.0,
    ftt_width: int = 128,
    resize: Resize | None = None,
) -> EFPNDetector:
    """Faster R-CNN with an EFPN neck, to be used as torchvision's ``fasterrcnn_resnet50_fpn``.

    Args:
        num_classes: classes with the background.
        arch: a ResNet or ResNeXt of torchvision.
        weights_backbone: ``imagenet``, a local file, or None (then batch-norm learns and all stages train).
        trainable_stages: stages of the trunk that train, from the top.
        small_roi_below: RoIs with ``sqrt(w * h)`` under this read P2' (pixels after resizing).
        ftt_width: width of the FTT module.
        resize: 800/1333 by default.
    """
    scratch = weights_backbone is None
    trunk = ResNetTrunk(arch, weights_backbone, "batch" if scratch else "frozen", 5 if scratch else trainable_stages)

    def extension(c2_channels: int, channels: int) -> Extension:
        return Extension(FTT(channels, ftt_width), c2_channels, channels)

    small = SmallRoIs(small_roi_below, own_head=True)
    size = resize or Resize()
    detector = build_detector(trunk, num_classes, extension=extension, small=small, resize=size, windows=Windows())
    detector.backbone.start_extension()
    return detector
