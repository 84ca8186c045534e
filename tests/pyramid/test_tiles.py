"""P2' under small RoIs alone is the dense P2' there, whatever the boxes, the images and the upsampler."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efpn.data.dataset import DetectionDataset
from efpn.data.transforms import EvalTransform
from efpn.data.tt100k import TT100K
from efpn.errors import UserError
from efpn.models import (
    ESPCN,
    FTT,
    Detail,
    Doubled,
    EFPNDetector,
    Image2x,
    Nearest,
    ResNet,
    RoISettings,
    RPNSettings,
    SmallRoIs,
    Stem,
    Tiles,
    TwoStage,
    Upsampler,
    build_faster_rcnn,
    make_extension,
)
from efpn.pyramid.tiles import TiledLevel
from efpn.pyramid.tiling import Rect
from efpn.pyramid.upsamplers import reach

UPSAMPLERS = {
    "ftt": lambda c: FTT(c, 12),
    "one block, no tail": lambda c: FTT(c, 12, blocks=1, outer_skip=False, tail=False),
    "grouped, reduced": lambda c: FTT(c, 12, groups=3, reduction=1),
    "separable": lambda c: FTT(c, 12, groups=12),
    "espcn": lambda c: ESPCN(c, (8, 6)),
    "nearest": lambda c: Nearest(c),
    "refined": lambda c: Nearest(c, blocks=2),
}


def detector(
    upsampler: str = "ftt",
    arch: str = "resnet18",
    tiles: Tiles | None = None,
    resnet: ResNet | None = None,
    detail: Detail | None = None,
    last_stage: int = 2,
    **options: Any,
) -> EFPNDetector:
    """With every layer of the extension random, none at zero."""
    torch.manual_seed(0)
    resnet = resnet or ResNet(arch, weights=None, norm="batch", trainable_stages=5)
    roi = RoISettings(head_width=16, score_thresh=0.0, detections_per_image=50)
    rpn = RPNSettings(anchor_sizes=(8, 16, 32, 64, 128), post_nms_top_n=(100, 60))

    extension = partial(
        make_extension, lambda channels: UPSAMPLERS[upsampler](channels), last_stage=last_stage, **options
    )
    parts: dict[str, Any] = {"small": SmallRoIs(24, own_head=True), "extension": extension, "detail": detail}
    model = build_faster_rcnn(resnet, 4, channels=8, rpn=rpn, roi=roi, tiles=tiles, **parts)
    for module in model.backbone.extension.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            nn.init.normal_(module.bias, std=0.5)
    return model.eval()


def levels(model: EFPNDetector, images: Tensor) -> tuple[Tensor, TiledLevel]:
    """P2' dense, and waiting; the 2x images show something else than the 1x ones, to be told apart."""
    backbone = model.backbone
    images_2x = torch.rand(len(images), 3, *(2 * side for side in images.shape[-2:]))
    with torch.no_grad():
        pyramid, fine = backbone.prepare(images, images_2x)
        dense = backbone.extension.extend(backbone, pyramid, fine)[1]
    return dense, TiledLevel(backbone.extension, backbone.body, pyramid, fine, model.backbone.tiles or Tiles())


BOXES = {
    "middle": [[200.0, 90.0, 214.0, 100.0]],
    "corners": [[0.0, 0.0, 6.0, 6.0], [378.0, 250.0, 384.0, 256.0]],
    "edge": [[120.0, 0.0, 140.0, 9.0], [0.0, 100.0, 3.0, 180.0]],
    "tiny": [[77.3, 33.1, 77.9, 33.2]],
    "long": [[10.0, 60.0, 370.0, 62.0]],
    "crowd": [[100.0 + 3 * n, 40.0 + 5 * n, 112.0 + 3 * n, 50.0 + 5 * n] for n in range(12)],
}


