"""What only a GPU can show: memory of a training step, half precision, memory layout, agreement with the CPU."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import benchmark_setting
from torch import Tensor

from efpn.benchmark import inference, training
from efpn.benchmark.inputs import random_batch
from efpn.benchmark.measure import peak_bytes
from efpn.benchmark.models import build_row
from efpn.benchmark.setting import Setting
from efpn.models import EFPNDetector

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def on_gpu(*words: str) -> Setting:
    """ResNet-50 at 256 px on the GPU."""
    usual = ("size=256", "backbone=resnet50", "model.channels=256", "ftt_width=128", "small_roi_below=56")
    return benchmark_setting(*usual, "device=cuda", *words)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """No TF32, whose 10 bits of mantissa would hide what is compared."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def box_outputs(detector: EFPNDetector, images: list[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and deltas of given boxes: as the detections come from, but without the jumps of NMS and top-k."""
    with torch.inference_mode():
        packed, _ = detector.transform(images)
        features = detector.backbone(packed.tensors)
        logits, deltas = detector.roi_heads.box_outputs(features, [boxes], packed.image_sizes)
    return logits.cpu(), deltas.cpu()


BOXES = torch.tensor([[10.0, 12, 30, 36], [100, 100, 140, 130], [20, 30, 220, 200], [0, 0, 256, 256]])


def test_a_distillation_step_needs_less_than_training_fpn_on_the_2x_image() -> None:
    peaks = {}
    for name in ("distill", "fpn-2x"):
        peaks[name] = peak_bytes(training.workload(on_gpu(), name), torch.device("cuda"))
    assert 0 < peaks["distill"] < peaks["fpn-2x"]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_detections_are_finite_in_half_precision(precision: str) -> None:
    setting = on_gpu(f"precision={precision}")
    detector = build_row(setting, "efpn")
    detector.roi_heads.score_thresh = 0.0
    with torch.inference_mode(), setting.autocast():
        found = detector(random_batch(setting)[0])[0]
    assert len(found["boxes"]) > 0 and found["boxes"].dtype == torch.float32
    assert found["boxes"].isfinite().all() and found["scores"].isfinite().all()


@pytest.mark.parametrize("name", ["baseline", "distill", "finetune"])
def test_a_step_in_half_precision_leaves_finite_weights(name: str) -> None:
    work = training.workload(on_gpu("precision=bf16"), name)
    work.run(0)
    assert all(value.isfinite().all() for value in work.model.state_dict().values())


def test_channels_last_changes_the_layout_alone(exact: None) -> None:
    setting = on_gpu("channels_last=false")
    detector = build_row(setting, "efpn")
    images, boxes = random_batch(setting)[0], BOXES.to(setting.device)
    plain = box_outputs(detector, images, boxes)
    moved = copy.deepcopy(detector).to(memory_format=torch.channels_last)
    assert moved.backbone.extension.post.weight.is_contiguous(memory_format=torch.channels_last)
    for one, other in zip(plain, box_outputs(moved, images, boxes), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_cpu_and_cuda_agree(exact: None) -> None:
    setting = on_gpu()
    detector, images = build_row(setting, "efpn").cpu(), [one.cpu() for one in random_batch(setting)[0]]
    detector.roi_heads.score_thresh = 0.0
    on_cpu = box_outputs(detector, images, BOXES)
    with torch.inference_mode():
        expected = detector(images)[0]
        detector.cuda()
        found = {key: value.cpu() for key, value in detector([one.cuda() for one in images])[0].items()}
    for one, other in zip(on_cpu, box_outputs(detector, [i.cuda() for i in images], BOXES.cuda()), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert len(found["boxes"]) == len(expected["boxes"]) > 0
    torch.testing.assert_close(found["scores"], expected["scores"], rtol=1e-3, atol=1e-4)


def test_tiles_need_less_memory_than_the_whole_map_and_than_fpn_on_the_2x_image() -> None:
    few = on_gpu("proposals.small=30", "proposals.objects=2", "proposals.total=100")
    peaks = {
        name: peak_bytes(inference.workload(few, name), torch.device("cuda"))
        for name in ("efpn", "efpn-whole", "fpn-2x")
    }
    assert 0 < peaks["efpn"] < peaks["efpn-whole"]
    assert peaks["efpn"] < peaks["fpn-2x"]
