"""Backbone, FPN, extension: every level against its spec, and the extension's start."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from efpn.errors import UserError
from efpn.models import (
    FPN,
    FTT,
    Detail,
    Doubled,
    EFPNBackbone,
    Extension,
    Image2x,
    Nearest,
    Pyramid,
    ResNet,
    Stem,
    Tiles,
    WholePass,
    make_extension,
)
from efpn.pyramid.neck import check_levels
from efpn.types import LevelSpec


def backbone(arch: str = "resnet18", channels: int = 8, upsampler: nn.Module | None = None, **options) -> EFPNBackbone:
    resnet = ResNet(arch, weights=None)
    upsampler = upsampler or FTT(channels, width=8)
    return EFPNBackbone(resnet, channels, Extension(upsampler, [resnet.levels[0].channels], channels, **options)).eval()


def extended(model: EFPNBackbone, images: Tensor, images_2x: Tensor | None = None) -> tuple[Pyramid, Tensor, Tensor]:
    """The pyramid, P3' and P2'."""
    pyramid, fine = model.prepare(images, images_2x)
    return pyramid, *model.extension.extend(model, pyramid, fine)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_strides_and_depths_of_every_level(arch: str) -> None:
    levels = {level.name: level for level in backbone(arch).levels}
    assert {name: level.stride for name, level in levels.items()} == {
        "p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64, "p3_ext": 4, "p2_ext": 2,
    }  # fmt: skip
    maps = backbone(arch)(torch.rand(2, 3, 64, 96))
    for name, level in levels.items():
        expected = (2, level.channels, -(-64 // level.stride), -(-96 // level.stride))
        assert maps[name].shape == expected, name


def test_a_wrong_spec_is_refused_when_the_model_is_built() -> None:
    with pytest.raises(ValueError, match=r"level p2: a 64 px image gives \(1, 8, 16, 16\)"):
        check_levels(backbone(), [LevelSpec("p2", 8, 8)])


def c2_of(model: EFPNBackbone, images: Tensor, images_2x: Tensor | None = None) -> Tensor:
    """C2' as the extension is given it."""
    seen: list[Tensor] = []
    hook = model.extension.laterals[0].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    model.whole(images, images_2x)
    hook.remove()
    return seen[0]


def test_c2_of_the_paper_is_stage_2_without_the_max_pool_on_shared_weights() -> None:
    model = backbone()
    images, resnet = torch.rand(1, 3, 64, 64), model.body
    stem = resnet.relu(resnet.bn1(resnet.conv1(images)))
    torch.testing.assert_close(c2_of(model, images), resnet.layer1(stem))
    names = [name for name, _ in model.named_parameters() if name.startswith("extension.")]
    assert not any("layer1" in name for name in names)


@pytest.mark.parametrize("detail", [Doubled(), Image2x()])
def test_c2_and_c3_of_an_image_of_twice_the_size_are_the_backbones_own(detail: Detail) -> None:
    resnet = ResNet("resnet18", weights=None)
    extension = Extension(Nearest(8, blocks=1), [64, 128], 8)
    model = EFPNBackbone(resnet, 8, extension, detail).eval()
    images, images_2x = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 128, 128)
    assert model.reads_2x == isinstance(detail, Image2x)
    read = images_2x if model.reads_2x else F.interpolate(images, scale_factor=2, mode="bicubic")
    stages = resnet(read)
    torch.testing.assert_close(c2_of(model, images, images_2x), stages["c2"])
    pyramid, p3_ext, p2_ext = extended(model, images, images_2x)
    p3 = F.interpolate(extension.upsampler.refine(pyramid.inner["p3"]), scale_factor=2)
    torch.testing.assert_close(p3_ext, extension.laterals[1](stages["c3"]) + p3)
    merged = extension.laterals[0](stages["c2"]) + F.interpolate(p3_ext, scale_factor=2)
    torch.testing.assert_close(p2_ext, extension.post(merged))


def test_detail_of_the_2x_images_without_them_says_so() -> None:
    extension = Extension(Nearest(), [64], 8)
    with pytest.raises(ValueError, match="call the detector with images_2x="):
        EFPNBackbone(ResNet("resnet18", weights=None), 8, extension, Image2x())(torch.rand(1, 3, 64, 64))


