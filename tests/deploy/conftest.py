"""Detectors whose weights make them detect something of each kind, and one of them traced."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from efpn.deploy.formats import Torch
from efpn.deploy.graph import trace
from efpn.deploy.run import Tolerance, differences
from efpn.models import FTT, EFPNDetector, Extension, ResNet, RoISettings, RPNSettings, SmallRoIs, build_faster_rcnn
from efpn.pyramid.backbones import IMAGENET_MEAN

SIZES = [(96, 128), (90, 130), (130, 90), (65, 97), (200, 65), (257, 301)]  # whole multiples of 32, and not
CLOSE = Tolerance(boxes=0.01, scores=1e-4)


def random_detector(extended: bool = True, own_head: bool = True, below: float = 24.0) -> EFPNDetector:
    """resnet18, 16 channels, with weights as `spread` makes them."""
    torch.manual_seed(0)
    backbone = ResNet("resnet18", weights=None, norm="frozen", trainable_stages=3)

    def extension(stage_channels: Sequence[int], channels: int) -> Extension:
        return Extension(FTT(channels, width=8), stage_channels[:1], channels)

    detector = build_faster_rcnn(
        backbone,
        5,
        channels=16,
        extension=extension if extended else None,
        rpn=RPNSettings(anchor_sizes=(8, 16, 32, 64, 128), post_nms_top_n=(100, 60)),
        roi=RoISettings(head_width=32, score_thresh=0.2),
        small=SmallRoIs(below, own_head=own_head) if extended else None,
    )
    spread(detector)
    return detector.eval().requires_grad_(False)


def spread(detector: EFPNDetector) -> None:
    """Give the RPN and the heads weights that spread RoIs over sizes and scores over (0, 1)."""
    classes = detector.roi_heads.box_predictor.cls_score.out_features
    with torch.no_grad():
        for name, weight in detector.roi_heads.named_parameters():
            weight.copy_(
                torch.zeros_like(weight) if name.endswith("bias") else torch.randn_like(weight) * weight.std() * 2
            )
            if weight.shape == (classes,):
                weight[0] = 2  # of zero features, as of an image in the mean colour, nothing is detected
        for weight in detector.rpn.parameters():
            weight.mul_(5)


def blank(height: int, width: int) -> torch.Tensor:
    """An image that is zero after normalisation, and so are all maps."""
    return torch.tensor(IMAGENET_MEAN)[:, None, None].expand(3, height, width).contiguous()


def noise(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """An image with structure at several scales."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.zeros(3, height, width)
    for cell in (4, 16, 40):
        coarse = torch.rand(1, 3, -(-height // cell), -(-width // cell), generator=generator)
        image += torch.nn.functional.interpolate(coarse, scale_factor=cell)[0, :, :height, :width]
    return image / 3


def agrees(detector, exported, image, image_2x=None) -> None:
    """Assert that both detect the same, and something, in an image of which some RoIs are small and some are not."""
    seen = []
    align = detector.roi_heads.box_roi_pool
    handle = align.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1][0]))
    expected = detector([image], images_2x=None if image_2x is None else [image_2x])[0]
    handle.remove()
    small = align.is_small(seen[0])
    assert small.any() and not small.all()  # both levels and both heads are used
    assert len(expected["scores"]) > 5
    got = exported(image if image_2x is None else image_2x)
    assert isinstance(differences(expected, got, CLOSE), torch.Tensor), differences(expected, got, CLOSE)
    assert {key: value.dtype for key, value in got.items()} == {key: value.dtype for key, value in expected.items()}
    assert (got["scores"].diff() <= 0).all()


@pytest.fixture(scope="session")
def detector():
    return random_detector()


@pytest.fixture(scope="session")
def exported(detector, tmp_path_factory):
    """The detector read back from the file of ``torch.export``."""
    path = tmp_path_factory.mktemp("export") / Torch.file
    Torch().write(trace(detector), path)
    return Torch().load(path)
