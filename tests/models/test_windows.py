"""P2' under small RoIs alone is the dense P2' there, whatever the boxes, the pictures and the upsampler."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from efpn.models import (
    ESPCN,
    FTT,
    EFPNDetector,
    Extension,
    Nearest,
    ResNetTrunk,
    RoISettings,
    RPNSettings,
    SmallRoIs,
    Windows,
    build_detector,
)
from efpn.models.windows import Rect, WindowedLevel, joined, reach, runs, tiles_under

UPSAMPLERS = {
    "ftt": lambda c: FTT(c, 12),
    "one block, no tail": lambda c: FTT(c, 12, blocks=1, outer_skip=False, tail=False),
    "espcn": lambda c: ESPCN(c, (8, 6)),
    "nearest": lambda c: Nearest(c),
}


def detector(
    upsampler: str = "ftt", arch: str = "resnet18", windows: Windows | None = None, **options: Any
) -> EFPNDetector:
    """With every layer of the extension random, none at zero."""
    torch.manual_seed(0)
    trunk = ResNetTrunk(arch, weights=None, norm="batch", trainable_stages=5)
    roi = RoISettings(head_width=16, score_thresh=0.0, detections_per_image=50)
    rpn = RPNSettings(anchor_sizes=(8, 16, 32, 64, 128), post_nms_top_n=(100, 60))

    def extension(c2_channels: int, channels: int) -> Extension:
        return Extension(UPSAMPLERS[upsampler](channels), c2_channels, channels, **options)

    small = SmallRoIs(24, own_head=True)
    model = build_detector(trunk, 4, channels=8, rpn=rpn, roi=roi, small=small, extension=extension, windows=windows)
    for module in model.backbone.extension.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            nn.init.normal_(module.bias, std=0.5)
    return model.eval()


def levels(model: EFPNDetector, images: Tensor) -> tuple[Tensor, WindowedLevel]:
    """P2' dense, and waiting."""
    backbone = model.backbone
    with torch.no_grad():
        dense = backbone.extension.extend(backbone.pyramid(images, extended=True))[1]
        pyramid = backbone.fpn(backbone.body(images, stem=True))
    return dense, WindowedLevel(backbone.extension, backbone.body.layer1, pyramid, model.backbone.windows or Windows())


BOXES = {
    "middle": [[200.0, 90.0, 214.0, 100.0]],
    "corners": [[0.0, 0.0, 6.0, 6.0], [378.0, 250.0, 384.0, 256.0]],
    "edge": [[120.0, 0.0, 140.0, 9.0], [0.0, 100.0, 3.0, 180.0]],
    "tiny": [[77.3, 33.1, 77.9, 33.2]],
    "long": [[10.0, 60.0, 370.0, 62.0]],
    "crowd": [[100.0 + 3 * n, 40.0 + 5 * n, 112.0 + 3 * n, 50.0 + 5 * n] for n in range(12)],
}


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
@pytest.mark.parametrize("upsampler", list(UPSAMPLERS))
def test_pooled_features_are_those_of_the_dense_map(upsampler: str, arch: str) -> None:
    model = detector(upsampler, arch, Windows(dense_from=100))
    dense, level = levels(model, torch.rand(1, 3, 256, 384))
    pool = model.roi_heads.box_roi_pool.extended
    for name, boxes in BOXES.items():
        wanted = [torch.tensor(boxes)]
        with torch.no_grad():
            part = level.under(wanted)
        assert (part == 0).any(), name  # the map was not computed whole
        expected, got = (pool({"p2x": one}, wanted, [(256, 384)]) for one in (dense, part))
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3 * float(expected.std()), msg=name)


@pytest.mark.parametrize("source, post_conv", [("inner", False), ("output", True)])
def test_every_form_of_the_extension_can_be_cut(source: str, post_conv: bool) -> None:
    model = detector(source=source, post_conv=post_conv)
    dense, level = levels(model, torch.rand(2, 3, 256, 384))
    with torch.no_grad():
        part = level.under([torch.tensor(BOXES["edge"]), torch.tensor(BOXES["corners"])])
    there = (part != 0).any(dim=1, keepdim=True).expand_as(part)
    assert 0 < there.float().mean() < 0.5
    torch.testing.assert_close(part[there], dense[there], rtol=1e-3, atol=1e-3 * float(dense.std()))


