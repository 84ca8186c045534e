"""What training steps cost, ours beside torchvision's and beside the bare passes that they cannot do without.

A step is forward, backward, clipping and the optimizer's update, of the tasks and optimizers that the phases' configs
name, but without Lightning's Trainer around it. The bare cost of distillation is measured on ready normalised batches
and without any loss or update: 1x and 2x images through backbone and FPN without gradient (C2' too), and the
extension's forward pass with gradient recorded; with its backward pass from gradients that are given, or without.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.optim import Optimizer

from efpn.benchmark.inputs import FixedProposals, fixed_boxes, random_batch, random_targets
from efpn.benchmark.measure import evaluate, measure
from efpn.benchmark.models import build_row, random_detector
from efpn.benchmark.report import comparison, write_report
from efpn.benchmark.setting import Setting, choose, read_setting
from efpn.benchmark.timing import STAGES, Stages, Workload
from efpn.models import FasterRCNN
from efpn.tasks.base import DetectorTask

RATE: Final = 1e-6  # learning rate: too small for untrained weights to run away
CLIP: Final = 10.0
STEP_STAGES: Final = (*STAGES, "backward", "update")
NOTES: Final = (
    "Every turn runs each step once, in rotating order; medians of the turns that count, ratios of medians.",
    "A step is forward, backward, clipping and update, without Lightning's Trainer. Its RPN runs and gives its losses; "
    "the heads then sample from proposals of the composition below.",
    "Bare forward: 1x and 2x through backbone and FPN without gradient, the extension with; bare forward and backward: "
    "and the extension's backward pass. Neither normalises, has a loss or updates weights.",
    "Peak memory is what a step needs above weights and input, gradients and the optimizer's state included (see "
    "efpn.benchmark.measure).",
)


def workload(setting: Setting, name: str) -> Workload:
    """Build one of `STEPS`."""
    return STEPS[name][1](setting)


def full_step(
    model: nn.Module, loss: Callable[[], Tensor], optimizer: Optimizer, setting: Setting, fixed: FixedProposals | None
) -> Workload:
    """Forward (``loss``), backward, clipping and update; each turn draws its samples from its own seed."""
    stages = Stages(model)
    learning = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def step(turn: int) -> Any:
        torch.manual_seed(setting.cfg.seed + turn)
        with setting.autocast():
            value = loss()
        optimizer.zero_grad()
        with stages.stage("backward"):
            value.backward()
        with stages.stage("update"):
            nn.utils.clip_grad_norm_(learning, CLIP)
            optimizer.step()

    return Workload(model, step, stages, fixed)


def phase_step(setting: Setting, phase: str, scale: int = 1) -> Workload:
    """A step of a phase's own task on one batch, over and over; ``scale`` 2 trains on the 2x images."""
    config = setting.cfg.phases[phase]
    detector = random_detector(setting, phase).to(setting.device)
    given = {"detector": detector, "optimizer": {"lr": RATE}, "schedule": None}
    task: DetectorTask = instantiate(config.task, **given, _convert_="all")
    task.log_dict = lambda *args, **more: None  # type: ignore[method-assign]  # there is no Trainer to log to
    task.train()
    pair, targets = random_batch(setting), random_targets(setting, scale)
    batch = (*pair, targets) if config.pairs or detector.backbone.reads_2x else (pair[scale - 1], targets)
    proposes = isinstance(detector, FasterRCNN) and "loss" not in config.task  # distillation runs neither RPN nor heads
    proposals = FixedProposals(detector, fixed_boxes(setting, scale)) if proposes else None
    loss: Callable[[], Any] = partial(task.training_step, batch, 0)
    return full_step(detector, loss, task.configure_optimizers(), setting, proposals)


def torchvision_step(setting: Setting) -> Workload:
    """torchvision's Faster R-CNN in a bare loop, on the inputs of the baseline."""
    model = build_row(setting, "torchvision").train()
    images, targets = random_batch(setting)[0], random_targets(setting)
    proposals = FixedProposals(model, fixed_boxes(setting, 1))
    make = instantiate(setting.cfg.phases.baseline.task.optimizer, lr=RATE, _convert_="all")
    optimizer = make([parameter for parameter in model.parameters() if parameter.requires_grad])
    return full_step(
        model, lambda: torch.stack([*model(images, targets).values()]).sum(), optimizer, setting, proposals
    )


def bare_distillation(setting: Setting, backward: bool) -> Workload:
    """The passes of a distillation step alone; see the module."""
    detector = random_detector(setting, "distill").to(setting.device).eval()
    detector.requires_grad_(False).backbone.extension.requires_grad_(True)
    batch_1x, batch_2x = detector.batch_pair(*random_batch(setting))
    stages, backbone = Stages(detector), detector.backbone

    def passes(turn: int) -> None:
        with setting.autocast():
            with torch.no_grad():
                student, fine = backbone.prepare(batch_1x.tensors, batch_2x)
                backbone.pyramid(batch_2x)
            maps = backbone.extension.extend(backbone, student, fine)
        if backward:
            backbone.extension.zero_grad()
            with stages.stage("backward"):
                torch.autograd.backward(maps, [torch.ones_like(one) for one in maps])

    return Workload(detector, passes, stages)


STEPS: Final[dict[str, tuple[str, Callable[[Setting], Workload]]]] = {  # title, and what builds it
    "baseline": ("baseline", partial(phase_step, phase="baseline")),
    "torchvision": ("torchvision, bare loop", torchvision_step),
    "fpn-2x": ("baseline on 2x images", partial(phase_step, phase="baseline", scale=2)),
    "distill": ("distillation", partial(phase_step, phase="distill")),
    "bare-forward": ("its bare forward", partial(bare_distillation, backward=False)),
    "bare-backward": ("its bare forward and backward", partial(bare_distillation, backward=True)),
    "finetune": ("finetuning", partial(phase_step, phase="finetune")),
}


def run(cfg: DictConfig) -> str:
    """Measure, write the files and return the report (raises `UserError`: an option that makes no sense)."""
    setting, names = read_setting(cfg), choose("steps", cfg.steps, list(STEPS))
    steps = measure({name: STEPS[name][0] for name in names}, workload, setting, STEP_STAGES)
    record = {"ratios": evaluate(cfg.ratios, steps), "models": steps}
    parts = comparison(record, STEP_STAGES)
    return write_report(setting, f"Training steps at {setting.size_name} px", record, parts, NOTES)
