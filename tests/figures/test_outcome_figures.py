"""Figures are checked by their pixels: the colours are where the boxes are."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from efpn.figures.outcomes import STYLES, Mark, draw_outcomes, legend, marks, zoom_window
from efpn.figures.sheet import Panel, contact_sheet, outcome_sheet, save, telling_marks
from efpn.metrics.evaluation import Evaluation

GREY = np.full((100, 100, 3), 128, np.uint8)


def rendered(image, drawn, **options):
    """The figure's pixels; one image pixel is four figure pixels, the image fills the figure."""
    figure = Figure(figsize=(4, 4), dpi=100)
    canvas = FigureCanvasAgg(figure)
    draw_outcomes(figure.add_axes((0, 0, 1, 1)), image, drawn, **options)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(int)


def painted(pixels, kind):
    """Where the colour of a kind is, as (rows, columns)."""
    colour = np.array(to_rgb(STYLES[kind].colour)) * 255
    return np.nonzero(np.abs(pixels - colour).max(axis=-1) < 40)


@pytest.mark.parametrize("kind", STYLES)
def test_each_kind_is_drawn_in_its_colour_around_its_box(kind):
    rows, columns = painted(rendered(GREY, [Mark(kind, (20, 30, 60, 80))]), kind)
    assert rows.min() == pytest.approx(30 * 4, abs=5)
    assert rows.max() == pytest.approx(80 * 4, abs=5)
    assert columns.min() == pytest.approx(20 * 4, abs=5)
    assert columns.max() == pytest.approx(60 * 4, abs=5)


@pytest.mark.parametrize("kind", STYLES)
def test_a_frame_leaves_its_object_visible(kind):
    """Even an object of 3 x 3 pixels: its own pixels stay grey."""
    pixels = rendered(GREY, [Mark(kind, (50, 50, 53, 53))])
    assert (pixels[202:210, 202:210] == 128).all()
    assert len(painted(pixels, kind)[0]) > 20


def test_kinds_differ_in_colour_and_in_line():
    styles = list(STYLES.values())
    assert len({style.colour for style in styles}) == 4
    by_line = {kind: style.line for kind, style in STYLES.items()}
    assert by_line["hit"] != by_line["false_alarm"] != by_line["miss"] != by_line["hit"]


def test_colours_differ_in_lightness_too():
    """Told apart on a grey print: luminances of hit, false alarm, miss and truth are apart."""
    light = sorted(np.dot(to_rgb(style.colour), (0.2126, 0.7152, 0.0722)) for style in STYLES.values())
    assert np.diff(light).min() > 0.08


def test_a_window_zooms():
    """In a window of 20 pixels a box of 4 pixels is a fifth of the figure wide."""
    rows, columns = painted(rendered(GREY, [Mark("miss", (48, 48, 52, 52))], window=(40, 40, 60, 60)), "miss")
    assert columns.max() - columns.min() == pytest.approx(400 / 5, abs=16)
    assert rows.mean() == pytest.approx(200, abs=5)


def test_a_window_beyond_the_image_is_filled():
    pixels = rendered(GREY, [], window=(-20, 0, 20, 40))
    assert (pixels[:, 300:] == 128).all()
    assert (pixels[:, :150] == 64).all()


def test_misses_lie_on_top():
    """A hit's frame in the same place takes no pixel from a miss's, whatever the order they are given in."""
    miss, hit = Mark("miss", (20, 20, 80, 80)), Mark("hit", (20, 20, 80, 80))
    alone = len(painted(rendered(GREY, [miss]), "miss")[0])
    assert len(painted(rendered(GREY, [miss, hit]), "miss")[0]) >= alone
    assert len(painted(rendered(GREY, [hit, miss]), "miss")[0]) >= alone


def test_zoom_window_is_a_square_around_the_box():
    assert zoom_window((40, 50, 50, 70)) == (15, 30, 75, 90)  # 3 x 20 about (45, 60)
    assert zoom_window((10, 10, 12, 12)) == (-5, -5, 27, 27)  # 32 at least