def differs(
    model: EFPNDetector, boxes: list[list[list[float]]], images: Tensor, maps: tuple[Tensor, TiledLevel] | None = None
) -> float:
    """The largest difference of pooled features between the waiting level and the dense one, in their spread."""
    dense, level = maps or levels(model, images)
    align = model.roi_heads.box_roi_pool.extended
    wanted = [torch.tensor(one).reshape(-1, 4) for one in boxes]
    with torch.no_grad():
        expected = align({"p2_ext": dense}, wanted, [images.shape[-2:]] * len(images))
        whole, model.backbone.extension.forward = model.backbone.extension.forward, None  # type: ignore[method-assign]
        got = level.pool(wanted, align)  # would fail if it computed the map whole
        model.backbone.extension.forward = whole  # type: ignore[method-assign]
    assert got.shape == expected.shape
    return float((got - expected).abs().max() / expected.std()) if len(got) else 0.0


@pytest.mark.slow
@pytest.mark.parametrize(
    "upsampler, arch", [*((name, "resnet18") for name in UPSAMPLERS), ("ftt", "resnet50"), ("refined", "resnet50")]
)
def test_pooled_features_are_those_of_the_dense_map(upsampler: str, arch: str) -> None:
    model = detector(upsampler, arch, Tiles(dense_from=100))
    image = torch.rand(1, 3, 256, 384)
    maps = levels(model, image)
    for name, boxes in BOXES.items():
        assert differs(model, [boxes], image, maps) < 1e-3, name


@pytest.mark.parametrize(
    "detail, upsampler, last_stage, arch",
    [
        (Stem(), "refined", 3, "resnet18"),
        (Doubled(), "refined", 3, "resnet18"),
        (Doubled(), "refined", 3, "resnet50"),
        (Doubled(), "ftt", 2, "resnet18"),
        (Image2x(), "refined", 3, "resnet18"),
        (Image2x(), "ftt", 3, "resnet18"),
        (Image2x(), "refined", 4, "resnet18"),
        (Doubled(), "ftt", 4, "resnet18"),
        (Image2x(), "refined", 5, "resnet18"),
        pytest.param(Image2x(), "refined", 4, "resnet50", marks=pytest.mark.slow),
        pytest.param(Image2x(), "refined", 5, "resnet50", marks=pytest.mark.slow),
    ],
)
def test_every_source_of_detail_can_be_cut(detail: Detail, upsampler: str, last_stage: int, arch: str) -> None:
    model = detector(upsampler, arch, Tiles(dense_from=100), detail=detail, last_stage=last_stage)
    every = [box for boxes in BOXES.values() for box in boxes]
    assert differs(model, [every], torch.rand(1, 3, 256, 384)) < 1e-3


def test_tiles_of_one_shape_are_computed_together_whatever_their_image() -> None:
    model = detector("refined", tiles=Tiles(dense_from=100), detail=Doubled(), last_stage=3)
    images = torch.rand(2, 3, 512, 768)
    apart = [[x + 2.0, y + 2, x + 12, y + 12] for x in (96, 288, 480, 672) for y in (160, 352)]
    edge = [[0.0, 352.0, 6.0, 360.0]]  # is cut off, and so of another shape
    maps = levels(model, images)
    calls: list[int] = []
    handle = model.backbone.body.stages[1].register_forward_hook(lambda _, x, out: calls.append(len(out)))
    assert differs(model, [apart[:6], [*edge, *apart[:7]]], images, maps) < 1e-3
    handle.remove()
    assert sorted(calls) == [1, 3, 10]  # 13 of one shape, of which a batch may read 10


