"""Detection otherwise than trained: on levels of the 2x image, on P3', at several sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from efpn.models import (
    Detail,
    Doubled,
    EFPNDetector,
    Extension,
    Image2x,
    Nearest,
    Oracle,
    ResNet,
    RoISettings,
    SmallRoIs,
    build_faster_rcnn,
    half_oracle,
    make_extension,
    multi_scale,
    on_p3_ext,
)
from efpn.models.probes import resized


def detector(level: str, extended: bool = False, source: str = "inner") -> EFPNDetector:
    """With every RoI read from ``level``."""
    torch.manual_seed(0)
    resnet = ResNet("resnet18", weights=None, norm="batch", trainable_stages=5)
    roi = RoISettings(head_width=16, score_thresh=0.0, detections_per_image=30)

    def extension(stage_channels: Sequence[int], channels: int) -> Extension:
        return Extension(Nearest(), stage_channels[:1], channels, source=source)  # type: ignore[arg-type]

    small = SmallRoIs(math.inf, level=level)
    built = build_faster_rcnn(resnet, 4, channels=8, roi=roi, small=small, extension=extension if extended else None)
    return built.eval()


def test_an_infinite_threshold_reads_every_roi_from_the_level() -> None:
    pool = detector("p3").roi_heads.box_roi_pool
    features = {f"p{i}": torch.full((1, 8, 256 // 2**i, 256 // 2**i), float(i)) for i in (2, 3, 4, 5)}
    boxes = torch.tensor([[0.0, 0, 8, 8], [10, 10, 250, 250]])
    assert (pool(features, [boxes], [(256, 256)]) == 3).all()


def test_the_target_of_p3x_is_level_3_of_the_2x_image() -> None:
    model = detector("p3_ext")
    image = torch.rand(3, 128, 192)
    seen = []
    model.roi_heads.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    Oracle(model, {"p3_ext": "p3"})([image])
    expected = model.backbone.pyramid(model.batch_pair([F.avg_pool2d(image, 2)], [image])[1]).output["p3"]
    torch.testing.assert_close(seen[0]["p3_ext"], expected)
    assert seen[0]["p3_ext"].shape == (1, 8, 16, 24)  # stride 4 of the 1x image


@pytest.mark.parametrize("source", ["inner", "output"])
def test_p3x_is_read_as_the_kind_of_map_that_it_imitates(source: str) -> None:
    model = detector("p3_ext", extended=True, source=source)
    image = torch.rand(3, 64, 96)
    seen = []
    model.roi_heads.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    on_p3_ext(model, [image], [F.interpolate(image[None], scale_factor=2)[0]])
    pyramid = model.backbone.pyramid(model.transform([image])[0].tensors)
    upsampled = F.interpolate(pyramid.inner["p3"] if source == "inner" else pyramid.output["p3"], scale_factor=2)
    expected = model.backbone.fpn.layer_blocks[1](upsampled) if source == "inner" else upsampled
    torch.testing.assert_close(seen[0]["p3_ext"], expected)


class Fixed(torch.nn.Module):
    """Finds one box over the left upper quarter of any image, surer in larger ones, and one that only it sees."""

    nms_thresh = 0.5
    detections_per_img = 3

    class backbone:
        reads_2x = False

    def forward(self, images: list[torch.Tensor], images_2x: None = None) -> list[dict[str, torch.Tensor]]:
        found = []
        for image in images:
            height, width = image.shape[-2:]
            boxes = torch.tensor([[0, 0, width / 2, height / 2], [width - 4.0, 0, width, 4]])
            scores = torch.tensor([min(width / 100, 1.0), 0.3])
            found.append({"boxes": boxes, "scores": scores, "labels": torch.tensor([1, 2])})
        return found


def test_scales_are_united_in_1x_pixels_with_the_surest_first() -> None:
    found = multi_scale(Fixed(), [0.5, 1.0, 2.0], [torch.zeros(3, 80, 160)])[0]  # type: ignore[arg-type]
    # 1x is 40 x 80: the quarter is found at all three scales and kept once, at the score of the 2x image
    assert found["scores"].tolist() == pytest.approx([1.0, 0.3, 0.3]) and found["labels"].tolist() == [1, 2, 2]
    assert found["boxes"][0].tolist() == [0, 0, 40, 20]
    # 4 px boxes of the sizes 0.5, 1 and 2 are 8, 4 and 2 px wide in the 1x image: no two overlap by half
    assert {box[2] - box[0] for box in found["boxes"][1:].tolist()} <= {8.0, 4.0, 2.0}
    assert len(found["boxes"]) == Fixed.detections_per_img


def test_one_scale_alone_is_the_detector_itself() -> None:
    model = detector("p3")
    image = torch.rand(3, 128, 192)
    mine, own = multi_scale(model, [1.0], [image])[0], model([F.avg_pool2d(image, 2)])[0]
    torch.testing.assert_close(mine["boxes"], own["boxes"])
    torch.testing.assert_close(mine["scores"], own["scores"])


def test_the_2x_image_stays_as_it_is_and_half_of_it_is_the_2x2_mean() -> None:
    image = torch.rand(3, 32, 48)
    torch.testing.assert_close(resized(image, 1.0), image)
    assert torch.equal(resized(image, 0.5), F.avg_pool2d(image, 2))
    assert resized(image, 0.7).shape == (3, 22, 34)


def continued(detail: Detail, last_stage: int = 3) -> EFPNDetector:
    """With a second pass whose layers are the FPN's own, and P3 as it is in the place of P4 of the 2x image."""
    torch.manual_seed(0)
    resnet = ResNet("resnet18", weights=None, norm="batch", trainable_stages=5)
    roi = RoISettings(head_width=16, score_thresh=0.0, detections_per_image=30)
    extension = partial(make_extension, Nearest, last_stage=last_stage)
    built = build_faster_rcnn(resnet, 4, channels=8, roi=roi, small=SmallRoIs(40), extension=extension, detail=detail)
    built.backbone.start_extension()
    return built.eval()


