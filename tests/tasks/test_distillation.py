"""What distillation compares, wherever the detail of P2' comes from."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from efpn.losses import DualLoss
from efpn.models import (
    Detail,
    Doubled,
    Image2x,
    Nearest,
    ResNet,
    SmallRoIs,
    Stem,
    build_faster_rcnn,
    make_extension,
)
from efpn.tasks import DistillationTask


@pytest.mark.parametrize("detail", [Stem(), Doubled(), Image2x()])
def test_the_student_is_the_extension_and_the_teacher_the_2x_pass(detail: Detail) -> None:
    torch.manual_seed(0)
    backbone = ResNet("resnet18", weights=None, norm="batch", trainable_stages=5)
    extension = partial(make_extension, partial(Nearest, blocks=1), last_stage=3)
    detector = build_faster_rcnn(backbone, 4, channels=8, small=SmallRoIs(24), extension=extension, detail=detail)
    detector.backbone.start_extension()
    task = DistillationTask(detector, loss=DualLoss(), trainable=["backbone.extension.*"]).train()
    images_2x = [torch.rand(3, 128, 192)]
    images = [F.avg_pool2d(images_2x[0], 2)]
    (p3_ext, p2_ext), (p3, p2) = task.features(images, images_2x)
    backbone = detector.backbone
    with torch.no_grad():
        batch, double = detector.batch_pair(images, images_2x)
        levels = backbone.whole(batch.tensors, double)
        second = backbone.pyramid(double)
    torch.testing.assert_close(p3_ext, levels["p3_ext"])
    torch.testing.assert_close(p2_ext, levels["p2_ext"])
    torch.testing.assert_close(p3, second.inner["p3"])
    torch.testing.assert_close(p2, second.output["p2"])
    (p2_ext.sum() + p3_ext.sum()).backward()
    learned = {name for name, parameter in detector.named_parameters() if parameter.grad is not None}
    assert learned == {name for name, _ in detector.named_parameters() if name.startswith("backbone.extension.")}
