"""The detectors that are compared, with random weights: how long they take does not hang on the weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn
from torchvision.models import get_model
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from efpn.benchmark.options import Options
from efpn.models import (
    FTT,
    OHEM,
    Detail,
    EFPNDetector,
    Nearest,
    ResNetTrunk,
    SmallRoIs,
    Upsampler,
    build_detector,
    make_extension,
)

BRANCH_SCALE = 0.1  # of residual branches; untrained and unnormalised they would let the maps overflow


class Detectors(Protocol):
    """Where the detectors of the table come from."""

    def fpn(self) -> EFPNDetector:
        """A plain FPN."""

    def oracle(self) -> EFPNDetector:
        """A plain FPN whose small RoIs read a ``p2x`` that is given."""

    def efpn(self, whole: bool = False) -> EFPNDetector:
        """FPN with the extension and a head for small RoIs; P2' on windows, or whole."""

    def nearest(self) -> EFPNDetector:
        """The same without FTT."""

    def second_pass(self, detail: Detail) -> EFPNDetector:
        """The same with a shallow second pass on an image of twice the size in the place of C2' and FTT."""

    def reference(self) -> nn.Module:
        """torchvision's own."""


class RandomDetectors:
    """Untrained detectors of one setting.

    Args:
        options: the setting.
        ohem: mine hard small RoIs in training, as the finetuning phase does.
    """

    def __init__(self, options: Options, ohem: OHEM | None = None) -> None:
        self.options = options
        self.ohem = ohem

    def fpn(self) -> EFPNDetector:
        """A plain FPN."""
        return self._built()

    def oracle(self) -> EFPNDetector:
        """A plain FPN whose small RoIs read a ``p2x`` that is given."""
        return self._built(small=SmallRoIs(self.options.proposals.below))

    def efpn(self, whole: bool = False) -> EFPNDetector:
        """FPN, FTT of the chosen width, and a head for small RoIs; P2' on windows, or whole."""
        return self._extended(partial(FTT, width=self.options.ftt_width), whole)

    def nearest(self) -> EFPNDetector:
        """FPN, nearest upsampling in FTT's place, and a head for small RoIs."""
        return self._extended(Nearest)

    def second_pass(self, detail: Detail) -> EFPNDetector:
        """FPN, C3' and C2' of an image of twice the size, and a head for small RoIs."""
        return self._extended(partial(Nearest, blocks=2), c3=True, detail=detail)

    def reference(self) -> nn.Module:
        """torchvision's Faster R-CNN of the same trunk and depth that resizes to the size it is given.

        For ``resnet50`` and 256 channels this is ``fasterrcnn_resnet50_fpn``, part for part.
        """
        options = self.options
        torch.manual_seed(options.seed)
        trunk = get_model(options.backbone, weights=None, norm_layer=FrozenBatchNorm2d)
        trunk.requires_grad_(False)
        for stage in (trunk.layer2, trunk.layer3, trunk.layer4):  # torchvision's default of three trainable stages
            stage.requires_grad_(True)
        width = trunk.fc.in_features
        stages = {f"layer{n}": str(n - 1) for n in (1, 2, 3, 4)}
        depths = [width // 8, width // 4, width // 2, width]
        neck = BackboneWithFPN(trunk, stages, depths, options.channels, extra_blocks=LastLevelMaxPool())
        short, long = sorted((options.height, options.width))
        model = FasterRCNN(neck, options.classes, min_size=short, max_size=long)
        tame(model)
        return model

    def _extended(
        self, upsampler: Callable[..., Upsampler], whole: bool = False, c3: bool = False, detail: Detail | None = None
    ) -> EFPNDetector:
        small = SmallRoIs(self.options.proposals.below, own_head=True)
        windows = None if whole else self.options.windows
        extension = partial(make_extension, upsampler, c3=c3)
        return self._built(extension=extension, detail=detail, small=small, ohem=self.ohem, windows=windows)

    def _built(self, **parts: Any) -> EFPNDetector:
        options = self.options
        torch.manual_seed(options.seed)
        trunk = ResNetTrunk(options.backbone, weights=None, norm="frozen")
        detector = build_detector(trunk, options.classes, channels=options.channels, **parts)
        tame(detector)
        return detector.to(memory_format=options.memory_format)


def tame(model: nn.Module) -> None:
    """Scale residual branches down, so that maps keep their size through an untrained trunk, in half precision too."""
    ends = {Bottleneck: "bn3", BasicBlock: "bn2"}
    for block in model.modules():
        if type(block) in ends:
            nn.init.constant_(getattr(block, ends[type(block)]).weight, BRANCH_SCALE)


def compile_parts(model: nn.Module) -> None:
    """Let torch.compile have trunk, FPN and whole extension; windows and RoIs have other shapes in every picture."""
    backbone = getattr(model, "detector", model).backbone
    for name in ("body", "fpn", "extension"):
        part = getattr(backbone, name, None)
        if part is not None:
            part.forward = torch.compile(part.forward, dynamic=False)