def read_from_p2_ext(model: EFPNDetector, probe: Callable[[], object]) -> torch.Tensor:
    seen: list[dict[str, torch.Tensor]] = []
    hook = model.roi_heads.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        probe()
    hook.remove()
    return seen[0]["p2_ext"]


def test_a_true_c2_is_put_in_the_place_of_c2() -> None:
    image_2x = torch.rand(3, 128, 192)
    image = F.avg_pool2d(image_2x, 2)
    model = continued(Doubled())
    got = read_from_p2_ext(model, lambda: half_oracle(model, "c2", [image], [image_2x]))
    backbone = model.backbone
    with torch.no_grad():
        batch, double = model.batch_pair([image], [image_2x])
        p3_ext, own = backbone.extension.extend(backbone, *backbone.prepare(batch.tensors))
        expected = backbone.extension.merged(2, backbone.body(double)["c2"], F.interpolate(p3_ext, scale_factor=2))
    torch.testing.assert_close(got, expected)
    assert (got - own).abs().max() > 1e-2


@pytest.mark.parametrize("last_stage", [3, 4])
def test_of_the_2x_image_only_p4_is_not_the_true_one(last_stage: int) -> None:
    image_2x = torch.rand(3, 128, 192)
    image = F.avg_pool2d(image_2x, 2)
    model = continued(Image2x(), last_stage)
    own = read_from_p2_ext(model, lambda: model([image], images_2x=[image_2x]))
    true = read_from_p2_ext(model, lambda: Oracle(model)([image_2x]))
    for part, expected in (("c2", own), ("c3", own), ("p4", true)):
        got = read_from_p2_ext(model, lambda part=part: half_oracle(model, part, [image], [image_2x]))
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert (own - true).abs().max() > 1e-2
    with pytest.raises(ValueError, match="no part c5; of c2, c3"):
        half_oracle(model, "c5", [image], [image_2x])


def test_at_every_scale_a_detector_that_reads_2x_images_gets_them() -> None:
    model = continued(Image2x())
    seen: list[tuple[torch.Size, torch.Size]] = []
    model.backbone.register_forward_pre_hook(lambda module, given: seen.append((given[0].shape, given[1].shape)))
    image_2x = torch.rand(3, 128, 192)
    alone = multi_scale(model, [1.0], [image_2x])[0]
    with torch.no_grad():
        own = model([F.avg_pool2d(image_2x, 2)], images_2x=[image_2x])[0]
    torch.testing.assert_close(alone["boxes"], own["boxes"])
    multi_scale(model, [1.4], [image_2x])
    assert all(tuple(double[2:]) == (2 * single[2], 2 * single[3]) for single, double in seen) and len(seen) == 3


def test_a_detector_that_reads_1x_images_pays_for_no_2x_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    resized_to: list[list[int]] = []
    interpolate = F.interpolate

    def noted(image: torch.Tensor, size: list[int] | None = None, **how: object) -> torch.Tensor:
        resized_to.extend([size] if how.get("antialias") and size else [])
        return interpolate(image, size, **how)  # type: ignore[arg-type]

    monkeypatch.setattr("torch.nn.functional.interpolate", noted)
    multi_scale(detector("p3"), [0.5, 1.0, 1.4], [torch.rand(3, 128, 192)])
    assert resized_to == [[32, 48], [90, 134]]  # 1x at a half and at 1.4; the half of the 2x image is its mean
