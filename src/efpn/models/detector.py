"""Faster R-CNN on an (extended) feature pyramid, in torchvision's calling convention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from efpn.models.backbone import EFPNBackbone
from efpn.models.crowds import ResizeWithCrowds
from efpn.models.detail import Detail, Image2x, Stem
from efpn.models.extension import Extension, WholePass, make_extension
from efpn.models.roi_heads import OHEM, PyramidRoIHeads, RoISettings, SmallRoIs
from efpn.models.rpn import PyramidRPN, RPNSettings
from efpn.models.trunk import ResNetTrunk
from efpn.models.upsamplers import FTT, Nearest
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

    def forward(
        self,
        images: list[Tensor],
        targets: list[dict[str, Tensor]] | None = None,
        images_2x: list[Tensor] | None = None,
    ) -> Any:
        """Losses in training, else detections (see the class).

        Args:
            images: ``(3, h, w)`` each, in [0, 1].
            targets: in training, of each.
            images_2x: ``(3, 2h, 2w)`` each, where the extended level reads them (`EFPNBackbone.reads_2x`); a detector
                that resizes by itself takes them at any size, or makes them of ``images``.

        Raises:
            ValueError: no targets in training, a box without width or height, or 2x images are needed and not given, or
                not of twice the size.
        """
        if self.training and targets is None:
            raise ValueError("in training the detector needs targets")
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        batch, targets = self.transform(images, targets)
        for number, target in enumerate(targets or []):
            if (target["boxes"][:, 2:] <= target["boxes"][:, :2]).any():
                raise ValueError(f"target {number} holds a box without width or height: {target['boxes'].tolist()}")
        double = self._double(batch, images, images_2x) if self.backbone.reads_2x else None
        features = self.backbone(batch.tensors, double)
        proposals, losses = self.rpn(batch, features, targets)
        detections, more = self.roi_heads(features, proposals, batch.image_sizes, targets)
        if self.training:
            return {**more, **losses}
        return self.transform.postprocess(detections, batch.image_sizes, sizes)

    def _double(self, batch: ImageList, images: list[Tensor], images_2x: list[Tensor] | None) -> Tensor:
        """The 2x batch, exactly twice the size of the 1x one."""
        wanted = [(2 * h, 2 * w) for h, w in batch.image_sizes]
        if not isinstance(self.transform, NormalizeAndPad):
            images_2x = [
                F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
                for image, size in zip(images_2x or images, wanted, strict=True)
            ]
        elif images_2x is None:
            raise ValueError("the extended level reads the 2x images: call the detector with images_2x=")
        if (given := [tuple(image.shape[-2:]) for image in images_2x]) != wanted:
            raise ValueError(f"2x images of {given} px: give each at twice the size of its 1x image, {wanted}")
        height, width = batch.tensors.shape[-2:]
        double = batch.tensors.new_zeros(len(images_2x), 3, 2 * height, 2 * width)
        for slot, image in zip(double, images_2x, strict=True):
            slot[:, : image.shape[-2], : image.shape[-1]] = self.transform.normalize(image)
        return double

    def batch_pair(self, images_1x: list[Tensor], images_2x: list[Tensor]) -> tuple[ImageList, Tensor]:
        """Normalise and pad both scales so that the 2x batch is exactly twice the 1x batch.

        Args:
            images_1x: ``(3, h, w)`` each.
            images_2x: ``(3, 2h, 2w)`` each.

        Returns:
            torchvision's `ImageList` of the 1x pictures, ``(N, 3, H, W)``, and the 2x batch ``(N, 3, 2H, 2W)``.

        Raises:
            ValueError: the detector itself resizes, which would break the pair, or the sizes are not those of one.
        """
        if not isinstance(self.transform, NormalizeAndPad):
            raise ValueError("a pair comes at its size: build the detector with resize=None")
        batch_1x, _ = self.transform(images_1x)
        return batch_1x, self._double(batch_1x, images_1x, images_2x)

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
    extension: Callable[..., Extension | WholePass] | None = None,
    detail: Detail | None = None,
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
        extension: called with ``c2_channels``, ``c3_channels`` and ``channels``; None gives a plain FPN.
        detail: where C2' comes from; None is the paper's `Stem`.
        rpn: see `RPNSettings`.
        roi: see `RoISettings`.
        small: see `SmallRoIs`.
        ohem: see `OHEM`.
        resize: see `Resize`.
        windows: see `Windows`; None computes P2' whole.
    """
    depths = {f"{stage}_channels": trunk.channels[stage] for stage in ("c2", "c3")}
    built = extension(channels=channels, **depths) if extension else None
    backbone = EFPNBackbone(trunk, channels, built, detail, windows)
    detector = EFPNDetector(backbone, num_classes, rpn, roi, small, ohem, resize)
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
) -> EFPNDetector:
    """Faster R-CNN with an EFPN neck, to be used as torchvision's ``fasterrcnn_resnet50_fpn``.

    Args:
        num_classes: classes with the background.
        arch: a ResNet or ResNeXt of torchvision.
        weights_backbone: ``imagenet``, a local file, or None (then batch-norm learns and all stages train).
        trainable_stages: stages of the trunk that train, from the top.
        small_roi_below: RoIs with ``sqrt(w * h)`` under this read P2' (pixels after resizing).
        ftt_width: None makes P2' by a second pass of stages 2 and 3 on the image at twice the size, which does best;
            a number takes the paper's form, FTT of this width and C2' of the stem's map.
        resize: 800/1333 by default.
    """
    scratch = weights_backbone is None
    trunk = ResNetTrunk(arch, weights_backbone, "batch" if scratch else "frozen", 5 if scratch else trainable_stages)

    second_pass = ftt_width is None
    upsampler = partial(Nearest, blocks=2) if ftt_width is None else partial(FTT, width=ftt_width)
    detector = build_detector(
        trunk,
        num_classes,
        extension=partial(make_extension, upsampler, c3=second_pass),
        detail=Image2x() if second_pass else Stem(),
        small=SmallRoIs(small_roi_below, own_head=True),
        resize=resize or Resize(),
        windows=Windows(),
    )
    detector.backbone.start_extension()
    return detector
