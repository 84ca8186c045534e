"""The first lines of a run: what it is about to do."""

from __future__ import annotations

from pathlib import Path

from efpn.data.datamodule import DetectionDataModule
from efpn.models import EFPNDetector
from efpn.runs.phases import PhaseRun

DEPTH = 2  # of the parameter table: backbone.extension, roi_heads.small_head ...


def print_summary(run: PhaseRun, data: DetectionDataModule, model: EFPNDetector, start: Path | None) -> None:
    """Print phase, data, where it starts, where output goes, how P2' is computed, and each part's parameters."""
    rows = {}
    for role in ("train", "val"):
        index = data.index(role)
        rows[role] = f"{len(index)} images, {index.box_count} boxes ({index.name})"
    rows["classes"] = f"{len(data.categories)}, {sum(data.categories.evaluated)} of them evaluated"
    rows["starts from"] = str(start or "the backbone's weights")
    rows["output"] = str(run.folder)
    if model.backbone.extension is not None:
        whole = model.backbone.whole_because
        rows["P2'"] = f"whole: {whole}" if whole else "in testing on tiles under small proposals alone"
    counts: dict[str, tuple[int, int]] = {}  # parameters of each part, all and trainable
    for name, parameter in model.named_parameters():
        part = ".".join(name.split(".")[:DEPTH])
        total, trains = counts.get(part, (0, 0))
        counts[part] = total + parameter.numel(), trains + parameter.numel() * parameter.requires_grad
    for part, (total, trains) in counts.items():
        state = "trains" if trains == total else (f"{trains / 1e6:.2f} M of it trains" if trains else "frozen")
        rows[part] = f"{total / 1e6:.2f} M parameters, {state}"
    width = max(map(len, rows))
    lines = (f"{key:{width}}  {row}" for key, row in rows.items())
    print(f"phase {run.name}: {run.config.max_steps} steps", *lines, sep="\n")
