"""The recorder sees what the caps hide, and changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import nms

from efpn.errors import UserError
from efpn.evaluation.stages import StageRecorder, pooled_from
from efpn.evaluation.variants import find_variants
from efpn.models import EFPNDetector, ResNet, RoISettings, RPNSettings, SmallRoIs, build_faster_rcnn

CAP, KEPT = 30, 20


@pytest.fixture(scope="module")
def detector() -> EFPNDetector:
    torch.manual_seed(0)
    rpn = RPNSettings(anchor_sizes=(8, 16, 32, 64, 128), post_nms_top_n=(100, CAP))
    roi = RoISettings(head_width=16, score_thresh=0.0, detections_per_image=KEPT)
    backbone = ResNet("resnet18", weights=None, norm="batch", trainable_stages=5)
    small = SmallRoIs(40, level="p2", own_head=True)
    return build_faster_rcnn(backbone, 4, channels=8, rpn=rpn, roi=roi, small=small).eval()


@pytest.fixture(scope="module")
def batch():
    """Two images at 0.5 and (0.5, 0.25) of their native size."""
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(3, 96, 128, generator=generator), torch.rand(3, 64, 64, generator=generator)]
    scales = torch.tensor([[0.5, 0.5], [0.5, 0.25]])
    return images, [{"image_id": torch.tensor(n), "scale": scale} for n, scale in zip((7, 3), scales, strict=True)]


@pytest.fixture(scope="module")
def watched(detector, batch):
    """What was found with the recorder, and its record."""
    with torch.no_grad(), StageRecorder(detector, [10, 20, 30], depth=60) as recorder:
        found = detector(batch[0])
        recorder.file(batch)
    return found, recorder.record()


def test_detections_are_the_same_to_the_bit(detector, batch, watched):
    with torch.no_grad():
        for mine, theirs in zip(watched[0], detector(batch[0]), strict=True):
            assert all(torch.equal(mine[key], theirs[key]) for key in ("boxes", "labels", "scores"))
    assert "filter_proposals" not in vars(detector.rpn)
    assert detector.rpn.watcher is None and detector.roi_heads.watcher is None
    assert detector.rpn.post_nms_top_n() == CAP and detector.roi_heads.detections_per_img == KEPT


def test_proposals_are_recorded_beyond_the_cap_in_native_pixels(detector, batch, watched):
    record = watched[1]
    with torch.no_grad():
        packed, _ = detector.transform(batch[0])
        proposals, _ = detector.rpn(packed, detector.backbone(packed.tensors))
    assert (record.cap, record.depth, record.detections_cap, record.levels) == (CAP, 60, KEPT, ("p2", "p3", "p4", "p5"))
    for image_id, boxes, scale in zip((7, 3), proposals, ((2, 2), (2, 4)), strict=True):
        seen = record.images[image_id]
        assert CAP < len(seen.boxes) <= 60 and len(seen.levels) == CAP == len(boxes)
        np.testing.assert_allclose(seen.boxes[:CAP], boxes.numpy() * np.tile(scale, 2), rtol=1e-6)


def test_what_the_cap_cuts_off_scores_no_better_than_what_it_keeps(watched):
    found, record = watched
    for image_id, kept in zip((7, 3), found, strict=True):
        cut = [one["score"] for one in record.cut if one["image_id"] == image_id]
        assert cut and max(cut) <= kept["scores"].min()
    assert {one["category_id"] for one in record.cut} <= {10, 20, 30}


def test_every_box_is_kept_or_filtered_out_at_some_step(watched):
    found, record = watched
    proposals, detections = record.filtered["proposals"], record.filtered["detections"]
    assert proposals["kept"] == 2 * CAP and detections["kept"] == sum(len(one["boxes"]) for one in found)
    assert detections["cap"] == len(record.cut)
    assert sum(detections.values()) == proposals["kept"] * 3  # each RoI for each of three classes


def test_each_detection_is_traced_to_its_roi(detector, batch):
    """With deltas of zero a detection is its RoI, so that its own size names its level."""
    for head in (detector.roi_heads.box_predictor, detector.roi_heads.small_head[1]):
        torch.nn.init.zeros_(head.bbox_pred.weight)
        torch.nn.init.zeros_(head.bbox_pred.bias)
    with torch.no_grad(), StageRecorder(detector, [10, 20, 30]) as recorder:
        found = detector(batch[0])
        recorder.file(batch)
    for image_id, one in zip((7, 3), found, strict=True):
        expected = pooled_from(detector.roi_heads.box_roi_pool, one["boxes"])
        assert recorder.record().sources[image_id].tolist() == expected.tolist()


def test_level_rule(detector):
    """Eq. 2 at 224 px on p4, and small ones by the rule of their own."""
    sides = torch.tensor([8.0, 39, 41, 111, 112, 223, 224, 447, 448, 900])
    boxes = torch.stack([torch.zeros(10), torch.zeros(10), sides, sides], dim=1)
    levels = pooled_from(detector.roi_heads.box_roi_pool, boxes)
    assert levels.tolist() == ["p2", "p2", "p2", "p2", "p3", "p3", "p4", "p4", "p5", "p5"]
    assert pooled_from(detector.roi_heads.box_roi_pool, boxes[:0]).tolist() == []


def test_a_repeated_image_is_kept_once(detector, batch):
    with torch.no_grad(), StageRecorder(detector, [10, 20, 30]) as recorder:
        detector(batch[0])
        recorder.file(batch)
        before = len(recorder.record().cut)
        detector(batch[0])
        recorder.file(batch)
    assert len(recorder.record().cut) == before > 0 and set(recorder.record().images) == {3, 7}


def test_twice_the_input_is_brought_back_to_native_pixels(detector, batch):
    """fpn_2x proposes in 2x pixels; boxes stay inside of the native image."""
    images, targets = batch
    images_2x = [torch.nn.functional.interpolate(image[None], scale_factor=2)[0] for image in images]
    with torch.no_grad(), StageRecorder(detector, [10, 20, 30]) as recorder:
        find_variants("fpn_2x", [1.0])[0].predict(detector, (images, images_2x, targets))
        recorder.file((images, images_2x, targets))
    furthest = recorder.record().images[3].boxes.max(axis=0)
    assert furthest[2] <= 128 and furthest[3] <= 256 and (furthest[2:] > (100, 200)).all()


def test_several_processes_are_refused(detector, batch, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with (
        torch.no_grad(),
        StageRecorder(detector, [10]) as recorder,
        pytest.raises(UserError, match="on one process, not on 2; use trainer.devices=1"),
    ):
        recorder.file(batch)


def test_a_training_detector_is_not_disturbed(detector):
    """NMS itself keeps the order that the recorder relies on: best first."""
    boxes, scores = torch.rand(50, 4).cumsum(1), torch.rand(50)
    assert (scores[nms(boxes, scores, 0.5)].diff() <= 0).all()
    with StageRecorder(detector, [10, 20, 30]) as recorder:
        images = [torch.rand(3, 64, 64)]
        losses = detector.train()(images, [{"boxes": torch.tensor([[5.0, 5, 30, 30]]), "labels": torch.tensor([1])}])
    detector.eval()
    assert set(losses) >= {"loss_objectness"} and not recorder.record().images
