"""What is said of a phase before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import TINY, config

from efpn.runs.phases import phase_run
from efpn.training.check import check_phase


@pytest.mark.parametrize(
    "words, warned",
    [
        (("backbone.trainable_stages=3",), True),
        (("backbone.trainable_stages=5",), False),
        (("backbone.trainable_stages=5", "backbone.norm=frozen"), False),  # from scratch these do nothing
        (("backbone.trainable_stages=3", "phase=distill"), False),  # starts from the baseline
    ],
)
def test_stages_that_stay_at_random_weights_are_told(
    words: tuple[str, ...], warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = config("train", *TINY, f"paths.outputs={tmp_path}", "phase=baseline", *words)
    check_phase(cfg, phase_run(cfg, cfg.phase))
    assert ("stays frozen at random weights" in caplog.text) == warned
