"""A loss, gradient or weight that is not finite ends the training there, named, and is never handed on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import TINY, run, tiny

from efpn.errors import UserError
from efpn.runs.checkpoints import Checkpoint
from efpn.tasks import DetectionTask
from efpn.training.run import train
from efpn.weights import first_non_finite, read_tensors

pytestmark = pytest.mark.slow


def spoil(monkeypatch: pytest.MonkeyPatch, step: int, how) -> None:
    """Let ``how(task, loss)`` make another loss of the one at ``step``."""
    original = DetectionTask.training_step

    def spoiled(self, batch, batch_idx):
        loss = original(self, batch, batch_idx)
        return how(self, loss) if self.global_step == step else loss

    monkeypatch.setattr(DetectionTask, "training_step", spoiled)


def bad_loss(task: DetectionTask, loss: torch.Tensor) -> torch.Tensor:
    task.losses["loss_box_reg"] = torch.tensor(float("nan"))
    return loss * float("nan")


def bad_gradient(task: DetectionTask, loss: torch.Tensor) -> torch.Tensor:
    task.detector.rpn.head.cls_logits.bias.register_hook(lambda gradient: gradient * float("inf"))
    return loss


def bad_weight(task: DetectionTask, loss: torch.Tensor) -> torch.Tensor:
    task.trainer.optimizers[0].param_groups[0]["lr"] = float("inf")
    return loss


@pytest.mark.parametrize(
    "how, said",
    [
        (bad_loss, "loss loss_box_reg is nan"),
        (bad_gradient, "gradient of detector.rpn.head.cls_logits.bias is inf"),
        (bad_weight, r"weight backbone\.body\.conv1\.weight is (inf|nan)"),
    ],
)
def test_it_stops_there_and_keeps_the_resume_point(
    how, said: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, 3, how)
    with pytest.raises(UserError, match=rf"phase=baseline, step [34]: {said}\. .*gradient_clip_val"):
        train(tiny(tmp_path, data, "phase=baseline"))
    folder = tmp_path / "demo/seed0/baseline"
    assert not (folder / "weights.ckpt").exists()
    point = read_tensors(folder / "last.ckpt")
    assert point["global_step"] == 2 and first_non_finite(point["state_dict"].items()) is None


def test_a_rate_that_is_too_high_ends_with_a_status_and_one_line(data: Path, tmp_path: Path) -> None:
    high = ["phase=baseline", "phases.baseline.task.optimizer.lr=1e30", "trainer.gradient_clip_val=null"]
    done = run("train.py", *TINY, f"paths.outputs={tmp_path}", f"data.root={data}", *high)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "error: phase=baseline, step " in done.stderr and "phases.baseline.task.optimizer.lr" in done.stderr


def test_a_checkpoint_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    weights = {"a": torch.ones(2), "b": torch.tensor([1.0, float("nan")]), "steps": torch.tensor(3)}
    with pytest.raises(UserError, match="phase=distill: weight b is nan; .*weights.ckpt is not written"):
        Checkpoint(weights, "distill", ["sign"], "0" * 12, {}, 10).save(tmp_path / "weights.ckpt")
    assert not list(tmp_path.iterdir())


def test_large_numbers_are_finite() -> None:
    assert first_non_finite([("a", torch.full((4, 4), 3e38)), ("none", torch.zeros(0))]) is None
    assert first_non_finite([("half", torch.tensor([6e4], dtype=torch.float16))]) is None
