"""The first lines of a run: what it is about to do."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch import nn

from efpn.data.datamodule import DetectionDataModule
from efpn.runs.phases import PhaseRun

DEPTH = 2  # of the parameter table: backbone.extension, roi_heads.small_head ...


def print_summary(
    run: PhaseRun, data: DetectionDataModule, model: nn.Module, init: Path | None, max_steps: int, resume: Path | None
) -> None:
    """Print phase, data counts, parameters (all and trainable) per part, where it starts and where output goes."""
    table = Table(title=f"phase {run.name}: {max_steps} steps", title_justify="left", show_header=False, box=None)
    for role in ("train", "val"):
        index = data.index(role)
        table.add_row(role, f"{len(index)} images, {index.box_count} boxes ({index.name})")
    table.add_row("classes", f"{len(data.categories)}, {sum(data.categories.evaluated)} of them evaluated")
    table.add_row("starts from", str(resume or init or "the backbone's weights"))
    table.add_row("output", str(run.folder))
    for part, (total, trains) in parameter_counts(model).items():
        state = "trains" if trains == total else (f"{trains / 1e6:.2f} M of it trains" if trains else "frozen")
        table.add_row(part, f"{total / 1e6:.2f} M parameters, {state}")
    Console(markup=False).print(table)  # names such as train[val] are no markup


def parameter_counts(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Parameters of each part, all and trainable."""
    counts: dict[str, tuple[int, int]] = {}
    for name, parameter in model.named_parameters():
        part = ".".join(name.split(".")[:DEPTH])
        total, trains = counts.get(part, (0, 0))
        counts[part] = total + parameter.numel(), trains + parameter.numel() * parameter.requires_grad
    return counts