@pytest.mark.parametrize("threshold", [1e-6, 24.0, 1e6])  # no small RoI, some, all
def test_detections_are_those_of_the_dense_model(threshold: float) -> None:
    images = [torch.rand(3, 200, 300), torch.rand(3, 150, 120), torch.rand(3, 90, 310)]
    found = []
    for windows in (None, Windows(), Windows(tile=1), Windows(dense_from=100)):
        model = detector(windows=windows)
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
    model = detector(windows=Windows())
    model.roi_heads.box_roi_pool.small = SmallRoIs(1e-6, own_head=True)
    model.backbone.extension.forward = model.backbone.extension.merge = None  # type: ignore[assignment,method-assign]
    with torch.no_grad():
        assert len(model([torch.rand(3, 96, 128)])[0]["boxes"])


def test_training_computes_the_whole_map() -> None:
    model = detector(windows=Windows())
    assert isinstance(model.backbone(torch.rand(1, 3, 64, 64))["p2x"], WindowedLevel)
    p2x = model.train().backbone(torch.rand(2, 3, 64, 64))["p2x"]
    assert isinstance(p2x, Tensor) and p2x.requires_grad


def test_a_picture_full_of_small_rois_is_computed_whole() -> None:
    model = detector(windows=Windows())
    dense, level = levels(model, torch.rand(1, 3, 128, 128))
    grid = torch.cartesian_prod(torch.arange(0, 128, 8.0), torch.arange(0, 128, 8.0))
    with torch.no_grad():
        assert torch.equal(level.under([torch.cat([grid, grid + 8], dim=1)]), dense)


def test_a_smaller_margin_costs_less_and_is_near() -> None:
    boxes = [torch.tensor(BOXES["middle"])]
    exact, near = (detector(windows=Windows(margin=margin)) for margin in (None, 2))
    dense, level = levels(exact, torch.rand(1, 3, 256, 384, generator=torch.Generator().manual_seed(3)))
    _, cheaper = levels(near, torch.rand(1, 3, 256, 384, generator=torch.Generator().manual_seed(3)))
    assert cheaper._margins() == (2, 2) and level._margins() == (4, 6)
    pool = exact.roi_heads.box_roi_pool.extended
    with torch.no_grad():
        expected = pool({"p2x": dense}, boxes, [(256, 384)])
        got = pool({"p2x": cheaper.under(boxes)}, boxes, [(256, 384)])
    off = (got - expected).abs().mean() / expected.std()
    assert 1e-5 < off < 0.2


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
        assert reach(ResNetTrunk(arch, weights=None, norm="batch", trainable_stages=5).layer1) == cells


def test_tiles_under_boxes_by_hand() -> None:
    """Tiles of 16 px on a map of 4 x 6 cells of 8 px: a box is one P2' cell wide at least, and reads one more."""
    boxes = torch.tensor([[0.0, 0.0, 5.0, 5.0], [30.0, 20.0, 33.0, 30.5], [47.0, 31.0, 48.0, 32.0]])
    assert tiles_under(boxes, (4, 6), 2).tolist() == [[True, False, False], [False, True, True]]
    assert not tiles_under(boxes[:0], (4, 6), 2).any()
    assert tiles_under(torch.tensor([[0.0, 0.0, 13.9, 2.0]]), (4, 6), 2).tolist()[0] == [True, False, False]
    assert tiles_under(torch.tensor([[0.0, 0.0, 14.0, 2.0]]), (4, 6), 2).tolist()[0] == [True, True, False]


def test_runs_are_rectangles_that_cover_the_tiles_once() -> None:
    tiles = torch.tensor([[1, 1, 0, 1], [1, 1, 0, 0], [0, 1, 0, 1]]).bool()
    assert set(runs(tiles)) == {Rect(0, 0, 2, 2), Rect(0, 3, 1, 4), Rect(2, 1, 3, 2), Rect(2, 3, 3, 4)}
    random = torch.rand(20, 30, generator=torch.Generator().manual_seed(0)) < 0.4
    covered = torch.zeros(20, 30, dtype=torch.int)
    for rect in runs(random):
        rect.of(covered).add_(1)
    assert torch.equal(covered, random.int())


def test_rectangles_are_joined_where_that_saves_work() -> None:
    near, far = [Rect(0, 0, 2, 2), Rect(0, 3, 2, 5)], Rect(50, 50, 52, 52)
    assert set(joined([*near, far], 4, (100, 100))) == {Rect(0, 0, 2, 5), far}
    assert set(joined(near, 0, (100, 100))) == set(near)
    assert joined([], 4, (100, 100)) == []
