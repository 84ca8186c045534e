"""One-stage detectors on an (extended) feature pyramid: torchvision's RetinaNet and FCOS with P2' as one more level.

Their head runs over all levels, so that P2' needs no rule for small RoIs: a level joins P2 to P6, and what is small
falls to it by the detector's own assignment (anchors of half the size in RetinaNet, its range of sizes in FCOS). With
a head of its own (`SmallRoIs.own_head`) that level is read by a copy of the head, which the last phase trains. The
focal loss weighs hard examples by itself: `SmallRoIs.below` and ``mining`` are for RoI heads and not read here.
"""

from __future__ import annotations

import abc
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchvision.models import detection as tv
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import box_iou

from efpn.errors import UserError
from efpn.models.crowds import LEFT_OUT, leave_out_crowds
from efpn.models.detector import EFPNDetector, Features, make_neck, make_transform
from efpn.models.roi_heads import SmallRoIs
from efpn.models.rpn import Float32Anchors, require_anchors
from efpn.pyramid.backbones import Backbone
from efpn.pyramid.detail import Detail
from efpn.pyramid.extension import Extension, WholePass
from efpn.pyramid.fpn import extended_levels
from efpn.pyramid.neck import EFPNBackbone
from efpn.types import Detections, LevelSpec

OCTAVES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))  # scales of RetinaNet's anchors on each level
SILENT = -100.0  # a logit by which the focal loss of background is zero


@dataclass(frozen=True)
class RetinaNetSettings:
    """RetinaNet's numbers; the defaults are torchvision's, but that P2 is read and P7 is not."""

    # side of the smallest of three anchors on each of ``p2 .. p6``, 1x pixels; P2' has half of P2's
    anchor_sizes: Sequence[int] = (16, 32, 64, 128, 256)
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0)  # height over width
    fg_iou: float = 0.5  # an anchor from this IoU on is positive
    bg_iou: float = 0.4  # an anchor below this IoU is negative; between the two it does not train
    score_thresh: float = 0.05  # detections have to score higher
    nms_thresh: float = 0.5  # IoU above which the lower-scored detection of a class goes
    detections_per_image: int = 300  # the highest-scored that are kept
    candidates: int = 1000  # of each level that NMS sees

    def __post_init__(self) -> None:
        """Refuse sizes that the levels cannot share out, and thresholds that leave no sense."""
        require_anchors("model.dense.anchor_sizes", self.anchor_sizes)
        if self.bg_iou > self.fg_iou:
            raise UserError(f"model.dense.bg_iou={self.bg_iou}: must be at most model.dense.fg_iou={self.fg_iou}")


@dataclass(frozen=True)
class FCOSSettings:
    """FCOS's numbers; the defaults are torchvision's. A level of stride s takes objects of about 4 s to 8 s."""

    center_radius: float = 1.5  # cells around an object's centre that are positive
    score_thresh: float = 0.2  # detections have to score higher
    nms_thresh: float = 0.6  # IoU above which the lower-scored detection of a class goes
    detections_per_image: int = 100  # the highest-scored that are kept
    candidates: int = 1000  # of each level that NMS sees


