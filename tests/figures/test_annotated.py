"""Annotated images are checked by their pixels."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from efpn.figures.outcomes import RIM, STYLES, Mark, annotated_image


def near(pixels, colour, tolerance=40):
    """Where a colour is, as (rows, columns)."""
    return np.nonzero(np.abs(pixels.astype(int) - np.array(to_rgb(colour)) * 255).max(axis=-1) < tolerance)


def grey(height, width):
    return np.full((height, width, 3), 128, np.uint8)


@pytest.mark.parametrize(
    "size, factor", [((128, 128), 8), ((380, 640), 2), ((1024, 1024), 1), ((760, 1300), 1), ((2048, 2048), 1)]
)
def test_a_small_image_is_enlarged_by_a_whole_factor(size, factor):
    assert annotated_image(grey(*size), []).shape == (factor * size[0], factor * size[1], 3)


def test_without_boxes_an_image_stays_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (900, 1001, 3), dtype=np.uint8)
    assert np.abs(annotated_image(image, []).astype(int) - image).max() <= 1


def test_the_frame_is_around_the_box_and_leaves_the_object_visible():
    drawn = annotated_image(grey(380, 640), [Mark("hit", (100, 200, 106, 206))])  # drawn at twice the size
    rows, columns = near(drawn, STYLES["hit"].colour)
    assert (rows.min(), rows.max()) == (pytest.approx(400, abs=4), pytest.approx(412, abs=4))
    assert (columns.min(), columns.max()) == (pytest.approx(200, abs=4), pytest.approx(212, abs=4))
    assert (drawn[402:410, 202:210] == 128).all()


@pytest.mark.parametrize("box", [(500, 400, 520, 420), (0, 0, 20, 20), (1004, 748, 1024, 768), (0, 0, 1024, 768)])
def test_a_text_is_inside_the_image_wherever_its_box_is(box):
    name = Mark("hit", box, "limit40 0.97")
    with_text = annotated_image(grey(768, 1024), [name])
    without = annotated_image(grey(768, 1024), [Mark("hit", box)])
    rows, columns = np.nonzero((with_text != without).any(axis=-1))
    assert 60 < np.ptp(columns) < 140 and 10 < np.ptp(rows) < 30  # whole, not clipped
    assert rows.min() >= 0 and len(near(with_text, RIM, 60)[0]) > 300


def test_the_text_of_a_box_hides_no_other_box():
    above = Mark("hit", (500, 375, 600, 398))
    drawn = annotated_image(grey(768, 1024), [above, Mark("hit", (500, 400, 530, 430), "pn 0.50")])
    assert (drawn[380:394, 505:595] == 128).all()


def test_a_dollar_in_a_name_is_a_dollar():
    annotated_image(
        grey(200, 200),
        [Mark("hit", (50, 50, 80, 80), r"a$\frac$ 0.50")],  # no mathematics: matplotlib would refuse it
    )
