"""Ways to detect with a trained detector that it was not trained for: the bound of Table III, Tables V and VI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import batched_nms

from efpn.models.detector import EFPNDetector, to_size
from efpn.pyramid.upsamplers import upsample2x
from efpn.types import Detections

P2_EXT_FROM_P2: Mapping[str, str] = {"p2_ext": "p2"}


class Oracle(nn.Module):
    """A detector some of whose levels are replaced by what they imitate, levels of the 2x image.

    With P2' from P2 it is FPN-1x + P2-2x of Table III, the upper bound of the extended level; with P3' from P3 it is
    the target row of Table V.

    Args:
        detector: its ``small`` rule must send RoIs to the replaced levels; an extension is not needed.
        levels: replaced level to the level of the 2x image that takes its place.
    """

    def __init__(self, detector: EFPNDetector, levels: Mapping[str, str] = P2_EXT_FROM_P2) -> None:
        super().__init__()
        self.detector = detector
        self.levels = dict(levels)

    @torch.no_grad()
    def forward(self, images_2x: list[Tensor]) -> list[Detections]:
        """Detect in 1x pixels, given the 2x images ``(3, 2h, 2w)``."""
        images_1x = [F.avg_pool2d(image, 2) for image in images_2x]
        batch, batch_2x = self.detector.batch_pair(images_1x, images_2x)
        features = dict(self.detector.backbone.pyramid(batch.tensors).output)
        targets = self.detector.backbone.pyramid(batch_2x).output
        features |= {level: targets[source] for level, source in self.levels.items()}
        return self.detector.detections(features, batch)


@torch.no_grad()
def on_p3_ext(detector: EFPNDetector, images_1x: list[Tensor], images_2x: list[Tensor]) -> list[Detections]:
    """Detection on P3' itself (Table V), as what it imitates: the level-3 map of the 2x image.

    Args:
        detector: with an extension and a ``small`` rule that sends every RoI to ``p3_ext``.
        images_1x: ``(3, h, w)`` each; the boxes are in their pixels.
        images_2x: of each, twice the size.
    """
    batch, double = detector.batch_pair(images_1x, images_2x)
    backbone = detector.backbone
    pyramid, fine = backbone.prepare(batch.tensors, double)
    p3_ext, _ = backbone.extension.extend(backbone, pyramid, fine)
    if backbone.extension.source == "inner":  # heads read output maps
        p3_ext = backbone.fpn.layer_blocks[1](p3_ext)
    return detector.detections({**pyramid.output, "p3_ext": p3_ext}, batch)


@torch.no_grad()
def half_oracle(
    detector: EFPNDetector, part: str, images_1x: list[Tensor], images_2x: list[Tensor]
) -> list[Detections]:
    """An extended detector with one part of what makes P2' taken from the 2x image: what that part still loses.

    Args:
        detector: with an `Extension`.
        part: ``c2`` puts the true C2 in the place of C2', ``c3`` the true C3 in that of C3' (or, in the paper's form,
            the true P3 in that of P3'), ``p4`` the true P4 in that of P4', or of what the upsampler makes of P3 for it.
        images_1x: ``(3, h, w)`` each; the boxes are in their pixels.
        images_2x: of each, twice the size.

    Raises:
        ValueError: no such part.
    """
    batch, double = detector.batch_pair(images_1x, images_2x)
    backbone = detector.backbone
    extension = backbone.extension
    pyramid, fine = backbone.prepare(batch.tensors, double)
    true = backbone.body(double)
    second = backbone.fpn(true)
    stages = extension.second_pass(backbone.body, fine)
    names = [level.name for level in backbone.body.levels[: extension.last_stage - 1]]
    if part not in (*names, "c3", "p4"):
        raise ValueError(f"half_oracle: no part {part}; of {', '.join(names)}, c3 and p4")
    if part in names:
        stages[names.index(part)] = true[part]
    p3_ext, _ = extension(extension.sources(pyramid), stages)
    if part == "p4":
        p3_ext = upsample2x(second.inner["p4"])
        p3_ext = p3_ext if extension.last_stage == 2 else extension.merged(3, stages[1], p3_ext)
    elif part == "c3" and extension.last_stage == 2:
        p3_ext = extension.sources(second)["p3"]
    p2_ext = extension.merged(2, stages[0], upsample2x(p3_ext))
    return detector.detections({**pyramid.output, "p2_ext": p2_ext}, batch)


@torch.no_grad()
def multi_scale(detector: EFPNDetector, scales: Sequence[float], images_2x: list[Tensor]) -> list[Detections]:
    """Multi-scale test (Table VI): the detections at several sizes of an image, united by NMS per class.

    Args:
        detector: any.
        scales: sizes relative to the 1x image, above 0 and up to 2, beyond which no detail comes.
        images_2x: ``(3, 2h, 2w)`` each, of which all sizes are made; the boxes are in 1x pixels.
    """
    found = [_at_scale(detector, scale, images_2x) for scale in scales]
    united = []
    for of_one in zip(*found, strict=True):
        boxes, scores, labels = (torch.cat([one[key] for one in of_one]) for key in ("boxes", "scores", "labels"))
        kept = batched_nms(boxes, scores, labels, detector.nms_thresh)[: detector.detections_per_img]
        united.append(Detections(boxes=boxes[kept], scores=scores[kept], labels=labels[kept]))
    return united


def _at_scale(detector: EFPNDetector, scale: float, images_2x: list[Tensor]) -> list[Detections]:
    images = [resized(image, scale / 2) for image in images_2x]
    doubled = None
    if detector.backbone.reads_2x:
        doubled = [
            to_size(big, [2 * side for side in small.shape[-2:]]) for big, small in zip(images_2x, images, strict=True)
        ]
    found = detector(images, images_2x=doubled)
    for one, big, small in zip(found, images_2x, images, strict=True):
        one["boxes"] = resize_boxes(one["boxes"], list(small.shape[-2:]), [side // 2 for side in big.shape[-2:]])
    return found


def resized(image: Tensor, factor: float) -> Tensor:
    """A ``(3, h, w)`` image made smaller by ``factor``; the half is the 2x2 mean, as everywhere else."""
    if factor == 0.5:
        return F.avg_pool2d(image, 2)
    return to_size(image, [round(side * factor) for side in image.shape[-2:]])
