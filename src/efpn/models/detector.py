"""What all detectors on an (extended) feature pyramid share, in torchvision's calling convention.

A new one is an `EFPNDetector` that turns levels into losses and detections, and a function that builds it.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from efpn.models.crowds import ResizeWithCrowds
from efpn.models.roi_heads import SmallRoIs
from efpn.pyramid.backbones import Backbone
from efpn.pyramid.detail import Detail
from efpn.pyramid.extension import Extension, WholePass
from efpn.pyramid.neck import EFPNBackbone
from efpn.pyramid.tiles import Tiles
from efpn.types import Detections

Features = Mapping[str, Any]  # level name to its map, or to one that waits to be computed (`TiledLevel`)


@dataclass(frozen=True)
class Resize:
    """How the detector itself resizes images (torchvision's rule): shorter side, then a cap on the longer one."""

    short_side: int = 800
    max_size: int = 1333


class NormalizeAndPad(GeneralizedRCNNTransform):
    """torchvision's transform for images that come at their size.

    Its own ``_skip_resize`` skips in training alone and still resizes in eval mode.
    """

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Leave image and boxes as they are."""
        return image, target


class EFPNDetector(nn.Module, abc.ABC):
    """A detector of an `EFPNBackbone` and of heads that a subclass brings.

    ``model(images, targets)`` takes a list of ``(3, h, w)`` images in [0, 1] and, in training, a list of
    ``{"boxes": (n, 4) xyxy in pixels of the given image, "labels": (n,)}``; it returns a dict of losses in training
    and a list of `Detections`, in pixels of the given images, in eval mode.
    """

    backbone: EFPNBackbone  # gives the levels
    transform: GeneralizedRCNNTransform
    num_classes: int  # classes with the background
    small: SmallRoIs | None  # which objects read the extended level, and how; None for a plain FPN
    score_thresh: float  # detections have to score higher
    nms_thresh: float  # IoU above which the lower-scored detection of a class goes
    detections_per_img: int  # the highest-scored that are kept

    @abc.abstractmethod
    def losses(self, features: Features, images: ImageList, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Named losses of a batch, whatever is frozen (an extension may train alone).

        Args:
            features: levels by name.
            images: torchvision's `ImageList` of the batch.
            targets: boxes in 1x pixels.
        """

    @abc.abstractmethod
    def detections(self, features: Features, images: ImageList) -> list[Detections]:
        """Detections of each image, in 1x pixels of the padded batch."""

    @abc.abstractmethod
    def starters(self) -> dict[str, Callable[[], None]]:
        """Parts that a phase may add to a trained detector: name prefix -> how they start from what is trained."""

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
        if self.training and targets is not None:
            return self.losses(features, batch, targets)
        return self.transform.postprocess(self.detections(features, batch), batch.image_sizes, sizes)

    def _double(self, batch: ImageList, images: list[Tensor], images_2x: list[Tensor] | None) -> Tensor:
        """The 2x batch, exactly twice the size of the 1x one."""
        wanted = [(2 * h, 2 * w) for h, w in batch.image_sizes]
        if not isinstance(self.transform, NormalizeAndPad):
            images_2x = [to_size(image, size) for image, size in zip(images_2x or images, wanted, strict=True)]
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
            torchvision's `ImageList` of the 1x images, ``(N, 3, H, W)``, and the 2x batch ``(N, 3, 2H, 2W)``.

        Raises:
            ValueError: the detector itself resizes, which would break the pair, or the sizes are not those of one.
        """
        if not isinstance(self.transform, NormalizeAndPad):
            raise ValueError("a pair comes at its size: build the detector with resize=None")
        batch_1x, _ = self.transform(images_1x)
        return batch_1x, self._double(batch_1x, images_1x, images_2x)


def to_size(image: Tensor, size: Sequence[int]) -> Tensor:
    """A ``(3, h, w)`` image at ``size``, height and width; as it is where it has that."""
    if list(image.shape[-2:]) == list(size):
        return image
    return F.interpolate(image[None], size=list(size), mode="bilinear", antialias=True)[0]


def make_transform(backbone: EFPNBackbone, resize: Resize | None) -> GeneralizedRCNNTransform:
    """Normalise as the backbone was trained and pad; resize too if ``resize`` is given."""
    sizes, kind = resize or Resize(), ResizeWithCrowds if resize else NormalizeAndPad
    body = backbone.body
    return kind(sizes.short_side, sizes.max_size, list(body.mean), list(body.std), size_divisible=32)


def make_neck(
    backbone: Backbone,
    channels: int,
    extension: Callable[..., Extension | WholePass] | None,
    detail: Detail | None,
    tiles: Tiles | None = None,
) -> EFPNBackbone:
    """Backbone, FPN and extension.

    Args:
        backbone: gives C2 to C5.
        channels: depth of the pyramid.
        extension: called with ``stage_channels``, those of C2 to C5, and ``channels``; None gives a plain FPN.
        detail: where C2' comes from; None is the paper's `Stem`.
        tiles: see `Tiles`; None computes P2' whole.
    """
    depths = [level.channels for level in backbone.levels]
    built = extension(stage_channels=depths, channels=channels) if extension else None
    return EFPNBackbone(backbone, channels, built, detail, tiles)
