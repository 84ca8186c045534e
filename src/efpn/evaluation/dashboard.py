"""A dashboard of sweeps in Weights & Biases: ``python -m efpn.evaluation.dashboard ENTITY/PROJECT NAME``.

Of the runs called NAME, trained with ``logger=wandb``. Needs ``pip install -e '.[dashboard]'`` and,
to save it, an account.
"""

from __future__ import annotations

import sys
from typing import Any

import wandb
from wandb_workspaces import workspaces
from wandb_workspaces.expr import And, Metric
from wandb_workspaces.reports import v2 as panels

from efpn.runs.sweeps import rows_artifact


def dashboard(entity: str, project: str, name: str) -> workspaces.Workspace:
    """The table of rows, AP_S and lambda against F1_S of every phase, and the curves of all; not saved yet."""
    weight, result = panels.Config("loss.lambda_pos"), panels.SummaryMetric("val/F1_S")
    rows: list[Any] = [
        panels.WeavePanelArtifactVersionedFile(artifact=rows_artifact(name), version="latest", file="rows.table.json"),
        panels.BarPlot(title="AP_S of every run (validation)", metrics=["val/AP_S"], max_bars_to_show=50),
        panels.ScatterPlot(title="lambda against F1_S of every run (validation)", x=weight, y=result),
    ]
    curves: list[Any] = [
        panels.LinePlot(title=key, x="trainer/global_step", y=[key]) for key in ("train/loss", "val/F1_S")
    ]
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=f"Rows of {name}",
        sections=[workspaces.Section("Rows", rows, True), workspaces.Section("Training", curves, True)],
        runset_settings=workspaces.RunsetSettings(filters=And(Metric("Group") == name)),
    )


def main(words: list[str]) -> str:
    """Save it and return its address; ends with a line that says what is wrong."""
    if len(words) != 2 or words[0].count("/") != 1:
        raise SystemExit("usage: python -m efpn.evaluation.dashboard ENTITY/PROJECT NAME")
    try:
        entity, project = words[0].split("/")
        return str(dashboard(entity, project, words[1]).save().url)
    except (wandb.errors.Error, ValueError) as error:
        raise SystemExit(f"error: {words[0]}: W&B did not save it ({error}); `wandb login` first") from None


if __name__ == "__main__":
    print(main(sys.argv[1:]))