def test_marks_pair_boxes_and_texts():
    assert marks("hit", np.array([[1.0, 2, 3, 4]]), ["pn 0.90"]) == [Mark("hit", (1, 2, 3, 4), "pn 0.90")]
    assert marks("hit", np.empty((0, 4))) == []


def test_telling_marks_show_misses_first_and_the_smallest_first():
    hit = Mark("hit", (0, 0, 9, 9))
    alarm = Mark("false_alarm", (300, 0, 310, 10))
    big, small = Mark("miss", (0, 300, 90, 390)), Mark("miss", (300, 300, 308, 308))
    assert telling_marks([hit, alarm, big, small]) == [small, big, alarm, hit]
    assert telling_marks([hit, alarm, big, small], count=2) == [small, big]


def test_telling_marks_pass_over_what_a_view_shows_already():
    miss, alarm_on_it = Mark("miss", (100, 100, 110, 110)), Mark("false_alarm", (101, 100, 111, 110))
    assert telling_marks([alarm_on_it, miss, Mark("truth", (0, 0, 9, 9))]) == [miss]


def test_legend_names_all_kinds():
    figure = Figure()
    legend(figure)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [style.name for style in STYLES.values()]


def test_a_sheet_holds_all_panels_with_title_and_views():
    drawn = [Mark("miss", (10, 10, 18, 18), "pn, 8 px"), Mark("false_alarm", (70, 70, 90, 90), "pl80 0.60")]
    sheet = contact_sheet([Panel(GREY, drawn, title=f"image {n}") for n in range(3)], title="all of them")
    head, *pages = sheet.subfigs
    assert head.texts[0].get_text() == "all of them"
    assert [page.texts[0].get_text() for page in pages] == ["image 0", "image 1", "image 2"]
    for page in pages:
        overview, *views = page.axes
        assert overview.get_xlim() == (0, 100)
        assert [view.get_xlim() for view in views] == [(-2, 30), (50, 110)]
        assert [text.get_text() for text in views[0].texts] == ["missed pn, 8 px"]
        assert [text.get_text() for text in views[1].texts] == ["false pl80 0.60"]


def test_a_large_image_is_shrunk_and_its_boxes_with_it():
    large = np.full((1500, 3000, 3), 128, np.uint8)
    overview = contact_sheet([Panel(large, [Mark("hit", (0, 0, 3000, 1500))])]).subfigs[1].axes[0]
    assert overview.get_xlim() == (0, 1024)
    frame = overview.patches[0].get_path().get_extents()
    assert (frame.width, frame.height) == pytest.approx((1024, 512), abs=10)


def test_many_boxes_are_one_path_of_what_the_window_shows():
    boxes = [Mark("hit", (6.0 * n, 0, 6.0 * n + 3, 4)) for n in range(20)]
    axes = Figure().add_subplot()
    draw_outcomes(axes, GREY, [*boxes, Mark("miss", (60, 60, 70, 70))], window=(0, 0, 50, 50))
    assert len(axes.patches) == 1 and len(axes.patches[0].get_path().vertices) == 9 * 5


def test_sheet_is_written_and_has_pixels_of_each_kind(tmp_path):
    drawn = [Mark(kind, (20 * n + 5, 40, 20 * n + 15, 50)) for n, kind in enumerate(STYLES)]
    path = save(contact_sheet([Panel(GREY, drawn)]), tmp_path / "new" / "sheet.png")
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    for kind in STYLES:
        assert len(painted(pixels, kind)[0]) > 20, kind


def test_no_image_has_no_sheet():
    nothing = {"images": [], "annotations": [], "categories": []}
    one = Evaluation("x", "toy/test", nothing, [], 0.5, [], facts={}, load_image=lambda number: GREY)
    assert outcome_sheet(one) is None


def test_a_dollar_in_a_name_begins_no_formula(tmp_path):
    """Nor does one that is none end the report."""
    for name in ("$\\frac$", "$x^{$"):
        sheet = contact_sheet([Panel(GREY, [Mark("miss", (20, 30, 60, 80), name)], name)], title=name)
        assert save(sheet, tmp_path / "sheet.png").is_file()