def test_no_more_tiles_are_computed_together_than_a_batch_may_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 2 x 2 and 3 x 2 cells of P3, all of them 3 x 2 in the end, wherever they lie in the cells of P4."""
    monkeypatch.setattr("efpn.pyramid.tiles.TOGETHER", 5 * 6)
    model = detector("refined", tiles=Tiles(dense_from=100), detail=Doubled(), last_stage=4, margin=0)
    apart = [[x + 2.0, y + 2, x + 10, y + 12 + x % 16] for x in (96, 280, 480, 664) for y in (160, 360)]
    calls: list[int] = []
    image = torch.rand(1, 3, 512, 768)
    maps = levels(model, image)
    model.backbone.body.stages[1].register_forward_hook(lambda _, x, out: calls.append(len(out)))
    differs(model, [apart], image, maps)
    assert calls == [5, 3]


@pytest.mark.slow
@pytest.mark.parametrize("source, post_conv", [("inner", False), ("output", True)])
@pytest.mark.parametrize("last_stage", [2, 3, 4])
def test_every_form_of_the_extension_can_be_cut(source: str, post_conv: bool, last_stage: int) -> None:
    model = detector(source=source, post_conv=post_conv, last_stage=last_stage, tiles=Tiles(dense_from=100))
    every = [box for boxes in BOXES.values() for box in boxes]
    assert differs(model, [every, [], BOXES["corners"]], torch.rand(3, 3, 256, 384)) < 1e-3


@pytest.fixture(scope="module")
def real_images(shared: Path) -> tuple[Tensor, list[Tensor]]:
    """Four images with real signs at 352 px, and the boxes of the signs in 1x pixels."""
    source = TT100K(shared / "data" / "tt100k_mosaic", evaluated="paper45", others="merged")
    images = DetectionDataset(source.load("test"), EvalTransform(352, 352))
    samples = [images[number] for number in range(0, 8, 2)]
    return torch.stack([sample[0] for sample in samples]), [sample[-1]["boxes"] for sample in samples]


def around(boxes: Tensor, each: int, limit: float) -> list[list[float]]:
    """``each`` proposals on every box, its sides moved by up to half of its size."""
    random = np.random.default_rng(0)
    moved = boxes.numpy().repeat(each, axis=0)
    size = (moved[:, 2:] - moved[:, :2]).mean(axis=1, keepdims=True)
    return (moved + random.uniform(-0.5, 0.5, moved.shape) * size).clip(0, limit).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("each", [1, 20])
def test_pooled_features_are_those_of_the_dense_map_on_real_images(
    each: int, shared: Path, real_images: tuple[Tensor, list[Tensor]]
) -> None:
    """ImageNet weights; few and many proposals on the signs, none on the last image, one image and four."""
    images, boxes = real_images
    resnet = ResNet("resnet50", str(shared / "weights" / "resnet50_imagenet_fp16.pth"))
    model = detector(resnet=resnet, tiles=Tiles(dense_from=100))
    wanted = [*(around(one, each, 352) for one in boxes[:3]), []]
    assert sum(map(len, wanted)) >= 3 * each
    assert differs(model, wanted, images) < 1e-3
    assert differs(model, wanted[:1], images[:1]) < 1e-3
    assert differs(model, [[]], images[:1]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [1e-6, 24.0, 1e6])  # no small RoI, some, all
def test_detections_are_those_of_the_dense_model(threshold: float) -> None:
    images = [torch.rand(3, 200, 300), torch.rand(3, 150, 120), torch.rand(3, 90, 310)]
    found = []
    for tiles in (None, Tiles(), Tiles(grid=2), Tiles(dense_from=100)):
        model = detector(tiles=tiles)
        model.roi_heads.box_roi_pool.small = SmallRoIs(threshold, own_head=True)
        with torch.no_grad():
            found.append(model(images))
    for other in found[1:]:
        for mine, theirs in zip(found[0], other, strict=True):
            assert len(mine["boxes"]) == len(theirs["boxes"]) > 0
            torch.testing.assert_close(mine["boxes"], theirs["boxes"], rtol=1e-3, atol=1e-2)
            torch.testing.assert_close(mine["scores"], theirs["scores"], rtol=1e-3, atol=1e-4)
            assert torch.equal(mine["labels"], theirs["labels"])


def test_nothing_of_the_extension_runs_without_small_rois() -> None:
    model = detector(tiles=Tiles())
    model.roi_heads.box_roi_pool.small = SmallRoIs(1e-6, own_head=True)
    model.backbone.extension.forward = model.backbone.extension.merged = None  # type: ignore[assignment,method-assign]
    with torch.no_grad():
        assert len(model([torch.rand(3, 96, 128)])[0]["boxes"])


def test_training_computes_the_whole_map_even_where_the_backbone_is_frozen() -> None:
    model = detector(tiles=Tiles())
    with torch.no_grad():
        assert isinstance(model.backbone(torch.rand(1, 3, 64, 64))["p2_ext"], TiledLevel)
    assert not model.backbone.training and isinstance(model.backbone(torch.rand(1, 3, 64, 64))["p2_ext"], Tensor)
    p2_ext = model.train().backbone(torch.rand(2, 3, 64, 64))["p2_ext"]
    assert isinstance(p2_ext, Tensor) and p2_ext.requires_grad


@pytest.mark.parametrize("upsampler", list(UPSAMPLERS))
def test_an_image_full_of_small_rois_is_computed_whole(upsampler: str) -> None:
    model = detector(upsampler, tiles=Tiles())
    dense, level = levels(model, torch.rand(1, 3, 128, 128))
    grid = torch.cartesian_prod(torch.arange(0, 128, 8.0), torch.arange(0, 128, 8.0))
    level._computed = None  # type: ignore[assignment,method-assign]  # no tile
    align = model.roi_heads.box_roi_pool.extended
    boxes = [torch.cat([grid, grid + 8], dim=1)]
    with torch.no_grad():
        torch.testing.assert_close(level.pool(boxes, align), align({"p2_ext": dense}, boxes, [(128, 128)]))


@pytest.mark.parametrize("call, whole", [(0, False), (55, True)])
def test_a_crowd_whose_calls_outweigh_the_rest_is_computed_whole(
    call: float, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four shapes on half of the map, which has 96 cells: less work than the whole, but four calls of 55 cells each."""
    monkeypatch.setattr("efpn.pyramid.tiling.CALL", call)
    model = detector("refined", tiles=Tiles(), detail=Doubled(), last_stage=4, margin=0)
    _, level = levels(model, torch.rand(1, 3, 64, 96))
    done, tile = [], level._computed
    level._computed = lambda batch: done.append(batch) or tile(batch)  # type: ignore[func-returns-value,method-assign]
    boxes = torch.tensor([[0.0, 0, 6, 6], [32, 0, 54, 6], [0, 32, 6, 54], [32, 32, 70, 62]])
    with torch.no_grad():
        level.pool([boxes], model.roi_heads.box_roi_pool.extended)
    assert (not done) == whole


