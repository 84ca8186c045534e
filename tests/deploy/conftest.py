"""A detector with random weights that detects something, traced once and written in both formats."""

from __future__ import annotations

import pytest
import torch

from efpn.deploy.formats import Onnx, Torch
from efpn.deploy.graph import trace
from efpn.models import FTT, EFPNDetector, Extension, ResNet, RoISettings, RPNSettings, SmallRoIs, build_faster_rcnn
from efpn.models.backbones import IMAGENET_MEAN

FORMATS = {"onnx": Onnx(), "torch": Torch()}


def random_detector(extended: bool = True, own_head: bool = True, below: float = 24.0) -> EFPNDetector:
    """resnet18, 16 channels, with weights that spread RoIs over sizes and scores over (0, 1)."""
    torch.manual_seed(0)
    backbone = ResNet("resnet18", weights=None, norm="frozen", trainable_stages=3)

    def extension(c2_channels: int, channels: int, **others: int) -> Extension:
        return Extension(FTT(channels, width=8), c2_channels, channels)

    detector = build_faster_rcnn(
        backbone,
        5,
        channels=16,
        extension=extension if extended else None,
        rpn=RPNSettings(anchor_sizes=(8, 16, 32, 64, 128), post_nms_top_n=(100, 60)),
        roi=RoISettings(head_width=32, score_thresh=0.2),
        small=SmallRoIs(below, own_head=own_head) if extended else None,
    )
    with torch.no_grad():
        for name, weight in detector.roi_heads.named_parameters():
            weight.copy_(
                torch.zeros_like(weight) if name.endswith("bias") else torch.randn_like(weight) * weight.std() * 2
            )
            if weight.shape == (5,):
                weight[0] = 2  # of zero features, as of an image in the mean colour, nothing is detected
        for weight in detector.rpn.parameters():
            weight.mul_(5)
    return detector.eval().requires_grad_(False)


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


@pytest.fixture(scope="session")
def detector():
    return random_detector()


@pytest.fixture(scope="session")
def program(detector):
    return trace(detector)


@pytest.fixture(scope="session", params=FORMATS)
def exported(request, program, tmp_path_factory):
    """The detector read back from a file of each format."""
    chosen = FORMATS[request.param]
    path = tmp_path_factory.mktemp("export") / chosen.file
    chosen.write(program, path)
    return chosen.load(path)
