"""Learning rates by step."""

from __future__ import annotations

import logging

import pytest
import torch

from efpn.training.schedule import warmup_cosine, warmup_multistep


def rates(schedule, steps: int, **options) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler, seen = schedule(optimizer, **options), []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_a_multistep_rate_rises_in_line_and_falls_at_two_thirds_and_eight_ninths() -> None:
    seen = rates(warmup_multistep, 18, max_steps=18, warmup_steps=4)
    assert seen[:5] == pytest.approx([0.001, 0.25075, 0.5005, 0.75025, 1.0])
    assert seen[11:17] == pytest.approx([1.0, 0.1, 0.1, 0.1, 0.1, 0.01])


def test_a_cosine_rate_ends_at_its_last_share() -> None:
    seen = rates(warmup_cosine, 12, max_steps=11, warmup_steps=1, final=0.01)
    assert seen[0] == pytest.approx(0.001) and seen[1] == pytest.approx(1.0)
    assert seen[6] == pytest.approx(0.01 + 0.99 / 2) and seen[11] == pytest.approx(0.01)


@pytest.mark.parametrize("schedule", [warmup_multistep, warmup_cosine])
def test_a_warmup_that_never_ends_is_said(schedule, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        rates(schedule, 1, max_steps=10, warmup_steps=9)
        assert not caplog.text
        rates(schedule, 1, max_steps=10, warmup_steps=10)
    assert "warm-up of 10 steps does not end within the phase's 10" in caplog.text
