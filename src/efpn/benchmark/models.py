"""The models that are compared: of the training's own configs with random weights, or of a trained run."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final

import torch
import torchvision
from hydra.utils import instantiate
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from efpn.benchmark.inputs import Batch
from efpn.benchmark.setting import Setting
from efpn.data.dataset import halve, to_tensor
from efpn.data.images import read_image
from efpn.data.transforms import NO_BOXES, Transform
from efpn.errors import UserError
from efpn.models import EFPNDetector, FasterRCNN
from efpn.prediction.images import find_images
from efpn.runs.checkpoints import read_checkpoint
from efpn.runs.phases import changed_model, model_config
from efpn.runs.rebuild import rebuild_detector, resize_to
from efpn.runs.saved import saved_runs

BRANCH_SCALE: Final = 0.1  # of residual branches; untrained and unnormalised they would let the maps overflow


def build_row(setting: Setting, name: str) -> nn.Module:
    """The model of one of the config's ``rows``, in eval mode."""
    row = setting.cfg.rows[name]
    changes = row.get("model", {})
    if "detector" in row:
        model = instantiate(row.detector)(setting=setting)
    elif setting.run:
        model = trained_detector(setting, row.phase, changes)
    else:
        model = random_detector(setting, row.phase, changes)
    if "wrap" in row:
        model = instantiate(row.wrap, model)
    return model.eval().to(setting.device)


def random_detector(setting: Setting, phase: str, changes: Mapping[Any, Any] | None = None) -> EFPNDetector:
    """The untrained detector of a phase, changed as `changed_model` does: weights cost no time."""
    torch.manual_seed(setting.cfg.seed)
    read = {key: value for key, value in (changes or {}).items() if key not in setting.cfg.model.leaves_out}
    node = changed_model(model_config(setting.cfg, phase), read, setting.cfg)
    given = {"num_classes": setting.cfg.classes, "backbone": {"weights": None}}
    detector: EFPNDetector = instantiate(node, **given, _convert_="all")
    tame(detector)
    return detector.to(memory_format=setting.layout)


def torchvision_detector(arch: str | None, channels: int, num_classes: int, setting: Setting) -> nn.Module:
    """torchvision's Faster R-CNN of the same ResNet and depth (raises `UserError`: the backbone is no ResNet)."""
    if arch is None:
        raise UserError("torchvision's row compares ResNets; leave it out of models= or steps=")
    torch.manual_seed(setting.cfg.seed)
    resnet = get_model(arch, weights=None, norm_layer=FrozenBatchNorm2d)
    resnet.requires_grad_(False)
    for stage in (resnet.layer2, resnet.layer3, resnet.layer4):  # torchvision's default of three trainable stages
        stage.requires_grad_(True)
    width = resnet.fc.in_features
    stages = {f"layer{n}": str(n - 1) for n in (1, 2, 3, 4)}
    depths = [width // 8, width // 4, width // 2, width]
    neck = BackboneWithFPN(resnet, stages, depths, channels, extra_blocks=LastLevelMaxPool())
    short, long = sorted((setting.height, setting.width))
    model = torchvision.models.detection.FasterRCNN(neck, num_classes, min_size=short, max_size=long)
    tame(model)
    return model


def tame(model: nn.Module) -> None:
    """Scale residual branches down, so that maps keep their size through untrained stages, in half precision too."""
    ends = {Bottleneck: "bn3", BasicBlock: "bn2"}
    for block in model.modules():
        if type(block) in ends:
            nn.init.constant_(getattr(block, ends[type(block)]).weight, BRANCH_SCALE)


def trained_detector(setting: Setting, phase: str, changes: Mapping[Any, Any]) -> EFPNDetector:
    """The detector of a run's phase, of ``distill`` where it is not finetuned, with what was given of ``model``.

    Where a row's ``changes`` name another extension, its upsampler stands in for the trained one: its time is right
    then, its detections mean nothing (raises `UserError`: the phase is missing).
    """
    found = {run.phase: run for run in saved_runs(str(setting.run))}
    run = found.get(phase) or (found.get("distill") if phase == "finetune" else None)
    if run is None:
        raise UserError(f"run={setting.run}: phase {phase} is not finished there; finish it with train.py")
    given = setting.changes()
    if "tiles" in changes and "tiles" not in run.config.model.leaves_out:
        given.tiles = changes["tiles"]
    small = {**changes["small"], "below": run.config.small_roi_below} if "small" in changes else None
    detector = rebuild_detector(run, read_checkpoint(run.checkpoint), small=small, changes=given)
    if "extension" in changes:
        if detector.backbone.extension.upsampler is None:
            raise UserError(f"run={setting.run}: nothing to swap after stage 5; leave rows with another extension out")
        upsampler = instantiate(changes["extension"].upsampler, _convert_="all")
        detector.backbone.extension.upsampler = upsampler(channels=detector.backbone.out_channels)
    return detector.to(memory_format=setting.layout)


@cache
def image_batches(setting: Setting) -> list[Batch]:
    """Batches of 1x and 2x images, resized as in the run's own evaluation; at most one for each turn."""
    cfg = setting.cfg
    node = saved_runs(cfg.run)[0].config.data.eval_transform.copy()
    resize_to(node, setting.height if cfg.size else None)
    transform: Transform = instantiate(node, _convert_="all")
    paths = [image.path for image in find_images([str(cfg.images)], Path(cfg.out))]
    needed = min(cfg.repeats * cfg.batch, -(-len(paths) // cfg.batch) * cfg.batch)
    images_2x = [
        to_tensor(transform(read_image(path), NO_BOXES, factor=2, seed=0).image)
        for path in islice(cycle(paths), needed)
    ]
    return [
        ([halve(image).to(setting.device) for image in group], [image.to(setting.device) for image in group])
        for group in (images_2x[start : start + cfg.batch] for start in range(0, needed, cfg.batch))
    ]


def proposal_counts(setting: Setting) -> dict[str, float]:
    """What the run's RPN, the same in all phases, proposes in the 1x images: mean per image, and how many small."""
    row = setting.cfg.rows.oracle
    detector = trained_detector(setting, row.phase, row.model).eval().to(setting.device)
    proposed: list[Tensor] = []
    if not isinstance(detector, FasterRCNN):
        return {}  # nothing else proposes
    detector.rpn.register_forward_hook(lambda module, given, answer: proposed.extend(answer[0]))
    with torch.inference_mode(), setting.autocast():
        for images, _ in image_batches(setting):
            batch, _ = detector.transform(images)
            detector.rpn(batch, detector.backbone(batch.tensors))
    small = sum(int(detector.roi_heads.box_roi_pool.is_small(boxes).sum()) for boxes in proposed)
    return {"proposals": sum(map(len, proposed)) / len(proposed), "small": small / len(proposed)}
