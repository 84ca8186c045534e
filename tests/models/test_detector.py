"""The detector in torchvision's calling convention, the oracle, and golden losses."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from efpn.models import (
    FTT,
    Doubled,
    EFPNDetector,
    Extension,
    Image2x,
    Nearest,
    Oracle,
    Resize,
    ResNet,
    RoISettings,
    RPNSettings,
    SmallRoIs,
    Tiles,
    build_faster_rcnn,
    fasterrcnn_resnet50_efpn,
    make_extension,
)
from efpn.models.detector import make_transform

RPN = RPNSettings(anchor_sizes=(8, 16, 32, 64, 128), post_nms_top_n=(100, 50))
ROI = RoISettings(head_width=16, batch_size=16, score_thresh=0.0)


def detector(extended: bool = True, own_head: bool = True) -> EFPNDetector:
    torch.manual_seed(0)
    resnet = ResNet("resnet18", weights=None, norm="batch", trainable_stages=5)

    def extension(stage_channels: Sequence[int], channels: int) -> Extension:
        return Extension(FTT(channels, width=8), stage_channels[:1], channels)

    small = SmallRoIs(32, own_head=own_head) if extended else None
    return build_faster_rcnn(
        resnet, 4, channels=8, extension=extension if extended else None, rpn=RPN, roi=ROI, small=small
    )


def batch() -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(3, 96, 128, generator=generator), torch.rand(3, 64, 64, generator=generator)]
    boxes = torch.tensor([[10.0, 10, 26, 30], [40.0, 20, 100, 80]])
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    return images, [{"boxes": boxes, "labels": torch.tensor([1, 3])}, empty]


@pytest.mark.slow
@pytest.mark.parametrize("ftt_width", [8, None])
def test_gives_losses_in_training_and_detections_in_eval(ftt_width: int | None) -> None:
    model = fasterrcnn_resnet50_efpn(
        4, arch="resnet18", weights_backbone=None, small_roi_below=32, ftt_width=ftt_width, resize=Resize(64, 128)
    )
    images, targets = batch()
    losses = model.train()(images, targets)
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    found = model.eval()(images)
    assert [set(one) for one in found] == [{"boxes", "labels", "scores"}] * 2
    assert (found[0]["boxes"][:, 2] <= 128).all() and (found[0]["boxes"][:, 3] <= 96).all()


def test_a_plain_fpn_detector_is_torchvisions() -> None:
    ours = detector(extended=False).eval()
    reference = FasterRCNN(
        copy.deepcopy(ours.backbone),
        rpn_anchor_generator=AnchorGenerator(tuple((s,) for s in RPN.anchor_sizes), ((0.5, 1.0, 2.0),) * 5),
        rpn_pre_nms_top_n_test=1000,
        rpn_post_nms_top_n_test=50,
        box_roi_pool=MultiScaleRoIAlign(["p2", "p3", "p4", "p5"], 7, 2),
        box_head=TwoMLPHead(8 * 49, 16),
        box_predictor=FastRCNNPredictor(16, 4),
        box_score_thresh=0.0,
    ).eval()
    reference.transform = ours.transform
    reference.load_state_dict(ours.state_dict())  # the same names, so torchvision's own checkpoints fit too
    images, _ = batch()
    for mine, theirs in zip(ours(images), reference(images), strict=True):
        for key in ("boxes", "labels", "scores"):
            torch.testing.assert_close(mine[key], theirs[key])


@pytest.mark.parametrize("resize", [None, Resize(128, 256)])
def test_an_image_that_is_all_crowd_teaches_no_background(resize: Resize | None) -> None:
    images, targets = batch()
    targets[1]["ignore_boxes"] = torch.tensor([[0.0, 0, 64, 64]])
    model = detector()
    model.transform = make_transform(model.backbone, resize)
    torch.manual_seed(3)
    losses = model.train()(images[1:], targets[1:])  # alone: no object, nothing but the crowd
    assert losses["loss_classifier"].item() == 0 and losses["loss_box_reg"].item() == 0
    packed, scaled = model.transform(images[1:], targets[1:])
    anchors = model.rpn.anchor_generator(packed, [torch.zeros(1, 1, 128 // s, 128 // s) for s in (4, 8, 16, 32, 64)])
    (labels,), _ = model.rpn.assign_targets_to_anchors(anchors, scaled)
    width, height = (anchors[0][:, 2:].clamp(max=packed.image_sizes[0][0]) - anchors[0][:, :2].clamp(min=0)).unbind(1)
    outside = width.clamp(min=0) * height.clamp(min=0) / (anchors[0][:, 2:] - anchors[0][:, :2]).prod(1) < 0.5
    assert torch.equal(labels == 0, outside) and outside.any() and not outside.all()
    both = model(images, targets)
    assert all(loss.isfinite() for loss in both.values())


@pytest.mark.parametrize("training", [True, False])
def test_images_that_come_at_their_size_keep_it(training: bool) -> None:
    images, targets = batch()
    packed, same = detector().train(training).transform(images, targets)
    assert packed.image_sizes == [(96, 128), (64, 64)] and packed.tensors.shape == (2, 3, 96, 128)
    assert torch.equal(same[0]["boxes"], targets[0]["boxes"])


def test_boxes_stay_in_float32_under_autocast() -> None:
    model = detector()
    images, targets = batch()
    with torch.autocast("cpu", torch.bfloat16):
        packed, scaled = model.transform(images, targets)
        features = model.backbone(packed.tensors)
        assert features["p2"].dtype == torch.bfloat16
        proposals, _ = model.eval().rpn(packed, features)
        rois, _, deltas = model.roi_heads.small_candidates(proposals, scaled)
        losses = model.train()(images, targets)
        found = model.eval()(images)
    for boxes in (*proposals, *rois, *deltas, *(one["boxes"] for one in found), *(one["scores"] for one in found)):
        assert boxes.dtype == torch.float32
    assert torch.equal(rois[0][-1], targets[0]["boxes"][0])  # the ground truth, unrounded; the larger box is not small
    assert all(value.dtype == torch.float32 for value in losses.values())
    uneven = torch.cat([boxes for boxes in proposals if len(boxes)])
    assert not torch.equal(uneven, uneven.bfloat16().float())


def test_rpn_reads_the_fpn_levels_alone() -> None:
    model = detector().eval()
    images, _ = batch()
    packed, _ = model.transform(images)
    features = model.backbone(packed.tensors)
    proposals, _ = model.rpn(packed, features)
    features["p2_ext"] = torch.full_like(features["p2_ext"], float("nan"))
    again, _ = model.rpn(packed, features)
    assert all(torch.equal(a, b) for a, b in zip(proposals, again, strict=True))


def test_p2x_serves_small_rois_alone() -> None:
    model = detector().eval()
    features = model.backbone(torch.rand(1, 3, 128, 128))
    large = [torch.tensor([[5.0, 5, 80, 80], [20.0, 30, 110, 120]])]
    expected = model.roi_heads.box_outputs(features, large, [(128, 128)])
    features["p2_ext"] = torch.full_like(features["p2_ext"], float("nan"))
    got = model.roi_heads.box_outputs(features, large, [(128, 128)])
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))


def test_batch_pair_is_an_exact_half_whatever_the_sizes() -> None:
    model = detector()
    images_2x = [torch.rand(3, 100, 140), torch.rand(3, 66, 62)]
    images_1x = [F.avg_pool2d(image, 2) for image in images_2x]
    batch_1x, batch_2x = model.batch_pair(images_1x, images_2x)
    assert batch_1x.tensors.shape == (2, 3, 64, 96) and batch_2x.shape == (2, 3, 128, 192)
    torch.testing.assert_close(F.avg_pool2d(batch_2x, 2), batch_1x.tensors, rtol=1e-4, atol=1e-5)


def test_oracle_pools_small_rois_from_p2_of_the_2x_image() -> None:
    model = detector(own_head=False).eval()
    images_2x = [torch.rand(3, 128, 192)]
    found = Oracle(model)(images_2x)[0]
    assert len(found["boxes"]) and (found["boxes"][:, 2] <= 96).all()
    taught = copy.deepcopy(model)
    target = model.backbone.pyramid(model.batch_pair([F.avg_pool2d(images_2x[0], 2)], images_2x)[1]).output["p2"]
    taught.backbone.extension.extend = lambda *given: (target, target)  # type: ignore[method-assign]
    expected = taught([F.avg_pool2d(images_2x[0], 2)])[0]
    torch.testing.assert_close(found["boxes"], expected["boxes"], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found["scores"], expected["scores"], rtol=1e-4, atol=1e-5)


GOLDEN = {
    "loss_classifier": 1.38769,
    "loss_box_reg": 0.039372,
    "loss_objectness": 0.692878,
    "loss_rpn_box_reg": 0.0034291,
}


def test_golden_losses() -> None:
    model = detector().train()
    torch.manual_seed(2)
    losses = model(*batch())
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(GOLDEN, rel=1e-2)


def test_proposals_of_low_objectness_are_dropped_in_testing_alone() -> None:
    model = detector()
    features = model.backbone(torch.rand(1, 3, 128, 128))
    images = ImageList(torch.zeros(1, 3, 128, 128), [(128, 128)])
    model.rpn.test_score_thresh = 0.9999
    assert not len(model.rpn.eval()(images, features)[0][0])
    targets = [{"boxes": torch.tensor([[10.0, 10.0, 40.0, 40.0]])}]
    assert len(model.rpn.train()(images, features, targets)[0][0])
    assert len(model.rpn.eval()(images, features, targets)[0][0])  # finetuning, where the RPN is frozen


def test_a_detector_that_resizes_makes_the_2x_image_of_the_file_itself() -> None:
    model = fasterrcnn_resnet50_efpn(4, arch="resnet18", weights_backbone=None, resize=Resize(64, 128)).eval()
    seen: list[torch.Tensor] = []
    model.backbone.body.conv1.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    model.backbone.tiles = None
    image = torch.rand(3, 128, 160)  # its shorter side is that of the 2x image: 1x is 64 x 80, padded to 64 x 96
    with torch.no_grad():
        model([image])
    assert [tuple(one.shape) for one in seen] == [(1, 3, 64, 96), (1, 3, 128, 192)]
    torch.testing.assert_close(seen[1][0, :, :, :160], model.transform.normalize(image))
    assert not seen[1][..., 160:].any()
    with torch.no_grad():  # given at another size than the detector's own
        model([image], images_2x=[F.interpolate(image[None], scale_factor=0.5)[0]])
    assert tuple(seen[3].shape) == (1, 3, 128, 192) and seen[3][0, :, 127, 159].any()


def test_2x_images_are_asked_for_where_the_detector_does_not_resize() -> None:
    extension = partial(make_extension, Nearest, last_stage=3)
    resnet = ResNet("resnet18", weights=None)
    small = SmallRoIs(32, own_head=True)
    model = build_faster_rcnn(
        resnet, 4, channels=8, rpn=RPN, roi=ROI, small=small, extension=extension, detail=Image2x()
    )
    images, targets = batch()
    with pytest.raises(ValueError, match="call the detector with images_2x="):
        model.eval()(images)
    doubled = [F.interpolate(image[None], scale_factor=2)[0] for image in images]
    assert len(model(images, images_2x=doubled)) == 2
    with pytest.raises(ValueError, match="give each at twice the size of its 1x image"):
        model(images, images_2x=images)
    assert "loss_box_reg" in model.train()(images, targets, doubled)
    with pytest.raises(ValueError, match="target 0 holds a box without width or height"):
        model(images, [{**target, "boxes": target["boxes"][:, [0, 1, 0, 3]]} for target in targets], doubled)
    with pytest.raises(ValueError, match="in training the detector needs targets"):
        model(images)


def test_tiles_serve_nothing_where_small_rois_read_another_level() -> None:
    extension = partial(make_extension, Nearest, last_stage=3)
    small, resnet = SmallRoIs(32, level="p3_ext"), ResNet("resnet18", weights=None)
    model = build_faster_rcnn(
        resnet, 4, channels=8, rpn=RPN, roi=ROI, small=small, extension=extension, detail=Doubled(), tiles=Tiles()
    )
    with torch.no_grad():  # when tiles are computed, and p3_ext is not
        assert len(model.eval()(batch()[0])) == 2
