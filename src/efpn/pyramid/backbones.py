"""Backbones: images in, C2 to C5 out. Their entry and first stages can be run by themselves, for C2', C3' ...

A new one is a `Backbone` that names its parts; what is built of it (pyramid, extension, tiles) follows from its levels.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock
from torchvision.models.resnet import ResNet as TorchvisionResNet
from torchvision.ops import FrozenBatchNorm2d

from efpn.errors import UserError
from efpn.types import LevelSpec
from efpn.weights import read_tensors, require_fit

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NAMES, STRIDES = ("c2", "c3", "c4", "c5"), (4, 8, 16, 32)


class Backbone(nn.Module, abc.ABC):
    """A convolutional backbone in parts: entry, and four stages that give C2 to C5."""

    levels: tuple[LevelSpec, ...]  # a `LevelSpec` for each of ``c2 .. c5``; strides are 4, 8, 16, 32
    mean: Sequence[float] = IMAGENET_MEAN  # of the pixels that it was trained on, RGB in [0, 1]
    std: Sequence[float] = IMAGENET_STD  # likewise

    @property
    @abc.abstractmethod
    def entry(self) -> nn.Module:
        """All before stage 2: images ``(N, 3, H, W)`` to ``(N, any, H/4, W/4)``."""

    @property
    @abc.abstractmethod
    def stages(self) -> Sequence[nn.Module]:
        """Stages 2 to 5, each on the map of the one before it."""

    @property
    def stem(self) -> nn.Module | None:
        """The entry without its last, pooling layer: images to what stage 2 can read at ``(N, any, H/2, W/2)``.

        None where the entry has no such layer: C2' cannot be made of the stem's map then (`efpn.models.Stem`).
        """
        return None

    @property
    def pool(self) -> nn.Module:
        """What turns the stem's map into that of the entry."""
        raise NotImplementedError(f"{type(self).__name__} has no stem of stride 2")

    def forward(self, images: Tensor, stem: bool = False) -> dict[str, Tensor]:
        """Run all parts.

        Args:
            images: ``(N, 3, H, W)`` normalised images.
            stem: also return the stem's map.

        Returns:
            ``c2 .. c5`` at strides 4 to 32 and, if asked for, ``c1`` at stride 2.
        """
        maps = {}
        if stem:
            assert self.stem is not None, "asked for by nothing but efpn.models.Stem, which checks it"
            maps["c1"] = self.stem(images)
        found = self.pool(maps["c1"]) if stem else self.entry(images)
        for level, stage in zip(self.levels, self.stages, strict=True):
            found = maps[level.name] = stage(found)
        return maps

    def freeze(self, trainable_stages: int) -> None:
        """Leave a gradient to the last ``trainable_stages`` of the five: entry and stages 2 to 5.

        Raises:
            UserError: there are not so many.
        """
        parts = [*reversed(self.stages), self.entry]
        if not 0 <= trainable_stages <= len(parts):
            raise UserError(f"backbone.trainable_stages={trainable_stages}: must lie between 0 and {len(parts)}")
        for part in parts[trainable_stages:]:
            part.requires_grad_(False)


class FrozenBatchNorm(FrozenBatchNorm2d):
    """torchvision's frozen batch-norm through the fused kernel, which keeps bf16 maps in bf16.

    torchvision multiplies by float32 scales, so that under autocast every map of the backbone is promoted to float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(N, C, h, w)`` by the loaded statistics."""
        mean, variance = self.running_mean, self.running_var
        return F.batch_norm(x, mean, variance, self.weight, self.bias, training=False, eps=self.eps)


RESNET10 = "resnet10"  # one block a stage; torchvision has none
NORMS: dict[str, Callable[..., nn.Module]] = {"frozen": FrozenBatchNorm, "batch": nn.BatchNorm2d}


