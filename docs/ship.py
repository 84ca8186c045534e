"""A finished phase as a model to ship: ``python docs/ship.py outputs/signs/seed0/finetune models/signs``.

Weights go to half precision, and the config loses the places of the machine that trained it. What is left is a run's
folder like any other, which `predict.py`, `evaluate.py` and `export.py` open.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from omegaconf import OmegaConf

from efpn.runs.checkpoints import read_checkpoint
from efpn.runs.names import CHECKPOINT_FILE, CONFIG_FILE
from efpn.runs.saved import latest_run


def ship(run: str, target: Path) -> Path:
    """Copy the most advanced phase of ``run`` to ``<target>/seed<seed>/<phase>`` and return that folder."""
    saved = latest_run(run)
    folder = target / saved.folder.parent.name / saved.phase
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = read_checkpoint(saved.checkpoint)
    halves = {name: t.half() if t.is_floating_point() else t for name, t in checkpoint.state_dict.items()}
    replace(checkpoint, state_dict=halves).save(folder / CHECKPOINT_FILE)
    text = OmegaConf.to_yaml(saved.config)
    for own, neutral in ((saved.config.data.root, "data"), (saved.config.paths.outputs, "outputs")):
        text = text.replace(str(own), neutral)
    (folder / CONFIG_FILE).write_text(text)
    return folder


if __name__ == "__main__":
    print(ship(sys.argv[1], Path(sys.argv[2])))
