"""Frozen means no gradient and eval mode, whatever train() is called with."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from efpn.errors import UserError
from efpn.losses import DualLoss
from efpn.models import FTT, EFPNDetector, Extension, ResNet, SmallRoIs, build_faster_rcnn
from efpn.tasks import DetectionTask, DistillationTask


def detector() -> EFPNDetector:
    backbone = ResNet("resnet18", weights=None, norm="batch", trainable_stages=5)

    def extension(stage_channels: Sequence[int], channels: int) -> Extension:
        return Extension(FTT(channels, width=8), stage_channels[:1], channels)

    return build_faster_rcnn(backbone, 3, channels=8, extension=extension, small=SmallRoIs(32, own_head=True))


def test_only_the_named_parts_have_a_gradient() -> None:
    task = DetectionTask(detector(), trainable=["backbone.extension.*"])
    names = {n for n, p in task.detector.named_parameters() if p.requires_grad}
    assert names and all(name.startswith("backbone.extension.") for name in names)


def test_what_is_frozen_stays_in_eval_mode() -> None:
    model = DetectionTask(detector(), trainable=["*small_head.*", "backbone.extension.*"]).train().detector
    assert model.training and model.roi_heads.training and model.backbone.extension.training
    assert not model.rpn.training and not model.backbone.fpn.training and not model.roi_heads.box_head.training
    assert not any(module.training for module in model.backbone.body.modules())


def test_everything_trains_in_the_baseline() -> None:
    model = DetectionTask(detector(), trainable=["*"]).train().detector
    assert all(module.training for module in model.modules())


def test_a_part_that_the_model_froze_stays_frozen() -> None:
    backbone = ResNet("resnet18", weights=None, norm="batch", trainable_stages=3)
    task = DetectionTask(build_faster_rcnn(backbone, 3, channels=8), trainable=["*"]).train()
    body = task.detector.backbone.body
    assert not body.layer1.training and body.layer2.training
    assert not any(p.requires_grad for p in body.layer1.parameters())


def test_a_pattern_without_a_match_is_named() -> None:
    with pytest.raises(UserError, match=r"trainable: \['neck.\*'\] matches no parameter; the model has .*rpn.head.\*"):
        DetectionTask(detector(), trainable=["neck.*"])


def batch() -> tuple[list[torch.Tensor], list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    images_2x = [torch.rand(3, 128, 128) for _ in range(2)]
    images_1x = [torch.nn.functional.avg_pool2d(image, 2) for image in images_2x]
    target = {"boxes": torch.tensor([[10.0, 10, 30, 30]]), "labels": torch.tensor([1])}
    return images_1x, images_2x, [target, target]


def test_distillation_moves_every_parameter_of_the_extension_and_nothing_else() -> None:
    model = detector()
    model.backbone.start_extension()
    task = DistillationTask(model, loss=DualLoss(), trainable=["backbone.extension.*"]).train()
    task.log_dict = lambda *args, **options: None  # type: ignore[method-assign]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for step in range(3):
        optimizer.zero_grad()
        task.training_step(batch(), step).backward()
        optimizer.step()
    for key, value in model.state_dict().items():
        moved = not torch.equal(value, before[key])
        assert moved == key.startswith("backbone.extension."), key


def test_an_extension_alone_learns_from_the_losses_of_frozen_heads() -> None:
    model = detector()
    model.backbone.start_extension()
    task = DetectionTask(model, trainable=["backbone.extension.*"]).train()
    task.log_dict = lambda *args, **options: None  # type: ignore[method-assign]
    images_1x, _, targets = batch()
    task.training_step((images_1x, targets), 0).backward()
    assert not any(module.training for module in model.roi_heads.modules() if list(module.parameters()))
    assert set(task.losses) == {"loss_classifier", "loss_box_reg", "loss"}
    assert model.backbone.extension.laterals[0].weight.grad.abs().sum() > 0


def test_the_teacher_is_the_same_network_on_the_2x_image() -> None:
    model = detector()
    task = DistillationTask(model, loss=DualLoss(), trainable=["backbone.extension.*"]).train()
    images_1x, images_2x, _ = batch()
    _, (p3, p2) = task.features(images_1x, images_2x)
    pyramid = model.eval().backbone.pyramid(model.batch_pair(images_1x, images_2x)[1])
    torch.testing.assert_close(p3, pyramid.inner["p3"])
    torch.testing.assert_close(p2, pyramid.output["p2"])
    assert not p3.requires_grad and not p2.requires_grad
    assert sum(p.numel() for p in task.parameters()) == sum(p.numel() for p in model.parameters())
