"""Which level a RoI reads, which head judges it, and what OHEM picks."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.ops import MultiScaleRoIAlign

from efpn.errors import UserError
from efpn.models import OHEM, PyramidRoIHeads, RoISettings, SmallRoIs
from efpn.models.roi_heads import PyramidRoIAlign, box_losses, hardest, interleave, roi_losses

CHANNELS, SIDE, CLASSES = 4, 128, 3
SHAPES = [(SIDE, SIDE)]
SMALL_BOX, LARGE_BOX = [8.0, 8.0, 24.0, 24.0], [10.0, 20.0, 90.0, 100.0]


def maps(requires_grad: bool = False) -> dict[str, torch.Tensor]:
    strides = {"p2x": 2, "p2": 4, "p3": 8, "p4": 16, "p5": 32}
    return {
        name: torch.rand(1, CHANNELS, SIDE // s, SIDE // s, requires_grad=requires_grad) for name, s in strides.items()
    }


def heads(small: SmallRoIs | None = None, ohem: OHEM | None = None, **settings) -> PyramidRoIHeads:
    return PyramidRoIHeads(CHANNELS, CLASSES, RoISettings(head_width=16, **settings), small, ohem)


def target(*boxes: list[float]) -> list[dict[str, torch.Tensor]]:
    return [{"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.ones(len(boxes), dtype=torch.int64)}]


def test_small_is_the_root_of_the_area_below_the_threshold() -> None:
    pool = PyramidRoIAlign(SmallRoIs(below=16))
    boxes = torch.tensor([[0.0, 0, 16, 16], [0, 0, 15.9, 16], [0, 0, 64, 3.9], [0, 0, 64, 4.1]])
    assert pool.is_small(boxes).tolist() == [False, True, True, False]


def test_small_rois_read_p2x_and_the_others_their_fpn_level() -> None:
    features, proposals = maps(), [torch.tensor([LARGE_BOX, SMALL_BOX, LARGE_BOX])]
    pooled = PyramidRoIAlign(SmallRoIs(below=20))(features, proposals, SHAPES)
    regular = MultiScaleRoIAlign(["p2", "p3", "p4", "p5"], 7, 2)(features, proposals, SHAPES)
    extended = MultiScaleRoIAlign(["p2x"], 7, 2)(features, proposals, SHAPES)
    torch.testing.assert_close(pooled, torch.stack([regular[0], extended[1], regular[2]]))


def test_small_rois_of_several_pictures_stay_in_order() -> None:
    features = {name: torch.cat([level, level + 1]) for name, level in maps().items()}
    proposals = [torch.tensor([SMALL_BOX, LARGE_BOX]), torch.tensor([LARGE_BOX, SMALL_BOX])]
    pooled = PyramidRoIAlign(SmallRoIs(below=20))(features, proposals, SHAPES * 2)
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


def test_hardest_by_hand() -> None:
    losses = torch.tensor([0.1, 0.9, 0.5, 0.3, 0.8])
    assert [h.tolist() for h in hardest(losses, [3, 2], per_image=2)] == [[1, 2], [1, 0]]


def test_hardest_takes_what_there_is() -> None:
    assert [h.tolist() for h in hardest(torch.tensor([0.1, 0.2]), [2, 0], per_image=5)] == [[1, 0], []]


def test_roi_losses_average_to_torchvisions_loss() -> None:
    logits, deltas = torch.randn(6, CLASSES), torch.randn(6, 4 * CLASSES)
    labels, targets = torch.tensor([0, 1, 2, 0, 1, 0]), torch.randn(6, 4)
    classification, regression = fastrcnn_loss(logits, deltas, [labels], [targets])
    torch.testing.assert_close(roi_losses(logits, deltas, labels, targets).mean(), classification + regression)


def test_ohem_trains_on_the_small_rois_of_highest_loss() -> None:
    model = heads(SmallRoIs(below=40, own_head=True), OHEM(per_image=2)).train()
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
    model = heads(SmallRoIs(below=40, own_head=True), OHEM(per_image=2)).train()
    features = maps(requires_grad=True)
    _, losses = model(features, [torch.tensor([LARGE_BOX])], SHAPES, target(LARGE_BOX))
    total = sum(losses.values())
    assert total.item() == 0
    total.backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.small_head.parameters())
    assert features["p2x"].grad is not None  # and so does the extension that made it


def test_ohem_on_a_picture_without_boxes() -> None:
    model = heads(SmallRoIs(below=40, own_head=True), OHEM(per_image=4)).train()
    _, losses = model(maps(), [torch.tensor([SMALL_BOX, LARGE_BOX])], SHAPES, target())
    assert losses["loss_box_reg"].item() == 0 and losses["loss_classifier"].item() > 0


@pytest.mark.parametrize("below", [0, -3.0, float("nan")])
def test_a_threshold_that_sends_nothing_to_p2x_is_refused(below: float) -> None:
    with pytest.raises(UserError, match=r"small_roi_below=.*: must be greater than 0 \(pixels of the 1x input"):
        SmallRoIs(below=below)


def test_ohem_needs_small_rois() -> None:
    with pytest.raises(UserError, match="model.ohem: mines small RoIs, so it needs model.small"):
        heads(ohem=OHEM())


def test_strides_are_known_and_not_guessed_from_a_first_small_picture() -> None:
    fresh, used = PyramidRoIAlign(), PyramidRoIAlign()
    tiny = {f"p{n}": torch.rand(1, CHANNELS, -(-40 // 2**n), -(-40 // 2**n)) for n in (2, 3, 4, 5)}
    used(tiny, [torch.tensor([SMALL_BOX])], [(40, 40)])
    features, proposals = maps(), [torch.tensor([LARGE_BOX, SMALL_BOX, [0.0, 0, 128, 128]])]
    torch.testing.assert_close(used(features, proposals, SHAPES), fresh(features, proposals, SHAPES))
    assert fresh.regular.scales == [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    assert MultiScaleRoIAlign(["p2"], 7, 2).scales is None  # torchvision still has the attribute that is set
