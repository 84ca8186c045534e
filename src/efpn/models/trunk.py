"""ResNet and ResNeXt trunks whose stem and first stages can be run by themselves, for C2' and C3'."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from efpn.errors import UserError


class FrozenBatchNorm(FrozenBatchNorm2d):
    """torchvision's frozen batch-norm through the fused kernel, which keeps bf16 maps in bf16.

    torchvision multiplies by float32 scales, so that under autocast every map of the trunk is promoted to float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(N, C, h, w)`` by the loaded statistics."""
        mean, variance = self.running_mean, self.running_var
        return F.batch_norm(x, mean, variance, self.weight, self.bias, training=False, eps=self.eps)


NORMS: dict[str, Callable[..., nn.Module]] = {"frozen": FrozenBatchNorm, "batch": nn.BatchNorm2d}


class ResNetTrunk(nn.Module):
    """A torchvision ResNet without its classifier, under torchvision's own parameter names.

    Args:
        arch: ``resnet18``, ``resnet34``, ``resnet50``, ``resnet101``, ``resnext50_32x4d``, ``resnext101_32x8d`` or any
            other ResNet of torchvision.
        weights: ``imagenet`` (torchvision's IMAGENET1K_V1, downloaded), a local file with a torchvision state dict, or
            None for random weights.
        norm: ``frozen`` keeps the loaded batch-norm statistics for good; ``batch`` learns them (use it from scratch).
        trainable_stages: how many of the five stages learn, counted from the top; 3 leaves the stem and stage 2 as
            loaded, as torchvision's detectors do.

    Raises:
        UserError: an unknown ``arch`` or ``norm``, a download that failed, or a file that does not fit.
    """

    def __init__(
        self, arch: str = "resnet50", weights: str | None = "imagenet", norm: str = "frozen", trainable_stages: int = 3
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise UserError(f"backbone.norm={norm}: unknown; use one of {', '.join(NORMS)}")
        net = _torchvision_resnet(arch, NORMS[norm])
        self.conv1, self.bn1, self.relu, self.maxpool = net.conv1, net.bn1, net.relu, net.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4
        width = net.fc.in_features
        self.channels = {"c2": width // 8, "c3": width // 4, "c4": width // 2, "c5": width}
        if weights is not None:
            self.load_weights(weights, arch)
        self._freeze(trainable_stages)

    def forward(self, images: Tensor, stem: bool = False) -> dict[str, Tensor]:
        """Run the stages.

        Args:
            images: ``(N, 3, H, W)`` normalised images.
            stem: also return the stem's map.

        Returns:
            ``c2 .. c5`` at strides 4 to 32 and, if asked for, ``c1`` ``(N, 64, H/2, W/2)``, the stem's map before its
            max-pool.
        """
        c1 = self.relu(self.bn1(self.conv1(images)))
        maps = {"c2": self.layer1(self.maxpool(c1))}
        maps["c3"] = self.layer2(maps["c2"])
        maps["c4"] = self.layer3(maps["c3"])
        maps["c5"] = self.layer4(maps["c4"])
        return {"c1": c1, **maps} if stem else maps

    def pooled_stem(self, images: Tensor) -> Tensor:
        """What stage 2 reads, ``(N, 64, H/4, W/4)``, of ``(N, 3, H, W)``."""
        return self.maxpool(self.relu(self.bn1(self.conv1(images))))

    def load_weights(self, weights: str, arch: str) -> None:
        """Load ImageNet weights by name or from a local file, strictly but for the classifier ``fc``."""
        state = _downloaded(arch) if weights == "imagenet" else read_state_dict(weights)
        state = {k: v.float() for k, v in state.items() if not k.startswith("fc.") and "num_batches" not in k}
        own = {k: v for k, v in self.state_dict().items() if "num_batches" not in k}
        wrong = {
            "missing": [k for k in own if k not in state],
            "unexpected": [k for k in state if k not in own],
            "of another shape": [k for k in own if k in state and own[k].shape != state[k].shape],
        }
        if any(wrong.values()):
            found = ", ".join(_few(what, keys) for what, keys in wrong.items())
            raise UserError(f"backbone.weights={weights}: does not fit {arch}: {found}; give torchvision's {arch}")
        self.load_state_dict(state, strict=False)

    def _freeze(self, trainable_stages: int) -> None:
        stages = [[self.layer4], [self.layer3], [self.layer2], [self.layer1], [self.conv1, self.bn1]]
        if not 0 <= trainable_stages <= len(stages):
            raise UserError(f"backbone.trainable_stages={trainable_stages}: must lie between 0 and {len(stages)}")
        for module in (m for stage in stages[trainable_stages:] for m in stage):
            module.requires_grad_(False)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a flat state dict with ``weights_only=True``.

    Raises:
        UserError: the file is missing, truncated or holds something else.
    """
    if not Path(path).is_file():
        raise UserError(f"weights file {path}: not found; check the path (backbone.weights=FILE)")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types for a damaged file
        raise UserError(f"weights file {path}: cannot be read ({error}); download or copy it again") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"weights file {path}: holds no state dict (name -> tensor); save model.state_dict()")
    return state


def _torchvision_resnet(arch: str, norm: Callable[..., nn.Module]) -> Any:
    known = [name for name in torchvision.models.list_models(module=torchvision.models) if name.startswith("resne")]
    if arch not in known:
        raise UserError(f"backbone.arch={arch}: unknown; torchvision offers {', '.join(known)}")
    return torchvision.models.get_model(arch, weights=None, norm_layer=norm)


def _downloaded(arch: str) -> dict[str, Tensor]:
    weights = torchvision.models.get_model_weights(arch)["IMAGENET1K_V1"]
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (URLError, OSError) as error:
        raise UserError(
            f"backbone.weights=imagenet: {weights.url} could not be downloaded ({error}). Offline: copy that file here "
            "and give its path as backbone.weights=FILE, or train from random weights with backbone.weights=null "
            "backbone.norm=batch backbone.trainable_stages=5"
        ) from error


def _few(what: str, keys: list[str]) -> str:
    shown = ", ".join(keys[:3]) + (" ..." if len(keys) > 3 else "")
    return f"{len(keys)} {what}" + (f" ({shown})" if keys else "")