def test_a_tile_is_priced_with_all_its_margins() -> None:
    """ESPCN works on P3 alone: 2 x 2 cells, 1 for the last convolution, 4 that it sees.

    The last convolution and the lateral need 1/4 cell around, and C2' the 4/4 more that stage 2 sees.
    """
    model = detector("espcn")
    _, level = levels(model, torch.rand(1, 3, 256, 384))
    coarse = 8 * 8 * 25 + 8 * 6 * 9 + 6 * 32 * 9
    stage2, lateral, post = 4 * 9 * 64 * 64, 64 * 8, 9 * 8 * 8
    expected = coarse * 12 * 12 + 16 * stage2 * 4.5 * 4.5 + 16 * (lateral + post) * 2.5 * 2.5
    assert level._price(np.array([[10, 10, 12, 12]])) == pytest.approx(expected)


def test_a_tile_of_the_second_pass_is_priced_with_all_its_margins() -> None:
    """By hand, for a tile of 2 x 2 cells of P3: the last convolution sees 1/4 cell around, P3' is made with 1/2.

    Stage 3 of a ResNet-18 sees 7 cells of C2' around that, 8 to stay even, and runs on all of them; stage 2 sees 4
    more, stem and pool 2 more.
    """
    _, level = levels(detector("refined", detail=Doubled(), last_stage=3), torch.rand(1, 3, 256, 384))
    stage2, lateral, post = 4 * 9 * 64 * 64, 64 * 8, 9 * 8 * 8
    stage3 = 9 * 64 * 128 + 3 * 9 * 128 * 128 + 64 * 128
    expected = (
        4 * 9 * 8 * 8 * (2 + 2 * (1 + 4)) ** 2
        + 16 * (lateral + post) * 2.5**2
        + 4 * 128 * 8 * 3**2
        + 4 * stage3 * (2 + 2 * (2 + 8) / 4) ** 2
        + 16 * stage2 * (2 + 2 * (2 + 8 + 4) / 4) ** 2
        + 64 * 3 * 64 * 49 * (2 + 2 * (2 + 8 + 4 + 2) / 4) ** 2
    )
    assert level._price(np.array([[12, 12, 14, 14]])) == pytest.approx(expected)


