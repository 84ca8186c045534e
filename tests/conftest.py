"""Fixtures that several parts share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from helpers import tiny

from efpn.training.run import train

ROOT = Path(__file__).parents[1]


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
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the drawn signs are kept."""
    return tmp_path_factory.mktemp("synthetic")


@pytest.fixture(scope="session")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three phases in a row; the run's folder."""
    outputs = tmp_path_factory.mktemp("outputs")
    train(tiny(outputs, data))
    return outputs / "demo" / "seed0"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


os.environ.setdefault("WANDB_MODE", "offline")