class DenseDetector(EFPNDetector):
    """What RetinaNet and FCOS share; a subclass is torchvision's detector too (see `EFPNDetector`).

    Classes are numbered from 0 inside, as there is no background among the logits.

    Args:
        backbone: the levels.
        levels: those that the head reads, the finest first.
        num_classes: classes with the background.
        small: whether the first level has a head of its own; None: not.
    """

    head: Any
    proposal_matcher: Any
    compute_loss: Callable[..., dict[str, Tensor]]
    anchor_generator: Callable[[ImageList, list[Tensor]], list[Tensor]]
    postprocess_detections: Callable[..., list[Detections]]

    def set_up(
        self,
        backbone: EFPNBackbone,
        levels: Sequence[LevelSpec],
        num_classes: int,
        small: SmallRoIs | None,
    ) -> None:
        """Say which levels the head reads, the one that may have a head of its own first."""
        self.transform = make_transform(backbone, None)
        self.level_names = [level.name for level in levels]
        self.num_classes = num_classes
        self.small = small
        self.small_head = copy.deepcopy(self.head) if small and small.own_head else None

    @abc.abstractmethod
    def loss_terms(
        self,
        targets: list[dict[str, Tensor]],
        outputs: dict[str, Tensor],
        anchors: list[Tensor],
        counts: list[int],
    ) -> dict[str, Tensor]:
        """The detector's own losses.

        Args:
            targets: labels from 0.
            outputs: of the head, ``(N, A, any)`` by name.
            anchors: of each image ``(A, 4)``.
            counts: how many of them are of each level.
        """

    def losses(self, features: Features, images: ImageList, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Focal loss and box losses over all levels."""
        maps = [features[name] for name in self.level_names]
        outputs, anchors = self.outputs(maps), self.anchor_generator(images, maps)
        inside = [{**target, "labels": target["labels"] - 1} for target in targets]
        terms = self.loss_terms(inside, outputs, anchors, self._counts(maps, anchors))
        return {f"loss_{name}": value for name, value in terms.items()}

    def detections(self, features: Features, images: ImageList) -> list[Detections]:
        """See `EFPNDetector.detections`; torchvision's top-k of each level and NMS within classes."""
        maps = [features[name] for name in self.level_names]
        anchors = self.anchor_generator(images, maps)
        counts = self._counts(maps, anchors)
        outputs = {name: list(value.split(counts, dim=1)) for name, value in self.outputs(maps).items()}
        split = [list(one.split(counts)) for one in anchors]
        found = self.postprocess_detections(outputs, split, images.image_sizes)
        return [{"boxes": one["boxes"], "scores": one["scores"], "labels": one["labels"] + 1} for one in found]

    def outputs(self, maps: list[Tensor]) -> dict[str, Tensor]:
        """The head on all levels, ``(N, anchors, any)`` by name, in float32: boxes are decoded in their dtype."""
        if self.small_head is None:
            return {name: value.float() for name, value in self.head(maps).items()}
        own, others = self.small_head(maps[:1]), self.head(maps[1:])
        return {name: torch.cat([own[name], others[name]], dim=1).float() for name in others}

    @staticmethod
    def _counts(maps: list[Tensor], anchors: list[Tensor]) -> list[int]:
        cells = [one.shape[-2] * one.shape[-1] for one in maps]
        each = len(anchors[0]) // sum(cells)
        return [each * count for count in cells]

    def starters(self) -> dict[str, Callable[[], None]]:
        """See `EFPNDetector.starters`."""
        return {"backbone.extension.": self.backbone.start_extension, "small_head.": self.start_small_head}

    def start_small_head(self) -> None:
        """Start the extended level's head from the other one."""
        assert self.small_head is not None, "the model was built without a head for the extended level"
        self.small_head.load_state_dict(self.head.state_dict())


class RetinaNet(DenseDetector, tv.RetinaNet):
    """torchvision's RetinaNet on ``levels``; arguments as in `DenseDetector`."""

    def __init__(
        self,
        backbone: EFPNBackbone,
        levels: Sequence[LevelSpec],
        num_classes: int,
        settings: RetinaNetSettings,
        small: SmallRoIs | None = None,
    ) -> None:
        names = [level.name for level in backbone.fpn.levels]
        sizes = dict(zip(names, map(float, settings.anchor_sizes), strict=True))
        sizes["p2_ext"] = sizes["p2"] / 2
        anchors = Float32Anchors(
            tuple(tuple(sizes[level.name] * octave for octave in OCTAVES) for level in levels),
            (tuple(settings.aspect_ratios),) * len(levels),
        )
        head = RetinaNetHead(backbone.out_channels, anchors.num_anchors_per_location()[0], num_classes - 1)
        tv.RetinaNet.__init__(
            self,
            backbone,
            num_classes,
            anchor_generator=anchors,
            head=head,
            proposal_matcher=Matcher(settings.fg_iou, settings.bg_iou, allow_low_quality_matches=True),
            score_thresh=settings.score_thresh,
            nms_thresh=settings.nms_thresh,
            detections_per_img=settings.detections_per_image,
            topk_candidates=settings.candidates,
        )
        self.set_up(backbone, levels, num_classes, small)

    def loss_terms(
        self,
        targets: list[dict[str, Tensor]],
        outputs: dict[str, Tensor],
        anchors: list[Tensor],
        counts: list[int],
    ) -> dict[str, Tensor]:
        """torchvision's, with no anchor in a crowd region as background."""
        matches = []
        for own, target in zip(anchors, targets, strict=True):
            matched = torch.full((len(own),), Matcher.BELOW_LOW_THRESHOLD, dtype=torch.int64, device=own.device)
            if len(target["boxes"]):
                matched = self.proposal_matcher(box_iou(target["boxes"], own))
            labels = leave_out_crowds((matched >= 0).long(), own, target)
            matches.append(matched.masked_fill(labels == LEFT_OUT, Matcher.BETWEEN_THRESHOLDS))
        return self.head.compute_loss(targets, outputs, anchors, matches)


class FCOS(DenseDetector, tv.FCOS):
    """torchvision's FCOS on ``levels``; arguments as in `DenseDetector`."""

    def __init__(
        self,
        backbone: EFPNBackbone,
        levels: Sequence[LevelSpec],
        num_classes: int,
        settings: FCOSSettings,
        small: SmallRoIs | None = None,
    ) -> None:
        tv.FCOS.__init__(
            self,
            backbone,
            num_classes,
            anchor_generator=Float32Anchors(tuple((level.stride,) for level in levels), ((1.0,),) * len(levels)),
            head=FCOSHead(backbone.out_channels, 1, num_classes - 1),
            center_sampling_radius=settings.center_radius,
            score_thresh=settings.score_thresh,
            nms_thresh=settings.nms_thresh,
            detections_per_img=settings.detections_per_image,
            topk_candidates=settings.candidates,
        )
        self.set_up(backbone, levels, num_classes, small)

    def loss_terms(
        self,
        targets: list[dict[str, Tensor]],
        outputs: dict[str, Tensor],
        anchors: list[Tensor],
        counts: list[int],
    ) -> dict[str, Tensor]:
        """torchvision's, with no cell in a crowd region as background."""
        quiet = []
        for own, target in zip(anchors, targets, strict=True):
            x, y = ((own[:, :2] + own[:, 2:]) / 2).unsqueeze(1).unbind(-1)
            x1, y1, x2, y2 = target["boxes"].unbind(-1)
            in_object = ((x > x1) & (x < x2) & (y > y1) & (y < y2)).any(1)
            quiet.append(leave_out_crowds(in_object.long(), own, target) == LEFT_OUT)
        logits = outputs["cls_logits"].masked_fill(torch.stack(quiet)[..., None], SILENT)
        return self.compute_loss(targets, {**outputs, "cls_logits": logits}, anchors, counts)


def _build(
    kind: Callable[..., DenseDetector],
    default: Callable[[], RetinaNetSettings | FCOSSettings],
    backbone: Backbone,
    num_classes: int,
    *,
    channels: int = 256,
    extension: Callable[..., Extension | WholePass] | None = None,
    detail: Detail | None = None,
    dense: RetinaNetSettings | FCOSSettings | None = None,
    small: SmallRoIs | None = None,
) -> DenseDetector:
    """Put a detector together; arguments as in `build_faster_rcnn`, ``dense`` its numbers.

    The head reads P2 to P6, and P2' before them where ``small`` asks for it.

    Raises:
        UserError: it asks for another level.
    """
    neck = make_neck(backbone, channels, extension, detail)
    if small is not None and small.level not in ("p2_ext", "p2"):
        raise UserError(f"model.small.level={small.level}: a dense head reads p2 or p2_ext, which its levels join")
    _, p2_ext = extended_levels(channels)
    extra = [p2_ext] if small is not None and small.level == "p2_ext" else []
    detector = kind(neck, [*extra, *neck.fpn.levels], num_classes, dense or default(), small)
    return detector.to(memory_format=torch.channels_last)


build_retinanet = partial(_build, RetinaNet, RetinaNetSettings)
build_fcos = partial(_build, FCOS, FCOSSettings)
