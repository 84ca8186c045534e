"""What training steps cost, ours beside torchvision's and beside the bare passes that they cannot do without.

A step is forward, backward, clipping and the optimizer's update, of the real tasks and with the optimizers of their
phases, but without Lightning's Trainer around it. The bare cost of distillation is measured in two ways, both on ready
normalised batches and without any loss or update:

- *forward*: 1x and 2x pictures through trunk and FPN without gradient (C2' too), and the extension's forward pass with
  gradient recorded;
- *forward and backward*: the same and the extension's backward pass from gradients that are given.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from efpn.benchmark.detectors import RandomDetectors
from efpn.benchmark.inputs import fixed_boxes, random_batch, random_targets
from efpn.benchmark.machine import machine_facts
from efpn.benchmark.measure import measure
from efpn.benchmark.options import Options, add_memory_options, add_options, read_options
from efpn.benchmark.proposals import FixedProposals
from efpn.benchmark.ratios import Ratio, evaluate, peak
from efpn.benchmark.report import comparison_text, write_report
from efpn.benchmark.stages import STAGES, Stages
from efpn.benchmark.timing import Workload
from efpn.benchmark.words import choose
from efpn.losses import DualLoss
from efpn.models import OHEM, EFPNDetector
from efpn.tasks import DetectionTask, DistillationTask

RATE: Final = 1e-6  # learning rate: too small for untrained weights to run away
CLIP: Final = 10.0
STEP_STAGES: Final = (*STAGES, "backward", "update")
NOTES: Final = (
    "Every turn runs each step once, in rotating order; medians of the turns that count, ratios of medians.",
    "A step is forward, backward, clipping and update, without Lightning's Trainer. Its RPN runs and gives its losses; "
    "the heads then sample from proposals of the composition below.",
    "Bare forward: 1x and 2x through trunk and FPN without gradient, the extension with; bare forward and backward: "
    "and the extension's backward pass. Neither normalises, has a loss or updates weights.",
    "Peak memory is what a step needs above weights and input, gradients and the optimizer's state included (see "
    "efpn.benchmark.memory).",
)

sgd: Callable[..., Optimizer] = partial(SGD, lr=RATE, momentum=0.9, weight_decay=1e-4)
adamw: Callable[..., Optimizer] = partial(AdamW, lr=RATE, weight_decay=1e-4)


@dataclass(frozen=True)
class Step:
    """A kind of step: its title, and what builds it."""

    title: str
    build: Callable[[Options], Workload]


def baseline(options: Options, scale: int = 1) -> Workload:
    """`DetectionTask` on a plain FPN; ``scale`` 2 trains on the 2x pictures."""
    task = DetectionTask(RandomDetectors(options).fpn().to(options.device), optimizer=sgd)
    images, targets = random_batch(options)[scale - 1], random_targets(options, scale)
    return task_step(task, (images, targets), options, fixed_boxes(options, scale))


def finetune(options: Options) -> Workload:
    """`DetectionTask` of the finetuning phase: the head of small RoIs learns from the hardest of them."""
    detector = RandomDetectors(options, ohem=OHEM()).efpn().to(options.device)
    task = DetectionTask(detector, trainable=["roi_heads.small_head.*"], optimizer=sgd)
    return task_step(task, (random_batch(options)[0], random_targets(options)), options, fixed_boxes(options, 1))


def distill(options: Options) -> Workload:
    """`DistillationTask`: the extension learns from the 2x pass."""
    detector = RandomDetectors(options).efpn().to(options.device)
    task = DistillationTask(detector, loss=DualLoss(), trainable=["backbone.extension.*"], optimizer=adamw)
    return task_step(task, (*random_batch(options), random_targets(options)), options)


def reference(options: Options) -> Workload:
    """torchvision's Faster R-CNN in a bare loop, on the inputs of the baseline."""
    model = RandomDetectors(options).reference().to(options.device).train()
    images, targets = random_batch(options)[0], random_targets(options)
    proposals = FixedProposals(model, fixed_boxes(options, 1))
    optimizer = sgd([parameter for parameter in model.parameters() if parameter.requires_grad])

    def loss() -> Tensor:
        return torch.stack(list(model(images, targets).values())).sum()

    return full_step(model, loss, optimizer, options, proposals)