@pytest.mark.parametrize("margin", [None, 0, 1])
@pytest.mark.parametrize(
    "upsampler, detail, last_stage, arch",
    [
        ("ftt", Stem(), 2, "resnet18"),
        ("refined", Doubled(), 3, "resnet18"),
        ("refined", Doubled(), 4, "resnet18"),
        ("refined", Doubled(), 4, "resnet50"),
        ("refined", Doubled(), 5, "resnet50"),
    ],
)
def test_the_price_of_a_tile_is_the_work_done_for_it(
    upsampler: str, detail: Detail, last_stage: int, arch: str, margin: int | None
) -> None:
    model = detector(upsampler, arch, detail=detail, last_stage=last_stage, margin=margin)
    _, level = levels(model, torch.rand(1, 3, 384, 512))
    done: list[int] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda conv, _, out: done.append(conv.weight.numel() * out[0, 0].numel()))
    # an odd one is cut at whole cells of P4 where that feeds the upsampler, and its price is near
    for part in [Rect(20, 24, 26, 28)] + ([Rect(11, 9, 14, 14)] if last_stage == 3 else []):
        done.clear()
        with torch.no_grad():
            level._computed([(0, level._cut(part))])
        assert sum(done) == level._price(np.array([part]))[0]


class Attends(TwoStage):
    """Says that it sees nothing around, and looks at the mean of the whole map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 1)
        self.reach, self.work = (0, 0), (0, 0)

    def content_of(self, p3: Tensor) -> Tensor:
        return F.interpolate(p3 + self.mix(p3.mean((2, 3), keepdim=True)), scale_factor=2.0)

    def texture_of(self, p3: Tensor, p2: Tensor, content: Tensor) -> Tensor:
        return content


class Plain(Upsampler):
    """Says nothing of what it sees."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, p3: Tensor, p2: Tensor) -> Tensor:
        return F.interpolate(p3, scale_factor=2.0, mode="bilinear")