class ResNet(Backbone):
    """A torchvision ResNet without its classifier, under torchvision's own parameter names.

    Args:
        arch: ``resnet18``, ``resnet34``, ``resnet50``, ``resnet101``, ``resnext50_32x4d``, ``resnext101_32x8d`` or any
            other ResNet of torchvision; or ``resnet10``, with one block a stage where resnet18 has two.
        weights: ``imagenet`` (torchvision's IMAGENET1K_V1, downloaded), a local file with a torchvision state dict, or
            None for random weights.
        norm: ``frozen`` keeps the loaded batch-norm statistics for good; ``batch`` learns them (use it from scratch).
        trainable_stages: how many of the five stages learn, counted from the top; 3 leaves the stem and stage 2 as
            loaded, as torchvision's detectors do.

    Raises:
        UserError: an unknown ``arch``, a download that failed, or a file that does not fit.
    """

    def __init__(
        self, arch: str = "resnet50", weights: str | None = "imagenet", norm: str = "frozen", trainable_stages: int = 3
    ) -> None:
        super().__init__()
        net = _torchvision_resnet(arch, NORMS[norm])
        self.conv1, self.bn1, self.relu, self.maxpool = net.conv1, net.bn1, net.relu, net.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4
        depths = [net.fc.in_features // share for share in (8, 4, 2, 1)]
        self.levels = tuple(LevelSpec(*level) for level in zip(NAMES, STRIDES, depths, strict=True))
        if weights is not None:
            self.load_weights(weights, arch)
        self.freeze(trainable_stages)

    @property
    def stem(self) -> nn.Module:
        """Convolution, norm and ReLU: ``(N, 64, H/2, W/2)``."""
        return nn.Sequential(self.conv1, self.bn1, self.relu)

    @property
    def pool(self) -> nn.Module:
        """The max-pool."""
        return self.maxpool

    @property
    def entry(self) -> nn.Module:
        """Stem and max-pool: ``(N, 64, H/4, W/4)``."""
        return nn.Sequential(self.conv1, self.bn1, self.relu, self.maxpool)

    @property
    def stages(self) -> Sequence[nn.Module]:
        """torchvision's four layers."""
        return self.layer1, self.layer2, self.layer3, self.layer4

    def load_weights(self, weights: str, arch: str) -> None:
        """Load ImageNet weights by name or from a local file, strictly but for the classifier ``fc``."""
        state = _downloaded(arch) if weights == "imagenet" else read_weights(weights)
        state = without_counters({k: v.float() for k, v in state.items() if not k.startswith("fc.")})
        own = without_counters(self.state_dict())
        require_fit(state, own, f"backbone.weights={weights}", f"give torchvision's {arch}")
        self.load_state_dict(state, strict=False)


def without_counters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without the batches that batch-norms have counted, which not every file has."""
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


def read_weights(path: str) -> dict[str, Tensor]:
    """A file's state dict, also where it lies there as ``state_dict`` or ``model`` (raises `UserError`: none)."""
    state = read_tensors(Path(path), "weights file", "give backbone.weights=FILE")
    state = state.get("state_dict", state.get("model", state))
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"weights file {path}: holds no state dict (name -> tensor); save model.state_dict()")
    return state


def _torchvision_resnet(arch: str, norm: Callable[..., nn.Module]) -> Any:
    if arch == RESNET10:
        return TorchvisionResNet(BasicBlock, [1, 1, 1, 1], norm_layer=norm)
    known = [name for name in torchvision.models.list_models(module=torchvision.models) if name.startswith("resne")]
    if arch not in known:
        raise UserError(f"backbone.arch={arch}: unknown; use {RESNET10} or torchvision's {', '.join(known)}")
    return torchvision.models.get_model(arch, weights=None, norm_layer=norm)


def _downloaded(arch: str) -> dict[str, Tensor]:
    if arch == RESNET10:
        raise UserError(f"backbone.weights=imagenet: there are none of {RESNET10}; give a local file, or null")
    weights = torchvision.models.get_model_weights(arch)["IMAGENET1K_V1"]
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (URLError, OSError) as error:
        raise UserError(
            f"backbone.weights=imagenet: {weights.url} could not be downloaded ({error}). Offline: copy that file here "
            "and give its path as backbone.weights=FILE, or train from random weights with backbone.weights=null "
            "backbone.norm=batch backbone.trainable_stages=5"
        ) from error
