"""Fixtures that several parts share.

The tests run in several processes (pytest-xdist), one thread each. What takes long and is only read, such as the run of
all three phases, is made by the process that needs it first and shared by way of a folder of all processes.

The process that hands out the tests reads this file before it starts the others: torch, seconds to import, is
imported where it is used.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from helpers import tiny

ROOT = Path(__file__).parents[1]
Shared = Callable[[str, Callable[[Path], object]], Path]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long, so that no process is left alone with it at the end.

    One process trains what many tests read; meanwhile the others have enough to do that needs none of it.
    """
    first = next(filter(reads_trained, items), None)
    items.sort(key=lambda item: (item is not first, item.get_closest_marker("slow") is None, reads_trained(item)))


def reads_trained(item: pytest.Item) -> bool:
    """Whether a test reads the run that all share."""
    return "trained" in getattr(item, "fixturenames", ())


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data and weights beside the checkout."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the real data in ../shared, which is not part of the project")
    return folder


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all test processes share."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "common"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def once(common: Path) -> Shared:
    """``once(name, make)``: a folder that ``make`` fills, in one of the processes; for reading alone."""

    def make_or_wait(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = common / name, common / f"{name}.done"
        with FileLock(common / f"{name}.lock"):
            if not done.exists():
                make(folder)
                done.touch()
        return folder

    return make_or_wait


@pytest.fixture(scope="session")
def data(common: Path) -> Path:
    """Where the drawn signs are kept; sets are written in one step, by whichever process is first."""
    return common / "synthetic"


def train_and_note(folder: Path, data: Path, *overrides: str) -> None:
    """Train, and note the detections of every validation in ``<folder>/validated.json``."""
    from efpn.metrics.score import SplitScorer
    from efpn.training.run import train

    noted: list[Any] = []
    score = SplitScorer.__call__

    def note(self: SplitScorer, detections: list[dict[str, Any]], image_ids: Sequence[int]) -> Any:
        noted.append((list(image_ids), detections))
        return score(self, detections, image_ids)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SplitScorer, "__call__", note)
        train(tiny(folder, data, *overrides))
    (folder / "validated.json").write_text(json.dumps(noted))


@pytest.fixture(scope="session")
def trained(once: Shared, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three phases in a row; the run's folder, of which each process has a copy, for evaluations and no phases."""
    outputs = once("outputs", lambda folder: train_and_note(folder, data))
    return shutil.copytree(outputs, tmp_path_factory.mktemp("outputs") / "copy") / "demo" / "seed0"


@pytest.fixture(scope="session")
def mixed(once: Shared, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `trained`, in mixed precision."""
    outputs = once("mixed", lambda folder: train_and_note(folder, data, "trainer.precision=bf16-mixed"))
    return shutil.copytree(outputs, tmp_path_factory.mktemp("mixed") / "copy") / "demo" / "seed0"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    import torch

    torch.manual_seed(0)


os.environ.setdefault("WANDB_MODE", "offline")