def test_a_whole_pass_gives_the_levels_of_the_2x_image() -> None:
    model = EFPNBackbone(ResNet("resnet18", weights=None), 8, WholePass(8), Image2x(), Tiles()).eval()
    images_2x = torch.rand(1, 3, 128, 128)
    maps = model(torch.rand(1, 3, 64, 64), images_2x)
    second = model.pyramid(images_2x)
    torch.testing.assert_close(maps["p2_ext"], second.output["p2"])
    torch.testing.assert_close(maps["p3_ext"], second.inner["p3"])
    assert not list(model.extension.parameters())
    with pytest.raises(UserError, match="give detail=doubled or image_2x"):
        EFPNBackbone(ResNet("resnet18", weights=None), 8, WholePass(8), Stem())


@pytest.mark.parametrize("last_stage", [3, 4, 5])
def test_a_continued_pyramid_that_starts_from_the_fpn_is_the_fpn_but_for_what_is_above(last_stage: int) -> None:
    """With the true level of the 2x image in the place of what the upsampler gives, P3' and P2' are P3 and P2 of it."""
    body = ResNet("resnet18", weights=None)
    depths = [level.channels for level in body.levels]
    model = EFPNBackbone(body, 8, make_extension(Nearest, depths, channels=8, last_stage=last_stage), Image2x()).eval()
    model.start_extension()
    images_2x = torch.rand(1, 3, 128, 128)
    stages = model.body(images_2x)
    pyramid = model.fpn(stages)
    coarse = {"p3": pyramid.inner["p4"], "p4": pyramid.inner["p5"]}  # Nearest only brings them to twice the size
    maps = {**coarse, "p2": torch.empty(0)}
    p3_ext, p2_ext = model.extension(maps, [stages[f"c{n}"] for n in range(2, last_stage + 1)])
    torch.testing.assert_close(p3_ext, pyramid.inner["p3"])
    torch.testing.assert_close(p2_ext, pyramid.output["p2"])
    if last_stage == 5:  # nothing of the 1x image is left in it
        torch.testing.assert_close(extended(model, torch.rand(1, 3, 64, 64), images_2x)[2], pyramid.output["p2"])


def test_resnet_gives_what_torchvision_gives(tmp_path: Path) -> None:
    net = torchvision.models.resnet18().eval()
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    resnet = ResNet("resnet18", weights=str(tmp_path / "weights.pth")).eval()
    images = torch.rand(1, 3, 64, 64)
    x = net.maxpool(net.relu(net.bn1(net.conv1(images))))
    x = net.layer4(net.layer3(net.layer2(net.layer1(x))))
    torch.testing.assert_close(resnet(images)["c5"], x, rtol=1e-4, atol=1e-5)


def test_fpn_is_torchvisions_with_its_inner_maps_in_view() -> None:
    depths = {"c2": 4, "c3": 8, "c4": 16, "c5": 32}
    ours = FPN([LevelSpec(name, 2 ** int(name[1]), depth) for name, depth in depths.items()], 8)
    reference = FeaturePyramidNetwork([4, 8, 16, 32], 8)
    reference.load_state_dict(ours.state_dict())
    stages = {f"c{i}": torch.rand(1, depths[f"c{i}"], 2 ** (6 - i), 2 ** (6 - i)) for i in range(2, 6)}
    pyramid, expected = ours(stages), reference(stages)
    for i in range(2, 6):
        torch.testing.assert_close(pyramid.output[f"p{i}"], expected[f"c{i}"])
        torch.testing.assert_close(ours.layer_blocks[i - 2](pyramid.inner[f"p{i}"]), expected[f"c{i}"])
    assert pyramid.output["p6"].shape[-1] == 1


def test_equation_1_to_the_letter_without_the_post_convolution() -> None:
    extension = Extension(Nearest(), [6], channels=4, post_conv=False)
    p3, p2, c2_ext = torch.rand(1, 4, 2, 2), torch.rand(1, 4, 4, 4), torch.rand(1, 6, 8, 8)
    p3_ext, p2_ext = extension({"p3": p3, "p2": p2}, [c2_ext])
    torch.testing.assert_close(p2_ext, F.interpolate(p3_ext, scale_factor=2.0) + extension.laterals[0](c2_ext))


