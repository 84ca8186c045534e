"""What a run's log says of its pace."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from efpn.data.transforms import Transform
from efpn.training.progress import LogProgress, said_size


def test_it_is_said_what_size_files_get_and_where_2x_is_beyond_their_pixels() -> None:
    own = Transform(400, 800)
    assert said_size((800, 1200), own) == "600 x 400 px, most files 1200 x 800"
    assert said_size((480, 640), own) == "533 x 400 px, most files 640 x 480; at 2x the file is enlarged"
    assert said_size((500, 2000), own) == "800 x 200 px, most files 2000 x 500"  # the longer side's limit


def test_a_log_says_early_how_long_it_will_take_and_then_every_so_often(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    trainer: Any = SimpleNamespace(global_step=0, max_steps=120, is_global_zero=True, callback_metrics={})
    progress = LogProgress(every=50)
    progress.on_train_start(trainer, SimpleNamespace())  # type: ignore[arg-type]
    for trainer.global_step in range(1, 121):
        progress.on_train_batch_end(trainer, SimpleNamespace())  # type: ignore[arg-type]
    assert [text.split()[1] for text in caplog.messages] == ["10/120", "50/120", "100/120"]
    caplog.clear()
    trainer.global_step = 37
    progress.on_train_start(trainer, SimpleNamespace())  # type: ignore[arg-type]  # goes on after a stop
    for trainer.global_step in range(38, 121):
        progress.on_train_batch_end(trainer, SimpleNamespace())  # type: ignore[arg-type]
    assert [text.split()[1] for text in caplog.messages] == ["47/120", "50/120", "100/120"]
    assert all("min left" in text for text in caplog.messages)
