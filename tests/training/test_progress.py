"""What a run's log says of its pace."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from efpn.training.progress import LogProgress


def test_a_log_says_early_how_long_it_will_take_and_then_every_so_often(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    trainer: Any = SimpleNamespace(global_step=0, max_steps=120, is_global_zero=True, callback_metrics={})
    progress = LogProgress(every=50)
    progress.on_train_start(trainer, SimpleNamespace())  # type: ignore[arg-type]
    for trainer.global_step in range(1, 121):
        progress.on_train_batch_end(trainer, SimpleNamespace())  # type: ignore[arg-type]
    assert [text.split()[1] for text in caplog.messages] == ["10/120", "50/120", "100/120"]
    assert all("min left" in text for text in caplog.messages)
