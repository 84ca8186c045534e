"""Checkpoints of phases and resume points: strict, whole, and clear when they do not fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from efpn.errors import UserError
from efpn.models import FTT, EFPNDetector, Extension, ResNet, SmallRoIs, build_faster_rcnn
from efpn.runs.checkpoints import Checkpoint, load_checkpoint, read_checkpoint
from efpn.weights import read_tensors


def detector(*, extended: bool = False, own_head: bool = False, channels: int = 8) -> EFPNDetector:
    def extension(stage_channels: Sequence[int], channels: int) -> Extension:
        return Extension(FTT(channels, width=8), stage_channels[:1], channels)

    small = SmallRoIs(32, own_head=own_head) if extended else None
    backbone = ResNet("resnet18", weights=None)
    return build_faster_rcnn(backbone, 3, channels=channels, extension=extension if extended else None, small=small)


def checkpoint(model: EFPNDetector, phase: str = "baseline") -> Checkpoint:
    return Checkpoint(model.state_dict(), phase, ["a", "b"], "0" * 12, {"val/AP": 0.5}, 10)


def test_saves_and_reads_back_whole(tmp_path: Path) -> None:
    saved = checkpoint(detector())
    saved.save(tmp_path / "weights.ckpt")
    read = read_checkpoint(tmp_path / "weights.ckpt")
    assert (read.phase, read.classes, read.metrics, read.steps) == ("baseline", ["a", "b"], {"val/AP": 0.5}, 10)
    assert all(torch.equal(value, saved.state_dict[key]) for key, value in read.state_dict.items())
    assert [path.name for path in tmp_path.iterdir()] == ["weights.ckpt"]


def test_the_extension_starts_from_the_fpn_of_the_checkpoint() -> None:
    baseline, model = detector(), detector(extended=True)
    load_checkpoint(model, checkpoint(baseline), ["backbone.extension."], Path("x"))
    lateral, post = model.backbone.extension.laterals[0], model.backbone.extension.post
    assert torch.equal(lateral.weight, baseline.backbone.fpn.inner_blocks[0][0].weight)
    assert torch.equal(post.weight, baseline.backbone.fpn.layer_blocks[0][0].weight)


def test_weights_of_an_extension_that_had_two_laterals_at_most_are_read_by_todays_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    saved = checkpoint(detector(extended=True), "distill")
    former = {key.replace("laterals.0.", "lateral."): value for key, value in saved.state_dict.items()}
    former["backbone.extension.lateral3.weight"] = torch.ones(8, 128, 1, 1)
    assert "backbone.extension.lateral.bias" in former
    Checkpoint(former, "distill", ["a", "b"], "0" * 12, {}, 10).save(tmp_path / "weights.ckpt")
    read = read_checkpoint(tmp_path / "weights.ckpt").state_dict
    assert read.pop("backbone.extension.laterals.1.weight").shape == (8, 128, 1, 1)
    assert read.keys() == saved.state_dict.keys()
    assert all(torch.equal(value, saved.state_dict[key]) for key, value in read.items())


def test_the_new_head_starts_from_the_old_one_of_the_checkpoint() -> None:
    distilled, model = detector(extended=True), detector(extended=True, own_head=True)
    load_checkpoint(model, checkpoint(distilled, "distill"), ["roi_heads.small_head."], Path("x"))
    assert torch.equal(model.roi_heads.small_head[0].fc6.weight, distilled.roi_heads.box_head.fc6.weight)
    assert torch.equal(
        model.backbone.extension.upsampler.output.bias, distilled.backbone.extension.upsampler.output.bias
    )


def test_a_part_that_is_there_is_not_started_again() -> None:
    trained, model = detector(extended=True), detector(extended=True)
    load_checkpoint(model, checkpoint(trained, "distill"), ["backbone.extension."], Path("x"))
    for key, value in trained.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


@pytest.mark.parametrize(
    "model, saved, fresh",
    [
        (detector(extended=True), detector(), []),  # lacks what is not fresh in this phase
        (detector(), detector(extended=True), ["backbone.extension."]),  # has what the model has not
        (detector(channels=16), detector(channels=8), []),  # of another shape
    ],
)
def test_another_architecture_is_refused(model: EFPNDetector, saved: EFPNDetector, fresh: list[str]) -> None:
    with pytest.raises(UserError, match=r"checkpoint x \(phase baseline\) does not fit: .*use the backbone"):
        load_checkpoint(model, checkpoint(saved), fresh, Path("x"))


def test_batch_norm_that_learns_is_another_architecture_than_the_frozen() -> None:
    learning = build_faster_rcnn(ResNet("resnet18", weights=None, norm="batch"), 3, channels=8)
    for model, saved in ((learning, detector()), (detector(), learning)):
        with pytest.raises(UserError, match=r"does not fit: \d+ (missing|unexpected) .*num_batches_tracked"):
            load_checkpoint(model, checkpoint(saved), [], Path("x"))


def test_a_truncated_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.ckpt"
    checkpoint(detector()).save(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"weights\.ckpt: damaged or truncated .*delete it and run its phase again"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [7, [torch.zeros(2)], {1: 2, "a": 3}])
def test_what_holds_no_fields_is_named(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.ckpt")
    with pytest.raises(UserError, match=r"weights\.ckpt: (damaged|not a phase's checkpoint of this version)"):
        read_checkpoint(tmp_path / "weights.ckpt")


def test_nobody_is_told_to_load_without_the_guard(tmp_path: Path) -> None:
    path = tmp_path / "weights.ckpt"
    path.write_text("name: demo\n")
    with pytest.raises(UserError, match="no checkpoint, or one that is more than") as caught:
        read_tensors(path)
    assert "weights_only" not in str(caught.value)


def test_a_missing_or_foreign_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.ckpt: not found; check the path"):
        read_tensors(tmp_path / "none.ckpt")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.ckpt")
    with pytest.raises(
        UserError, match=r"other\.ckpt: not a phase's checkpoint of this version \(fields \['weights'\]\)"
    ):
        read_checkpoint(tmp_path / "other.ckpt")