class Normed(Plain, TwoStage):
    """Group-norm: every cell hangs on all."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.norm = nn.GroupNorm(2, channels)
        self.reach, self.work = (1, 0), (0, 0)

    def content_of(self, p3: Tensor) -> Tensor:
        return F.interpolate(self.norm(p3), scale_factor=2.0)

    def texture_of(self, p3: Tensor, p2: Tensor, content: Tensor) -> Tensor:
        return content


@pytest.mark.parametrize("upsampler, told", [(Attends, True), (Normed, True), (Plain, False)])
def test_what_sees_further_than_it_says_is_computed_whole(
    upsampler: type[Upsampler], told: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(UPSAMPLERS, "own", upsampler)
    model = detector("own", tiles=Tiles())
    assert model.backbone.tiles is None
    said = "a layer sees further than told" if told else "does not say how far it sees"
    assert upsampler.__name__ in model.backbone.whole_because and said in model.backbone.whole_because
    assert ("P2' is computed whole: " + upsampler.__name__ in caplog.text) == told
    with torch.no_grad():
        assert isinstance(model.backbone(torch.rand(1, 3, 64, 64))["p2_ext"], Tensor)
        model([torch.rand(3, 64, 96)])


def test_trying_the_tiles_out_leaves_weights_and_random_numbers_alone() -> None:
    whole, cut = detector(), detector(tiles=Tiles())
    assert cut.backbone.tiles is not None
    for (name, mine), theirs in zip(whole.state_dict().items(), cut.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name


def test_a_smaller_margin_costs_less_and_is_near() -> None:
    exact, near = (detector(tiles=Tiles(dense_from=100), margin=margin) for margin in (None, 2))
    assert near.backbone.tiles and not near.backbone.whole_because
    image = torch.rand(1, 3, 256, 384)
    _, level = levels(exact, image)
    _, cheaper = levels(near, image)
    assert cheaper.margins == (2, 2) and level.margins == (4, 6)
    tile = np.array([[10, 10, 12, 12]])
    assert cheaper._price(tile) < level._price(tile)
    assert 1e-4 < differs(near, [BOXES["middle"]], image) < 1


@pytest.mark.parametrize("last_stage, exact", [(3, {2: 4, 3: 8}), (4, {2: 4, 3: 8, 4: 8})])
def test_a_smaller_margin_holds_for_every_stage_of_the_second_pass(last_stage: int, exact: dict[int, int]) -> None:
    options: dict[str, Any] = {"detail": Doubled(), "last_stage": last_stage}
    whole, near = (detector("refined", tiles=Tiles(dense_from=100), margin=most, **options) for most in (None, 3))
    image = torch.rand(1, 3, 256, 384)
    _, level = levels(whole, image)
    _, cheaper = levels(near, image)
    # an even number where the resolution is halved
    assert level.reaches == exact and cheaper.reaches == {2: 3, **{n: 4 for n in exact if n > 2}}
    tile = np.array([[10, 10, 12, 12]])
    assert cheaper._price(tile) < level._price(tile)
    assert 1e-4 < differs(near, [BOXES["crowd"]], image) < 1


@pytest.mark.parametrize("upsampler, detail, last_stage", [("ftt", Stem(), 2), ("refined", Image2x(), 4)])
def test_without_a_margin_a_tile_is_made_of_what_lies_under_it_alone(
    upsampler: str, detail: Detail, last_stage: int
) -> None:
    """Nothing around it changes it, and at the edge of the image it has the shape of any other."""
    model = detector(upsampler, detail=detail, last_stage=last_stage, margin=0)
    _, level = levels(model, torch.rand(1, 3, 256, 384))
    inside, edge = Rect(10, 10, 12, 14), Rect(0, 44, 2, 48)
    cut = level._cut(inside)
    assert cut.layout == level._cut(edge).layout
    with torch.no_grad():
        expected = level._computed([(0, cut)])
        fine = level.fine.map.shape[-1] // level.size[1]
        fed, (read, texture) = level.extension.fed, cut.inputs or ()
        assert read == (inside if fed == 3 else Rect(5, 5, 7, 8))  # of P4 one more along each axis, see halved_alike
        level.maps |= {
            f"p{fed}": alone(level.maps[f"p{fed}"], read),
            f"p{fed - 1}": alone(level.maps[f"p{fed - 1}"], texture.times(2)),
        }
        level.fine = replace(level.fine, map=alone(level.fine.map, inside.times(fine)))
        assert torch.equal(level._computed([(0, cut)]), expected)


def alone(maps: Tensor, part: Rect) -> Tensor:
    """A map of which a part stays and all else is another."""
    other = torch.rand_like(maps)
    part.of(other)[:] = part.of(maps)
    return other


def test_numbers_that_would_cut_wrongly_are_refused() -> None:
    with pytest.raises(UserError, match=r"model\.tiles\.grid=0: must be at least 1"):
        Tiles(grid=0)
    with pytest.raises(UserError, match=r"extension\.margin=-1: must be at least 0"):
        detector(margin=-1)


@pytest.mark.parametrize("upsampler", list(UPSAMPLERS))
def test_reach_is_what_a_changed_cell_changes(upsampler: str) -> None:
    """One cell of P3 (of P2) is changed: P3' changes within the reach, and at its rim."""
    up = UPSAMPLERS[upsampler](4).double()
    for module in up.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight)
    p3, p2 = torch.rand(1, 4, 33, 33).double(), torch.rand(1, 4, 66, 66).double()
    coarse, fine = up.reach
    other = p3.clone()
    other[..., 16, 16] += 1
    with torch.no_grad():
        rows = (up(other, p2) != up(p3, p2)).any(dim=1)[0].any(dim=1).nonzero()
        assert rows.min() == 32 - 2 * coarse - fine and rows.max() == 33 + 2 * coarse + fine
        touched = p2.clone()
        touched[..., 32, 32] += 1
        rows = (up(p3, touched) != up(p3, p2)).any(dim=1)[0].any(dim=1).nonzero()
    assert (rows.min(), rows.max()) == (32 - fine, 32 + fine) if fine else not len(rows)


def test_reach_of_stage_2() -> None:
    for arch, cells in (("resnet18", 4), ("resnet50", 3)):
        assert reach(ResNet(arch, weights=None, norm="batch", trainable_stages=5).layer1) == cells


def test_reach_of_stage_3_is_counted_where_it_reads() -> None:
    """Its first 3x3 convolution halves the resolution: 1 cell, then 2 for each of the three that follow."""
    for arch, cells in (("resnet18", 7), ("resnet50", 7)):
        assert reach(ResNet(arch, weights=None, norm="batch", trainable_stages=5).layer2) == cells
