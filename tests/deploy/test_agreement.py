"""The comparison, by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from efpn.deploy.run import Tolerance, compare
from efpn.errors import UserError

CLOSE = Tolerance(boxes=0.01, scores=1e-4)
ROWS = [[10, 10, 20, 20, 0.9, 1], [40, 10, 60, 30, 0.5, 2], [41, 10, 60, 30, 0.5, 1]]


def rows(table):
    table = torch.tensor(table, dtype=torch.float64).reshape(-1, 6)
    return {"boxes": table[:, :4].float(), "scores": table[:, 4].float(), "labels": table[:, 5].long()}


class Says(nn.Module):
    """A detector that says the same of every image."""

    def __init__(self, table):
        super().__init__()
        self.table = table
        self.backbone = SimpleNamespace(reads_2x=False)

    def forward(self, images, images_2x=None):
        return [rows(self.table) for _ in images]


def run(ours, theirs, names=("a.jpg",)):
    views = [(name, torch.zeros(3, 8, 8)) for name in names]
    return compare(Says(ours), lambda image: rows(theirs), views, CLOSE)


def changed(row, column, value):
    table = [list(one) for one in ROWS]
    table[row][column] = value
    return table


def test_the_largest_differences_are_told():
    agreement = run(ROWS, changed(1, 0, 40.005), names=("a.jpg", "b.jpg"))
    assert (agreement.views, agreement.detections) == (2, 6)
    assert agreement.boxes == pytest.approx(0.005, rel=1e-3) and agreement.scores == 0
    assert run(ROWS, changed(2, 4, 0.50005)).scores == pytest.approx(5e-5, rel=1e-2)


def test_two_of_one_score_may_change_places():
    assert run(ROWS, [ROWS[2], ROWS[0], ROWS[1]]).boxes == 0


@pytest.mark.parametrize(
    "theirs, message",
    [
        (ROWS[:2], "a.jpg: 2 detections instead of 3"),
        ([], "a.jpg: 0 detections instead of 3"),
        (changed(0, 2, 20.02), r"class 1 at \(10.0, 10.0, 20.0, 20.0\), score 0.900, is 0.02 px and 0 of score away"),
        (changed(0, 4, 0.8998), r"class 1 at \(10.0.*is 0 px and 0.0002 of score away"),
        (changed(1, 5, 3), r"class 2 at \(40.0, .*has no counterpart of its class"),
        ([ROWS[0], ROWS[1], ROWS[1]], r"class 1 at \(41.0, .*px and .* away"),
    ],
)
def test_what_differs_is_named(theirs, message):
    with pytest.raises(UserError, match=f"(?s)does not say what the detector says: 1 problem.*{message}"):
        run(ROWS, theirs)


def test_one_cannot_stand_for_two():
    """Both of ours lie within the tolerance of each of theirs, but one of theirs is elsewhere."""
    ours = [[10, 10, 20, 20, 0.9, 1], [10, 10, 20, 20.001, 0.9, 1]]
    with pytest.raises(UserError, match="two detections have one counterpart"):
        run(ours, [ours[0], [50, 50, 60, 60, 0.9, 1]])


def test_every_image_that_differs_is_named():
    with pytest.raises(UserError, match="2 problems\n  a.jpg: .*\n  b.jpg: "):
        run(ROWS, ROWS[:1], names=("a.jpg", "b.jpg"))


def test_a_comparison_of_nothing_is_refused():
    with pytest.raises(UserError, match="nothing to compare: no detection on 1 views"):
        run([], [])
