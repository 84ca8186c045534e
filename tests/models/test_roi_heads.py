"""Which level a RoI reads, which head judges it, and what OHEM picks."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.ops import MultiScaleRoIAlign

from efpn.errors import UserError
from efpn.models import OHEM, PyramidRoIHeads, RoISettings, SmallRoIs
from efpn.models.roi_heads import PyramidRoIAlign, box_losses, interleave, roi_losses
from efpn.types import LevelSpec

CHANNELS, SIDE, CLASSES = 4, 128, 3
SHAPES = [(SIDE, SIDE)]
SMALL_BOX, LARGE_BOX = [8.0, 8.0, 24.0, 24.0], [10.0, 20.0, 90.0, 100.0]


STRIDES = {"p2_ext": 2, "p2": 4, "p3": 8, "p4": 16, "p5": 32}
LEVELS = [LevelSpec(name, stride, CHANNELS) for name, stride in STRIDES.items()]


def maps(requires_grad: bool = False) -> dict[str, torch.Tensor]:
    return {
        name: torch.rand(1, CHANNELS, SIDE // s, SIDE // s, requires_grad=requires_grad) for name, s in STRIDES.items()
    }


def heads(small: SmallRoIs | None = None, **settings) -> PyramidRoIHeads:
    return PyramidRoIHeads(LEVELS, CLASSES, RoISettings(head_width=16, **settings), small)


def target(*boxes: list[float]) -> list[dict[str, torch.Tensor]]:
    return [{"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.ones(len(boxes), dtype=torch.int64)}]


def test_small_is_the_root_of_the_area_below_the_threshold() -> None:
    pool = PyramidRoIAlign(LEVELS, SmallRoIs(below=16))
    boxes = torch.tensor([[0.0, 0, 16, 16], [0, 0, 15.9, 16], [0, 0, 64, 3.9], [0, 0, 64, 4.1]])
    assert pool.is_small(boxes).tolist() == [False, True, True, False]


def test_small_rois_read_p2x_and_the_others_their_fpn_level() -> None:
    features, proposals = maps(), [torch.tensor([LARGE_BOX, SMALL_BOX, LARGE_BOX])]
    pooled = PyramidRoIAlign(LEVELS, SmallRoIs(below=20))(features, proposals, SHAPES)
    regular = MultiScaleRoIAlign(["p2", "p3", "p4", "p5"], 7, 2)(features, proposals, SHAPES)
    extended = MultiScaleRoIAlign(["p2_ext"], 7, 2)(features, proposals, SHAPES)
    torch.testing.assert_close(pooled, torch.stack([regular[0], extended[1], regular[2]]))


def test_cocos_rule_leaves_p2_without_a_roi_and_the_shifted_one_does_not() -> None:
    sides = torch.tensor([112.0, 130, 223, 224, 447, 448, 900])
    boxes = torch.stack([0 * sides, 0 * sides, sides, sides], 1)
    small = SmallRoIs(below=112)
    assert not PyramidRoIAlign(LEVELS, small).is_small(boxes).any()
    paper, shifted = (heads(small, canonical_size=size).box_roi_pool.regular for size in (224, 448))
    assert paper.map_levels([boxes]).tolist() == [1, 1, 1, 2, 2, 3, 3]  # P3 and up
    assert shifted.map_levels([boxes]).tolist() == [0, 0, 0, 1, 1, 2, 3]


def test_small_rois_of_several_images_stay_in_order() -> None:
    features = {name: torch.cat([level, level + 1]) for name, level in maps().items()}
    proposals = [torch.tensor([SMALL_BOX, LARGE_BOX]), torch.tensor([LARGE_BOX, SMALL_BOX])]
    pooled = PyramidRoIAlign(LEVELS, SmallRoIs(below=20))(features, proposals, SHAPES * 2)
    torch.testing.assert_close(pooled[2:].flip(0), pooled[:2] + 1)


def test_without_an_extension_it_is_torchvisions() -> None:
    ours = heads().eval()
    reference = RoIHeads(
        MultiScaleRoIAlign(["p2", "p3", "p4", "p5"], 7, 2), ours.box_head, ours.box_predictor,
        0.5, 0.5, 512, 0.25, None, 0.05, 0.5, 100,
    ).eval()  # fmt: skip
    features, proposals = maps(), [torch.rand(30, 4) * 40 + torch.tensor([0.0, 0, 40, 40])]
    for mine, theirs in zip(
        ours(features, proposals, SHAPES)[0], reference(features, proposals, SHAPES)[0], strict=True
    ):
        for key in ("boxes", "scores", "labels"):
            torch.testing.assert_close(mine[key], theirs[key])


def test_interleave_keeps_the_order_of_rois() -> None:
    merged = interleave(
        torch.tensor([1, 3]), torch.tensor([10, 20, 30]), torch.tensor([True, False, True, True, False])
    )
    assert merged.tolist() == [10, 1, 20, 30, 3]


def test_each_roi_is_judged_by_the_head_of_its_level() -> None:
    model = heads(SmallRoIs(below=20, own_head=True)).eval()
    features, proposals = maps(), [torch.tensor([LARGE_BOX, SMALL_BOX])]
    before, _ = model.box_outputs(features, proposals, SHAPES)
    with torch.no_grad():
        model.small_head[1].cls_score.bias += 1
    after, _ = model.box_outputs(features, proposals, SHAPES)
    torch.testing.assert_close(after[0], before[0])
    torch.testing.assert_close(after[1], before[1] + 1)


def test_the_small_head_starts_as_the_other() -> None:
    model = heads(SmallRoIs(below=20, own_head=True))
    with torch.no_grad():
        model.box_predictor.cls_score.bias += 1
    model.start_small_head()
    for mine, other in zip(model.small_head[1].parameters(), model.box_predictor.parameters(), strict=True):
        assert torch.equal(mine, other) and mine is not other


def apart(count: int) -> torch.Tensor:
    """Boxes that do not touch."""
    corners = 20.0 * torch.arange(count)[:, None] * torch.ones(1, 4)
    return corners + torch.tensor([0.0, 0, 10, 10])


def test_hardest_by_hand() -> None:
    losses = torch.tensor([0.1, 0.9, 0.5, 0.3, 0.8])
    assert [h.tolist() for h in OHEM(per_image=2).hardest([apart(3), apart(2)], losses)] == [[1, 2], [1, 0]]


def test_hardest_takes_what_there_is() -> None:
    losses = torch.tensor([0.1, 0.2])
    for ohem in (OHEM(per_image=5), OHEM(per_image=None), OHEM(per_image=None, keep=1.0, nms=0.5)):
        assert [h.tolist() for h in ohem.hardest([apart(2), apart(0)], losses)] == [[1, 0], []]


def test_keep_is_a_share_of_the_candidates_and_per_image_its_cap() -> None:
    losses = torch.tensor([0.1, 0.9, 0.5, 0.3, 0.8, 0.4])
    rois = [apart(5), apart(1)]
    assert [h.tolist() for h in OHEM(keep=0.4).hardest(rois, losses)] == [[1, 4], [0]]
    assert [h.tolist() for h in OHEM(keep=0.5).hardest(rois, losses)] == [[1, 4, 2], [0]]  # 2.5, rounded up
    assert [h.tolist() for h in OHEM(keep=0.5, per_image=1).hardest(rois, losses)] == [[1], [0]]


def test_nms_by_loss_leaves_the_hardest_of_each_place() -> None:
    place = torch.tensor([[0.0, 0, 20, 20], [0, 1, 20, 21], [0, 9, 20, 29], [60, 60, 80, 80]])  # IoU 0.90 and 0.38
    losses = torch.tensor([0.5, 0.9, 0.4, 0.1])
    assert [h.tolist() for h in OHEM(nms=0.7).hardest([place], losses)] == [[1, 2, 3]]
    assert [h.tolist() for h in OHEM(nms=0.3).hardest([place], losses)] == [[1, 3]]
    assert [h.tolist() for h in OHEM(nms=0.7, keep=0.5).hardest([place], losses)] == [[1, 2]]  # a share of what is left


@pytest.mark.parametrize("wrong", [{"keep": 0}, {"per_image": 0}])
def test_ohem_by_which_nothing_is_mined_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"mining.{next(iter(wrong))}="):
        OHEM(**wrong)


def test_roi_losses_average_to_torchvisions_loss() -> None:
    logits, deltas = torch.randn(6, CLASSES), torch.randn(6, 4 * CLASSES)
    labels, targets = torch.tensor([0, 1, 2, 0, 1, 0]), torch.randn(6, 4)
    classification, regression = fastrcnn_loss(logits, deltas, [labels], [targets])
    torch.testing.assert_close(roi_losses(logits, deltas, labels, targets).mean(), classification + regression)


def test_ohem_trains_on_the_small_rois_of_highest_loss() -> None:
    model = heads(SmallRoIs(below=40, own_head=True, mining=OHEM(per_image=2))).train()
    features = maps()
    proposals = [torch.tensor([LARGE_BOX, SMALL_BOX, [60.0, 60, 80, 80], [30.0, 90, 40, 99], [90.0, 5, 99, 20]])]
    truth = target(SMALL_BOX)
    rois, labels, deltas = model.small_candidates(proposals, truth)
    assert len(rois[0]) == 5  # four small proposals and the ground truth; the large one is out
    assert labels[0].tolist() == [1, 0, 0, 0, 1]
    with torch.no_grad():
        losses = roi_losses(*model.box_outputs(features, rois, SHAPES), torch.cat(labels), torch.cat(deltas))
    hard = losses.topk(2).indices
    expected = box_losses(*model.box_outputs(features, [rois[0][hard]], SHAPES), [labels[0][hard]], [deltas[0][hard]])
    _, got = model(features, proposals, SHAPES, truth)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value)


def test_no_small_roi_gives_a_zero_loss_that_reaches_every_parameter() -> None:
    model = heads(SmallRoIs(below=40, own_head=True, mining=OHEM(per_image=2))).train()
    features = maps(requires_grad=True)
    _, losses = model(features, [torch.tensor([LARGE_BOX])], SHAPES, target(LARGE_BOX))
    total = sum(losses.values())
    assert total.item() == 0
    total.backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.small_head.parameters())
    assert features["p2_ext"].grad is not None  # and so does the extension that made it


def test_ohem_on_an_image_without_boxes_takes_the_hardest() -> None:
    model = heads(SmallRoIs(below=40, own_head=True, mining=OHEM(per_image=4))).train()
    features, proposals = maps(), [torch.cat([apart(6), torch.tensor([LARGE_BOX])])]
    rois, labels, deltas = model.small_candidates(proposals, target())
    assert len(rois[0]) == 6 and not labels[0].any() and not deltas[0].any()
    with torch.no_grad():
        logits, found = model.box_outputs(features, rois, SHAPES)
        losses = roi_losses(logits, found, labels[0], deltas[0])
        surprise = -logits.log_softmax(1)[:, 0]  # there is no box to miss: the classes alone decide
    torch.testing.assert_close(losses, surprise)
    hard = surprise.topk(4).indices
    assert torch.equal(model.ohem.hardest(rois, losses)[0], hard)
    _, got = model(features, proposals, SHAPES, target())
    torch.testing.assert_close(got["loss_classifier"], surprise[hard].mean())
    assert got["loss_box_reg"].item() == 0


def test_random_sampling_is_torchvisions() -> None:
    model = heads(batch_size=8).train()
    truth = [*target(SMALL_BOX, LARGE_BOX), *target()]
    proposals = [torch.rand(40, 4) * 40 + torch.tensor([0.0, 0, 40, 40]) for _ in truth]
    proposals[0][:10] = torch.tensor(LARGE_BOX) + torch.rand(10, 4)
    torch.manual_seed(1)
    rois, labels, deltas = model._training_rois({}, proposals, SHAPES * 2, truth)
    torch.manual_seed(1)
    same, _, expected, aims = model.select_training_samples(list(proposals), truth)
    for mine, theirs in zip((*rois, *labels), (*same, *expected), strict=True):
        assert torch.equal(mine, theirs)
    positive = labels[0] > 0
    assert positive.any() and torch.equal(deltas[0][positive], aims[0][positive])


CROWD = torch.tensor([[60.0, 60, 100, 100]])
IN_CROWD, HALF_OUT, MOSTLY_OUT = [62.0, 62, 74, 74], [54.0, 62, 66, 74], [53.0, 62, 65, 74]


@pytest.mark.parametrize("ohem", [None, OHEM()])
def test_no_roi_in_a_crowd_region_is_background(ohem: OHEM | None) -> None:
    model = heads(SmallRoIs(below=40, own_head=True, mining=ohem)).train()
    proposals = [torch.tensor([SMALL_BOX, IN_CROWD, HALF_OUT, MOSTLY_OUT])]
    truth = [{**target([8.0, 8, 24, 26])[0], "ignore_boxes": CROWD}]
    rois, labels, _ = model._training_rois(maps(), proposals, SHAPES, truth)
    assert sorted(rois[0].tolist()) == sorted([SMALL_BOX, MOSTLY_OUT, [8.0, 8, 24, 26]])
    assert sorted(labels[0].tolist()) == [0, 1, 1]


def test_an_object_in_a_crowd_region_still_trains() -> None:
    model = heads().train()
    truth = [{**target(IN_CROWD)[0], "ignore_boxes": CROWD}]
    _, labels, _ = model.candidates([torch.tensor([IN_CROWD, [80.0, 80, 90, 90]])], truth)
    assert labels[0].tolist() == [1, -1, 1]


@pytest.mark.parametrize("below", [0, -3.0, float("nan")])
def test_a_threshold_that_sends_nothing_to_p2x_is_refused(below: float) -> None:
    with pytest.raises(UserError, match=r"small_roi_below=.*: must be greater than 0 \(pixels of the 1x input"):
        SmallRoIs(below=below)


def test_strides_are_known_and_not_guessed_from_a_first_small_image() -> None:
    fresh, used = PyramidRoIAlign(LEVELS), PyramidRoIAlign(LEVELS)
    tiny = {f"p{n}": torch.rand(1, CHANNELS, -(-40 // 2**n), -(-40 // 2**n)) for n in (2, 3, 4, 5)}
    used(tiny, [torch.tensor([SMALL_BOX])], [(40, 40)])
    features, proposals = maps(), [torch.tensor([LARGE_BOX, SMALL_BOX, [0.0, 0, 128, 128]])]
    torch.testing.assert_close(used(features, proposals, SHAPES), fresh(features, proposals, SHAPES))
    assert fresh.regular.scales == [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    assert MultiScaleRoIAlign(["p2"], 7, 2).scales is None  # torchvision still has the attribute that is set
