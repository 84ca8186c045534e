"""Table III on any machine: what it costs to detect with each of its models, interleaved in one process.

Weights are random, and what the RPN proposes is replaced by boxes of a chosen composition after the RPN has run; or
weights, proposals and images are those of a trained run. Of the random ones post-processing is nearly free: an
untrained head is sure of nothing.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from omegaconf import DictConfig

from efpn.benchmark.inputs import FixedProposals, fixed_boxes, random_batch
from efpn.benchmark.measure import evaluate, measure
from efpn.benchmark.models import build_row, image_batches, proposal_counts
from efpn.benchmark.report import comparison, write_report
from efpn.benchmark.setting import Setting, choose, read_setting
from efpn.benchmark.timing import Stages, Workload

NOTES: Final = (
    "Every turn runs each model once, in rotating order; medians of the turns that count, ratios of medians.",
    "EFPN computes P2' on tiles under small proposals, as it does by default, and so does EFPN without FTT, exactly; a "
    "second pass makes a tile of what lies under it alone, unless rows.ROW.model.extension.margin (of a trained run "
    "+model.extension.margin) says otherwise.",
    "Second pass: stages 2 to extension.last_stage on an image of twice the size, under small proposals too, in the "
    "place of FTT.",
    "Backbone includes the second pass; heads are RoI pooling and box heads; rest is normalising and padding. A stage "
    "that runs inside another one stops the other's clock.",
    "Peak memory is what a run needs above weights and input: on a CPU the growth of a fresh process, on CUDA that of "
    "the allocated tensors (see efpn.benchmark.measure).",
    "torchvision is its own Faster R-CNN with the same backbone and depth, as it comes (its own memory layout).",
)
COMPILED: Final = ("body", "fpn", "extension")  # parts of a backbone


def run(cfg: DictConfig) -> str:
    """Measure, write the files and return the report (raises `UserError`: an option that makes no sense)."""
    setting = read_setting(cfg)
    known = [name for name, row in cfg.rows.items() if not setting.run or row.get("of_run", True)]
    names = choose("models", cfg.models, known)
    facts = setting.as_record() | (proposal_counts(setting) if setting.run else {})
    models = measure({name: cfg.rows[name].title for name in names}, workload, setting)
    record = {"ratios": evaluate(cfg.ratios, models), "models": models}
    title = "Inference" if setting.run else f"Inference at {setting.size_name} px"
    return write_report(setting, title, record, comparison(record), NOTES, facts)


def workload(setting: Setting, name: str) -> Workload:
    """Build a model and what it detects in."""
    row, model = setting.cfg.rows[name], build_row(setting, name)
    scale = row.get("scale", 1)
    proposals, detector = None, getattr(model, "detector", model)
    if not setting.run and hasattr(detector, "rpn"):
        proposals = FixedProposals(detector, fixed_boxes(setting, row.get("proposals", 1)))
    batches = image_batches(setting) if setting.run else [random_batch(setting)]
    if setting.cfg.compile:  # tiles and RoIs have other shapes in every image: they are not
        for part in (getattr(detector.backbone, one, None) for one in COMPILED):
            if part is not None:
                part.forward = torch.compile(part.forward, dynamic=False)
    double = scale == 1 and getattr(getattr(model, "backbone", None), "reads_2x", False)

    def detect(turn: int) -> Any:
        images, images_2x = batches[turn % len(batches)]
        with torch.inference_mode(), setting.autocast():
            if double:
                return model(images, images_2x=images_2x)
            return model(images if scale == 1 else images_2x)

    return Workload(model, detect, Stages(model), proposals)
