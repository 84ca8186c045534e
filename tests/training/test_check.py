"""What is said of a phase before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import TINY, config

from efpn.runs.phases import phase_run
from efpn.training.check import check_phase

SCRATCH = ("backbone.norm=batch", "backbone.trainable_stages=5")


@pytest.mark.parametrize(
    "words, warned",
    [
        (("backbone.norm=frozen", "backbone.trainable_stages=3"), True),
        (("backbone.norm=batch", "backbone.trainable_stages=3"), True),
        (SCRATCH, False),
    ],
)
def test_stages_that_stay_at_random_weights_are_told(
    words: tuple[str, ...], warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = config("train", *TINY, f"paths.outputs={tmp_path}", "phase=baseline", *words)
    check_phase(cfg, phase_run(cfg, "baseline"))
    assert ("stay frozen at random weights" in caplog.text) == warned
