"""RetinaNet and FCOS with the extended level: torchvision's own results, and P2' as one more level of the head."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torchvision.models import detection as tv
from torchvision.models.detection.anchor_utils import AnchorGenerator

from efpn.errors import UserError
from efpn.models import (
    Extension,
    FCOSSettings,
    Image2x,
    ResNet,
    RetinaNetSettings,
    SmallRoIs,
    build_fcos,
    build_retinanet,
    make_extension,
)
from efpn.models.dense import OCTAVES, DenseDetector
from efpn.pyramid.upsamplers import Nearest

SETTINGS = {
    build_retinanet: RetinaNetSettings((8, 16, 32, 64, 128), score_thresh=0.005, detections_per_image=20),
    build_fcos: FCOSSettings(score_thresh=0.05, detections_per_image=20),
}
BUILDERS = pytest.mark.parametrize("build", [build_retinanet, build_fcos])


def extension(stage_channels: Sequence[int], channels: int) -> Extension:
    return make_extension(Nearest, stage_channels, channels, last_stage=3)


def detector(build, small: SmallRoIs | None = None) -> DenseDetector:
    torch.manual_seed(0)
    parts = {"extension": extension, "detail": Image2x()} if small and small.level == "p2_ext" else {}
    backbone = ResNet("resnet18", weights=None, norm="batch", trainable_stages=5)
    return build(backbone, 4, channels=32, dense=SETTINGS[build], small=small, **parts)


def batch() -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(3, 96, 128, generator=generator), torch.rand(3, 64, 64, generator=generator)]
    targets = [
        {"boxes": torch.tensor([[10.0, 12, 20, 22], [30, 30, 90, 80]]), "labels": torch.tensor([3, 1])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    doubled = [torch.nn.functional.interpolate(one[None], scale_factor=2.0)[0] for one in images]
    return images, targets, doubled


@BUILDERS
def test_without_an_extension_it_is_torchvisions(build) -> None:
    ours = detector(build)
    numbers = {"score_thresh": ours.score_thresh, "nms_thresh": ours.nms_thresh, "detections_per_img": 20}
    if build is build_retinanet:
        sizes = tuple(tuple(size * octave for octave in OCTAVES) for size in (8, 16, 32, 64, 128))
        kind, anchors = tv.RetinaNet, AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5)
    else:
        kind, anchors = tv.FCOS, AnchorGenerator(((4,), (8,), (16,), (32,), (64,)), ((1.0,),) * 5)
    theirs = kind(ours.backbone, 3, anchor_generator=anchors, head=ours.head, **numbers)
    theirs.transform = ours.transform
    images, targets, _ = batch()
    for model in (ours, theirs):
        model.train()
    shifted = [{**target, "labels": target["labels"] - 1} for target in targets]
    losses, expected = ours(images, targets), theirs(images, shifted)
    assert {name.removeprefix("loss_") for name in losses} == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(losses[f"loss_{name}"], value)
    found, reference = ours.eval()(images), theirs.eval()(images)
    assert len(found[0]["scores"]) > 5
    for one, other in zip(found, reference, strict=True):
        assert torch.equal(one["boxes"], other["boxes"]) and torch.equal(one["labels"], other["labels"] + 1)


@BUILDERS
@pytest.mark.parametrize("own_head", [False, True])
def test_the_extended_level_joins_the_others(build, own_head: bool) -> None:
    model = detector(build, SmallRoIs(32, own_head=own_head))
    images, targets, doubled = batch()
    plain = detector(build)
    counts = [len(one.anchor_generator(*_maps(one, images, doubled))[0]) for one in (plain, model)]
    each = 9 if build is build_retinanet else 1
    assert counts[1] - counts[0] == each * (96 // 2) * (128 // 2)  # cells of stride 2
    losses = model.train()(images, targets, doubled)
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert model.backbone.extension.laterals[0].weight.grad.abs().sum() > 0
    if own_head:
        assert all(p.grad is not None for p in model.small_head.parameters())
    found = model.eval()(images, images_2x=doubled)
    assert all(((one["labels"] >= 1) & (one["labels"] <= 3)).all() for one in found)


def _maps(model: DenseDetector, images: list[torch.Tensor], doubled: list[torch.Tensor]):
    packed, big = model.batch_pair(images, doubled)
    maps = model.backbone(packed.tensors, big)
    return packed, [maps[name] for name in model.level_names]


@BUILDERS
def test_a_head_of_its_own_begins_as_the_other_and_says_the_same(build) -> None:
    shared, own = (detector(build, SmallRoIs(32, own_head=flag)).eval() for flag in (False, True))
    state = shared.state_dict()
    own.load_state_dict({**own.state_dict(), **state})
    own.starters()["small_head."]()
    images, _, doubled = batch()
    for one, other in zip(shared(images, images_2x=doubled), own(images, images_2x=doubled), strict=True):
        assert torch.equal(one["boxes"], other["boxes"]) and torch.equal(one["scores"], other["scores"])


@BUILDERS
def test_nothing_in_a_crowd_region_is_background(build) -> None:
    """An image that is all crowd has no classification loss at all; half of it has about half."""
    model = detector(build).train()
    images, targets, _ = batch()
    empty = targets[1]
    losses = {}
    for name, region in {"none": None, "left": [0.0, 0, 32, 64], "all": [-64.0, -64, 128, 128]}.items():
        target = empty if region is None else {**empty, "ignore_boxes": torch.tensor([region])}
        losses[name] = model(images[1:] * 2, [target] * 2)["loss_classification"].item()
    assert losses["all"] < 0.05 * losses["none"]  # anchors that reach far out of the image are left
    assert 0.3 * losses["none"] < losses["left"] < 0.7 * losses["none"]


def test_anchor_sizes_that_the_levels_cannot_share_out_are_refused() -> None:
    with pytest.raises(UserError, match=r"model.dense.anchor_sizes=\[8, 16\]: give 5 sizes"):
        RetinaNetSettings((8, 16))


@BUILDERS
def test_a_level_that_no_dense_head_reads_is_refused(build) -> None:
    with pytest.raises(UserError, match=r"model.small.level=p3: a dense head reads p2 or p2_ext"):
        detector(build, SmallRoIs(32, level="p3"))
