"""timm's networks as backbones: by a real pass, with and without a stem for the paper's C2'."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from efpn.errors import UserError
from efpn.models import Extension, Image2x, ResNet, SmallRoIs, Stem, Tiles, Timm, build_faster_rcnn, make_extension
from efpn.pyramid.receptive import macs_per_cell, reach
from efpn.pyramid.upsamplers import Nearest

timm = pytest.importorskip("timm")


def extension(stage_channels: Sequence[int], channels: int) -> Extension:
    return make_extension(Nearest, stage_channels, channels, last_stage=3)


@pytest.mark.parametrize("name", ["convnext_atto", "resnet18", "regnety_002"])
def test_its_maps_are_timms(name: str) -> None:
    torch.manual_seed(0)
    backbone = Timm(name, weights=None).eval()
    images = torch.rand(1, 3, 64, 96)
    expected = backbone.net(images)[-4:]
    got = backbone(images)
    for level, theirs in zip(backbone.levels, expected, strict=True):
        assert torch.equal(got[level.name], theirs)
        assert theirs.shape == (1, level.channels, 64 // level.stride, 96 // level.stride)


def test_the_papers_detail_needs_a_stem_of_stride_2() -> None:
    resnet, convnext = Timm("resnet18", weights=None), Timm("convnext_atto", weights=None)
    c1 = resnet(torch.rand(1, 3, 64, 64), stem=True)["c1"]
    assert c1.shape == (1, 64, 32, 32)
    with pytest.raises(UserError, match="detail=stem: Timm has no stem of stride 2.*use detail=doubled"):
        build_faster_rcnn(convnext, 3, channels=8, extension=extension, detail=Stem())


@pytest.mark.parametrize("name", ["convnext_atto", "resnet18"])
def test_tiles_are_exact(name: str) -> None:
    torch.manual_seed(0)
    small = SmallRoIs(40)
    backbone = Timm(name, weights=None)
    options = {"channels": 8, "extension": extension, "detail": Image2x(), "small": small, "tiles": Tiles()}
    model = build_faster_rcnn(backbone, 3, **options).eval()
    assert model.backbone.tiles is not None
    for part in (backbone.entry, *backbone.stages[:2]):  # weights come later; a layer scale near zero would hide blocks
        for weight in part.parameters():
            torch.nn.init.kaiming_normal_(weight) if weight.ndim > 1 else weight.data.uniform_(0.3, 0.6)
    images, doubled = torch.rand(1, 3, 256, 256), torch.rand(1, 3, 512, 512)
    boxes = [torch.tensor([[100.0, 90, 120, 110]])]
    align = model.roi_heads.box_roi_pool
    with torch.no_grad():
        cut = align(model.backbone(images, doubled), boxes, [(256, 256)])
        dense = align(model.backbone.whole(images, doubled), boxes, [(256, 256)])
    torch.testing.assert_close(cut, dense, rtol=1e-3, atol=1e-4)


def test_a_stage_sees_as_far_as_its_blocks_after_its_stride() -> None:
    stages = Timm("convnext_atto", weights=None).stages
    assert reach(stages[0]) == 2 * 3 and reach(stages[1]) == 2 * 2 * 3  # two blocks of 7x7 each, the second at stride 2
    assert reach(Timm("resnet18", weights=None).stages[1]) == reach(ResNet("resnet18", weights=None).stages[1]) == 7


@pytest.mark.parametrize("name", ["resnet18", "regnety_002"])
def test_frozen_norms_keep_the_dtype_of_autocast_and_are_timms_in_float32(name: str) -> None:
    torch.manual_seed(0)
    learned, frozen = (Timm(name, weights=None, norm=norm).eval() for norm in ("batch", "frozen"))
    for module in learned.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                torch.nn.init.uniform_(tensor, 0.5, 1.5)
    theirs = timm.layers.freeze_batch_norm_2d(learned.net)
    assert list(frozen.net.state_dict()) == list(theirs.state_dict())
    frozen.net.load_state_dict(theirs.state_dict())
    images = torch.rand(1, 3, 64, 96)
    torch.testing.assert_close(list(frozen(images).values()), theirs(images)[-4:], rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert {one.dtype for one in frozen(images).values()} == {torch.bfloat16}


def test_no_network_is_named_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args, **options):
        raise OSError("no connection")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match=r"could not be had \(no connection\). Offline: copy their file here"):
        Timm("convnext_atto")


def test_weights_come_from_a_local_file(tmp_path: Path) -> None:
    net = timm.create_model("convnext_atto", num_classes=3)
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    pytest.importorskip("safetensors.torch").save_file(net.state_dict(), tmp_path / "weights.safetensors")
    named = {f"module.{key}": value for key, value in net.state_dict().items() if "num_batches" not in key}
    torch.save({"state_dict": named, "args": argparse.Namespace(lr=0.1)}, tmp_path / "of_train_py.pth")
    for file in ("weights.pth", "weights.safetensors", "of_train_py.pth"):
        backbone = Timm("convnext_atto", weights=str(tmp_path / file))
        assert torch.equal(backbone.net["stages_1"].blocks[0].conv_dw.weight, net.stages[1].blocks[0].conv_dw.weight)
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "weights.safetensors").read_bytes()[:-9])
    with pytest.raises(UserError, match=r"weights file .*cut.safetensors: damaged or truncated .* or copy it anew"):
        Timm("convnext_atto", weights=str(tmp_path / "cut.safetensors"))
    with pytest.raises(UserError, match=r"does not fit: \d+ of another shape .*; give timm.s .* of convnext_femto"):
        Timm("convnext_femto", weights=str(tmp_path / "weights.pth"))
    with pytest.raises(UserError, match=r"nothing.pth: not found"):
        Timm("convnext_atto", weights=str(tmp_path / "nothing.pth"))


@pytest.mark.parametrize("stages, learns", [(5, True), (4, False), (0, False)])
def test_stages_freeze_from_the_bottom(stages: int, learns: bool) -> None:
    backbone = Timm("convnext_atto", weights=None, trainable_stages=stages)
    assert all(p.requires_grad == learns for p in backbone.entry.parameters())
    assert all(p.requires_grad == (stages > 0) for p in backbone.stages[3].parameters())


@pytest.mark.parametrize(
    "name, message",
    [
        ("convnext_huge_indeed", "timm has no such network; it has convne"),
        ("efficientnet_b0", "is no chain of layers with maps at strides 4, 8, 16 and 32"),
        ("vit_tiny_patch16_224", "is no chain of layers with maps at strides 4, 8, 16 and 32"),
        ("swin_tiny_patch4_window7_224", "takes images of one size alone"),
    ],
)
def test_what_is_no_such_network_is_named(name: str, message: str) -> None:
    with pytest.raises(UserError, match=f"backbone.name={name}: .*{message}"):
        Timm(name, weights=None)


@pytest.mark.parametrize("name", ["regnetx_002", "convnext_tiny"])
def test_the_multiply_adds_of_a_stage_are_what_it_does(name: str) -> None:
    """A shortcut beside wrapped convolutions, and linear layers on cells."""
    stage = Timm(name, weights=None).eval().stages[1]
    done: list[int] = []
    for module in stage.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda conv, _, out: done.append(conv.weight.numel() * out[0, 0].numel()))
        elif isinstance(module, nn.Linear):
            module.register_forward_hook(lambda fc, _, out: done.append(fc.weight.numel() * out[0, ..., 0].numel()))
    channels = Timm(name, weights=None).levels[0].channels
    with torch.no_grad():
        stage(torch.rand(1, channels, 16, 16))
    assert sum(done) == macs_per_cell(stage, 2) * 8 * 8
