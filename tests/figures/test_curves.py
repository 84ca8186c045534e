from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from efpn.figures.curves import CAUSES, STYLES, accuracy_recall, interval_dots, loss_bars, scale_curves

LINE = {"accuracy": [0.0, 0.8, 1.0], "recall": [1.0, 0.6, 0.0]}
NAMES = ("FPN", "EFPN", "a", "b", "c", "d")


@pytest.mark.parametrize("count", [1, 2, 6])
def test_accuracy_recall_draws_each_run_in_its_colour(count):
    figure = accuracy_recall({name: {"small": LINE, "large": None} for name in NAMES[:count]}, title="t")
    small, large = figure.axes
    assert [line.get_color() for line in small.lines] == [style["color"] for style in STYLES[:count]]
    assert small.lines[0].get_xdata().tolist() == LINE["recall"]
    assert not large.lines and large.texts[0].get_text() == "n/a: no such object"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(NAMES[:count])
    assert figure.legends[0].get_title().get_text() == "t"


def test_a_legend_of_several_rows_takes_nothing_from_the_panels():
    def panel(names):
        figure = accuracy_recall({name: dict.fromkeys("abcd", LINE) for name in names}, title="t")
        figure.draw_without_rendering()
        box = figure.axes[0].get_tightbbox()
        return box.y0, figure.legends[0].get_window_extent().y0 - box.y1

    below, above = panel(["one"])
    for rows in (2, 3, 6):
        long = panel([f"a_long_name_of_a_run/finetune {n}" for n in range(rows)])
        assert long[0] >= below - 1 and long[1] >= above - 1  # pixels of 150 to the inch


def test_scale_curves_break_where_nothing_is():
    runs = {"FPN": {"AP": [0.1, None, 0.3], "AR": [0.2, None, 0.4]}, "EFPN": {"AP": [None] * 3, "AR": [None] * 3}}
    figure = scale_curves(["<8", "8-12", "12+"], [3, 0, 2], runs)
    assert len(figure.axes) == 4
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), [0.1, np.nan, 0.3])
    assert np.isnan(figure.axes[0].lines[1].get_ydata()).all()
    assert [bar.get_height() for bar in figure.axes[-1].patches] == [3, 0, 2]
    assert [text.get_text() for text in figure.axes[-1].texts] == ["3", "0", "2"]


def test_loss_bars_stack_to_the_share_of_what_is_missed():
    runs = {
        "FPN": {"small": {"classification": 1, "low_score": 3, "rpn_cap": None}, "large": {"classification": 0}},
        "EFPN": {"small": {"classification": 2, "low_score": 0, "rpn_cap": None}, "large": {"classification": 0}},
    }
    figure = loss_bars(runs, {"small": 8, "large": 0})
    small, large = figure.axes
    widths = [bar.get_width() for bar in small.patches]
    assert widths == [12.5, 25, 37.5, 0]
    assert [text.get_text().strip() for text in small.texts] == ["50 %", "25 %"]
    assert [text.get_text().strip() for text in large.texts] == ["n/a", "n/a"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["classification", "low score"]


def test_nothing_missed_at_all():
    figure = loss_bars({"FPN": {"small": {"classification": 0}}}, {"small": 5})
    assert figure.axes[0].texts[0].get_text().strip() == "0 %"


def test_runs_and_causes_have_colours_of_their_own():
    assert len({style["color"] for style in STYLES}) == len({style["marker"] for style in STYLES}) == 6
    for causes in (list(CAUSES)[:8], ["duplicate", "classification", "localisation", "both", "crowd", "background"]):
        colours = np.array([to_rgb(CAUSES[cause]) for cause in causes])
        gaps = np.abs(colours[:, None] - colours[None]).sum(axis=2)
        assert gaps[np.triu_indices(len(causes), 1)].min() > 0.3


def test_interval_dots_are_open_where_asked_and_leave_out_a_column_without_numbers():
    columns = {"AP_S": [(0.02, 0.0, 0.05), (0.5, 0.4, 0.6)], "AP_L": [(np.nan,) * 3] * 2}
    (axes,) = interval_dots(["a", "b"], columns, {"AP_S": [True, False], "AP_L": [False, False]}).axes
    assert axes.get_title("left") == "AP_S" and axes.get_xlim()[0] >= 0
    assert [dot.get_markerfacecolor() for dot in axes.lines] == ["white", STYLES[0]["color"]]
    assert [dot.get_xdata()[0] for dot in axes.lines] == [0.02, 0.5]
