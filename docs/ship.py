"""A finished phase as a model to publish: ``python docs/ship.py outputs/signs/seed0 signs``.

Weights go to half precision, and the config loses the places of the machine that trained it. What is left is a run's
folder like any other, which `predict.py`, `evaluate.py` and `export.py` open.
"""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from efpn.errors import UserError
from efpn.runs.checkpoints import read_checkpoint
from efpn.runs.files import CHECKPOINT_FILE, CONFIG_FILE
from efpn.runs.saved import latest_run


def ship(run: str, target: Path) -> Path:
    """Copy the most advanced phase of ``run`` to ``<target>/seed<seed>/<phase>`` and return that folder.

    Raises:
        UserError: no finished phase there, or a weight that half precision cannot hold.
    """
    saved = latest_run(run)
    folder = target / saved.folder.parent.name / saved.phase
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = read_checkpoint(saved.checkpoint)
    halves = {name: t.half() if t.is_floating_point() else t for name, t in checkpoint.state_dict.items()}
    replace(checkpoint, state_dict=halves).save(folder / CHECKPOINT_FILE)
    OmegaConf.save(placeless(saved.config), folder / CONFIG_FILE)
    return folder


def placeless(config: DictConfig) -> DictConfig:
    """A copy whose paths are those of a fresh clone; of a path elsewhere its name alone is left."""
    root, outputs = Path(config.data.root), Path(config.paths.outputs)
    places = {root: Path("data", root.name), outputs: Path("outputs"), Path(config.paths.data): Path("data")}

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: moved(one) for key, one in value.items()}
        if isinstance(value, list):
            return [moved(one) for one in value]
        if not isinstance(value, str) or not Path(value).is_absolute():
            return value
        for own, neutral in places.items():
            if Path(value).is_relative_to(own):
                return str(neutral / Path(value).relative_to(own))
        return Path(value).name

    return OmegaConf.create(moved(OmegaConf.to_container(config)))


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run's folder, or one phase's")
    parser.add_argument("target", type=Path, help="the model's folder")
    given = parser.parse_args()
    try:
        print(ship(given.run, given.target))
    except UserError as error:
        parser.error(str(error))
