"""timm's convolutional networks as backbones, by way of its ``features_only``."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from efpn.errors import UserError
from efpn.pyramid.backbones import NAMES, STRIDES, Backbone, FrozenBatchNorm, read_weights, without_counters
from efpn.types import LevelSpec
from efpn.weights import require_fit


class Timm(Backbone):
    """A network of timm that is a chain of layers with maps at strides 4, 8, 16 and 32 (ConvNeXt, RegNet, ResNet).

    Networks with a stride-2 stem and a pooling layer after it (timm's ResNets) give the paper's C2' too; the others
    have C2' of an image of twice the size alone (``detail=doubled`` or ``image_2x``).

    Args:
        name: of the network, ``timm.list_models()`` tells them.
        weights: ``imagenet`` (timm's default for this name, downloaded), a local file with timm's state dict, or None
            for random weights.
        norm: ``frozen`` keeps batch-norm statistics as loaded; ``batch`` learns them. Other norms are as they are.
        trainable_stages: see `Backbone.freeze`.

    Raises:
        UserError: timm is not installed, the name is unknown, the network is no such chain (transformers,
            EfficientNets), a download that failed, or a file that does not fit.
    """

    def __init__(
        self, name: str, weights: str | None = "imagenet", norm: str = "frozen", trainable_stages: int = 3
    ) -> None:
        super().__init__()
        self.net = _features_of(name, pretrained=weights == "imagenet")
        if norm == "frozen":
            freeze_norms(self.net)
        if weights not in (None, "imagenet"):
            self._load(str(weights), name)
        depths = self.net.feature_info.channels()[-len(NAMES) :]
        self.levels = tuple(LevelSpec(*level) for level in zip(NAMES, STRIDES, depths, strict=True))
        self.mean, self.std = (tuple(self.net.pretrained_cfg[key]) for key in ("mean", "std"))
        self._split(name)
        self.freeze(trainable_stages)

    @torch.no_grad()
    def _split(self, name: str, side: int = 64) -> None:
        """Find where the entry ends, at the first layer of stride 4, and whether that layer only pools."""
        names = list(self.net)
        self.net.eval()
        sizes, found = [], torch.zeros(1, 3, side, side)
        try:
            for layer in names:
                found = self.net[layer](found)
                sizes.append(tuple(found.shape[-2:]))
        except AssertionError as error:
            raise UserError(f"backbone.name={name}: takes images of one size alone ({error})") from error
        self.net.train()
        if (side // STRIDES[0],) * 2 not in sizes:
            raise UserError(f"backbone.name={name}: its maps are not (N, C, h, w); use a convolutional network")
        last = sizes.index((side // STRIDES[0],) * 2)
        learned = any(True for _ in self.net[names[last]].parameters())
        self._stem = names[:last] if last and not learned and sizes[last - 1] == (side // 2,) * 2 else None
        self._entry = names[: last + 1]
        ends = [one.replace(".", "_") for one in self.net.feature_info.module_name()[-len(NAMES) :]]
        bounds = [last + 1, *(names.index(end) + 1 for end in ends)]
        self._stages = [names[first:end] for first, end in pairwise(bounds)]

    def _chain(self, names: Sequence[str]) -> nn.Module:
        return nn.Sequential(*(self.net[name] for name in names))

    @property
    def stem(self) -> nn.Module | None:
        """See `Backbone.stem`."""
        return None if self._stem is None else self._chain(self._stem)

    @property
    def pool(self) -> nn.Module:
        """See `Backbone.pool`."""
        return self.net[self._entry[-1]]

    @property
    def entry(self) -> nn.Module:
        """See `Backbone.entry`."""
        return self._chain(self._entry)

    @property
    def stages(self) -> Sequence[nn.Module]:
        """See `Backbone.stages`."""
        return [self._chain(names) for names in self._stages]

    def _load(self, path: str, name: str) -> None:
        """Load timm's state dict from a local file; ``features_only`` calls ``stages.0`` ``stages_0``."""
        children = {".".join(child.rsplit("_", 1)): child for child in self.net if "_" in child}
        own, state = without_counters(self.net.state_dict()), {}
        with torch.serialization.safe_globals([argparse.Namespace]):  # options, from timm's train.py
            given = read_weights(path)
        for key, value in given.items():
            key = key.removeprefix("module.").removeprefix("_orig_mod.")  # of several processes, of torch.compile
            dotted = next((old for old in children if key.startswith(f"{old}.")), None)
            key = key.replace(dotted, children[dotted], 1) if dotted else key
            if key in own:  # not the classifier
                state[key] = value.float()
        require_fit(state, own, f"backbone.weights={path}", f"give timm's own state dict of {name}")
        self.net.load_state_dict(state, strict=False)


class FrozenNormAct(FrozenBatchNorm):
    """A batch-norm of timm's, frozen, with the dropout and the activation that some of them bring along.

    timm's own ``freeze_batch_norm_2d`` promotes maps to float32 under autocast, as torchvision's does.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features, norm.eps)
        self.load_state_dict(norm.state_dict(), strict=False)  # one that is not affine has neither weight nor bias
        self.drop, self.act = (getattr(norm, name, nn.Identity()) for name in ("drop", "act"))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(N, C, h, w)`` and activate it."""
        return self.act(self.drop(super().forward(x)))


def freeze_norms(module: nn.Module) -> None:
    """Put a frozen norm in the place of every batch-norm inside of ``module``."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            module.add_module(name, FrozenNormAct(child))
        else:
            freeze_norms(child)


def _features_of(name: str, pretrained: bool) -> Any:
    try:
        import timm
        from timm.models import FeatureListNet
    except ImportError as error:
        raise UserError("backbone=timm: needs timm, not installed here; pip install -e '.[timm]'") from error
    if not timm.is_model(name.partition(".")[0]):
        near = ", ".join(difflib.get_close_matches(name, timm.list_models(), 5))
        raise UserError(f"backbone.name={name}: timm has no such network" + (f"; it has {near} ..." if near else ""))
    try:
        net: Any = timm.create_model(name, features_only=True, pretrained=pretrained)
    except (OSError, RuntimeError, AttributeError, NotImplementedError) as error:
        if pretrained:
            raise UserError(
                f"backbone.weights=imagenet: timm's weights of {name} could not be had ({str(error)[:200]}). Offline: "
                "copy their file here and give its path as backbone.weights=FILE, or backbone.weights=null"
            ) from error
        raise UserError(f"backbone.name={name}: gives no maps by features_only ({error})") from error
    reductions = net.feature_info.reduction()
    if not isinstance(net, FeatureListNet) or list(reductions[-4:]) != list(STRIDES):
        raise UserError(
            f"backbone.name={name}: is no chain of layers with maps at strides 4, 8, 16 and 32 (it has "
            f"{reductions}); ConvNeXt, RegNet, ResNet are"
        )
    return net