def test_starts_as_the_fpn_continued_by_one_level() -> None:
    model = backbone()
    model.start_extension()
    pyramid, fine = model.prepare(torch.rand(1, 3, 64, 64))
    p3_ext, p2_ext = model.extension.extend(model, pyramid, fine)
    torch.testing.assert_close(p3_ext, F.interpolate(pyramid.inner["p3"], scale_factor=2.0))
    inner = model.fpn.inner_blocks[0](model.body.layer1(fine.map)) + F.interpolate(p3_ext, scale_factor=2.0)
    torch.testing.assert_close(p2_ext, model.fpn.layer_blocks[0](inner))


@pytest.mark.parametrize("source", ["inner", "output"])
def test_source_decides_what_the_upsampler_reads_and_is_taught(source: str) -> None:
    model = backbone(source=source)
    pyramid, p3_ext, _ = extended(model, torch.rand(1, 3, 64, 64))
    maps = getattr(pyramid, source)
    torch.testing.assert_close(p3_ext, F.interpolate(maps["p3"], scale_factor=2.0))
    p3, p2 = model.extension.targets(pyramid)
    assert p3 is maps["p3"] and p2 is pyramid.output["p2"]


@pytest.mark.parametrize("stages, learns", [(0, []), (3, ["layer2", "layer3", "layer4"])])
def test_trainable_stages_count_from_the_top(stages: int, learns: list[str]) -> None:
    resnet = ResNet("resnet18", weights=None, trainable_stages=stages)
    assert sorted({n.split(".")[0] for n, p in resnet.named_parameters() if p.requires_grad}) == learns


def test_frozen_norm_is_batch_norm_in_eval_mode() -> None:
    frozen, reference = ResNet("resnet18", None, "frozen"), ResNet("resnet18", None, "batch").eval()
    reference.load_state_dict(frozen.state_dict(), strict=False)
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(frozen.train()(images)["c5"], reference(images)["c5"], rtol=1e-4, atol=1e-5)


def test_bad_weights_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"weights file nowhere\.pth: not found"):
        ResNet("resnet18", weights="nowhere.pth")
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7), "head.bias": torch.zeros(3)}, tmp_path / "wrong.pth")
    with pytest.raises(UserError, match=r"does not fit: \d+ missing \(bn1.weight.*1 unexpected \(head.bias\)"):
        ResNet("resnet18", weights=str(tmp_path / "wrong.pth"))
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "cut.pth")
    content = (tmp_path / "cut.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"weights file .*cut\.pth: damaged or truncated .* copy it anew"):
        ResNet("resnet18", weights=str(tmp_path / "cut.pth"))


def test_weights_of_another_depth_are_refused(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet34().state_dict(), tmp_path / "r34.pth")
    with pytest.raises(UserError, match="does not fit: .* give torchvision.s resnet18"):
        ResNet("resnet18", weights=str(tmp_path / "r34.pth"))
    torch.save(torchvision.models.resnet50().state_dict(), tmp_path / "r50.pth")
    with pytest.raises(UserError, match="does not fit: .* give torchvision.s resnet18"):
        ResNet("resnet18", weights=str(tmp_path / "r50.pth"))


def test_resnet10_has_one_block_a_stage_and_no_weights_to_download() -> None:
    backbone = ResNet("resnet10", weights=None, norm="batch")
    assert [len(stage) for stage in backbone.stages] == [1, 1, 1, 1]
    assert [level.channels for level in backbone.levels] == [64, 128, 256, 512]
    with pytest.raises(UserError, match="there are none of resnet10"):
        ResNet("resnet10", weights="imagenet")


def test_unknown_names_are_answered_with_the_known() -> None:
    with pytest.raises(UserError, match=r"backbone.arch=resnet19: unknown; use resnet10 or torchvision.s .*resnet18"):
        ResNet("resnet19", weights=None)


def test_a_failed_download_says_what_to_do_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args, **kwargs):
        raise OSError("no route")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(UserError, match=r"could not be downloaded \(no route\). Offline: copy that file here"):
        ResNet("resnet18", weights="imagenet")