def bare_distill(options: Options, backward: bool) -> Workload:
    """The passes of a distillation step alone; see the module."""
    detector = RandomDetectors(options).efpn().to(options.device).eval()
    detector.requires_grad_(False).backbone.extension.requires_grad_(True)
    batch_1x, batch_2x = detector.batch_pair(*random_batch(options))
    stages, backbone = Stages(detector), detector.backbone

    def passes(turn: int) -> None:
        with options.autocast():
            with torch.no_grad():
                student, fine = backbone.prepare(batch_1x.tensors, batch_2x)
                backbone.pyramid(batch_2x)
            maps = backbone.extension.extend(backbone, student, fine)
        if backward:
            backbone.extension.zero_grad()
            with stages.stage("backward"):
                torch.autograd.backward(maps, [torch.ones_like(one) for one in maps])

    return Workload(detector, passes, stages)


STEPS: Final = {
    "baseline": Step("baseline", baseline),
    "torchvision": Step("torchvision, bare loop", reference),
    "fpn-2x": Step("baseline on 2x pictures", partial(baseline, scale=2)),
    "distill": Step("distillation", distill),
    "bare-forward": Step("its bare forward", partial(bare_distill, backward=False)),
    "bare-backward": Step("its bare forward and backward", partial(bare_distill, backward=True)),
    "finetune": Step("finetuning", finetune),
}
RATIOS: Final = (
    Ratio("time, baseline / torchvision in a bare loop", "baseline", "torchvision", target=1.05),
    Ratio("time, distillation / its bare forward", "distill", "bare-forward", target=1.3),
    Ratio("time, distillation / its bare forward and backward", "distill", "bare-backward"),
    Ratio("peak memory, distillation / baseline on 2x pictures", "distill", "fpn-2x", peak, target=1.0),
    Ratio("time, distillation / baseline on 2x pictures", "distill", "fpn-2x"),
)


def task_step(
    task: DetectionTask | DistillationTask, batch: Any, options: Options, boxes: Sequence[Tensor] = ()
) -> Workload:
    """A step of one of our tasks on one batch, over and over.

    Args:
        task: with an optimizer.
        batch: what its ``training_step`` takes.
        options: the setting.
        boxes: proposals in place of the RPN's; none where no RPN runs.
    """
    task.log_dict = lambda *args, **more: None  # type: ignore[method-assign]  # there is no Trainer to log to
    task.train()
    detector: EFPNDetector = task.detector
    proposals = FixedProposals(detector, boxes) if boxes else None
    return full_step(detector, lambda: task.training_step(batch, 0), task.configure_optimizers(), options, proposals)


def full_step(
    model: nn.Module,
    loss: Callable[[], Tensor],
    optimizer: Optimizer,
    options: Options,
    proposals: FixedProposals | None,
) -> Workload:
    """Forward, backward, clipping and update; each turn draws its samples from its own seed.

    Args:
        model: that learns.
        loss: runs it and returns its loss.
        optimizer: of its trainable parameters.
        options: the setting.
        proposals: that the model was given, if any.
    """
    stages = Stages(model)
    learning = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def step(turn: int) -> None:
        torch.manual_seed(options.seed + turn)
        with options.autocast():
            value = loss()
        optimizer.zero_grad()
        with stages.stage("backward"):
            value.backward()
        with stages.stage("update"):
            nn.utils.clip_grad_norm_(learning, CLIP)
            optimizer.step()

    return Workload(model, step, stages, proposals)


def add_parser(parser: argparse.ArgumentParser) -> None:
    """The options of this measurement."""
    parser.add_argument("--steps", metavar="NAME,NAME", help=f"some of {', '.join(STEPS)} (default: all)")
    add_options(parser, repeats=10, warmup=2)
    add_memory_options(parser)


def run(given: argparse.Namespace, arguments: Sequence[str]) -> str:
    """Measure, write the files and return the report.

    Raises:
        UserError: an option that makes no sense.
    """
    options, names = read_options(given), choose("--steps", given.steps, list(STEPS))
    titles = {name: STEPS[name].title for name in names}
    steps = measure(titles, lambda name: STEPS[name].build(options), options, arguments, STEP_STAGES)
    record = {
        "ratios": evaluate(RATIOS, steps),
        "models": steps,
        "setting": options.as_record(),
        "machine": machine_facts(options.device, arguments),
    }
    text = comparison_text(f"Training steps at {options.size_name} px", record, NOTES, STEP_STAGES)
    write_report(options.out, options.name("training"), record, text)
    return text


def peak_work(given: argparse.Namespace) -> tuple[Workload, Options]:
    """What a child process measures the memory of: the step ``given.peak_of``."""
    options = read_options(given)
    return STEPS[given.peak_of].build(options), options
