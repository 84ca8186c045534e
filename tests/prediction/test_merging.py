"""What windows say of one object, by hand: an image of 180 x 100 px, windows of 100 px that share 20 px."""

from __future__ import annotations

import pytest
import torch

from efpn.prediction.merging import gather, is_cut, merge_windows

LEFT, RIGHT, WHOLE = (0, 0, 100, 100), (80, 0, 180, 100), (0, 0, 180, 100)


def found(*rows):
    """Detections of one window: x1, y1, x2, y2 in its pixels, score, label."""
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 6)
    return {"boxes": table[:, :4].float(), "scores": table[:, 4].float(), "labels": table[:, 5].long()}


def merged(*seen, windows=(LEFT, RIGHT), width=180, height=100):
    """Rows of what is left: box, score, label."""
    one = merge_windows(list(seen), list(windows), height, width, iou=0.5)
    table = torch.cat([one["boxes"], one["scores"][:, None], one["labels"][:, None]], dim=1)
    return [[round(value, 3) for value in row] for row in table.tolist()]


def test_a_single_window_is_left_as_it_is():
    one = found([10, 10, 20, 20, 0.9, 1], [11, 10, 21, 20, 0.8, 1])
    for key, value in merge_windows([one], [WHOLE], 100, 180, 0.5).items():
        assert value is one[key]


def test_boxes_move_from_their_window_to_the_image():
    assert merged(found([10, 10, 20, 20, 0.5, 1]), found([50, 30, 60, 40, 0.9, 2])) == [
        [130, 30, 140, 40, 0.9, 2],
        [10, 10, 20, 20, 0.5, 1],
    ]


def test_cut_is_what_ends_at_an_edge_inside_the_image():
    parts = gather(
        [found([0, 0, 9, 9, 1, 1], [60, 9, 99.5, 20, 1, 1]), found([0.5, 9, 9, 20, 1, 1], [60, 0, 100, 100, 1, 1])],
        [LEFT, RIGHT],
    )
    assert is_cut(parts, 100, 180).tolist() == [False, True, True, False]


def test_an_object_that_both_windows_hold_is_found_once():
    """84 to 96 in the image; whole in both."""
    assert merged(found([84, 40, 96, 60, 0.7, 1]), found([4, 40, 16, 60, 0.9, 1])) == [[84, 40, 96, 60, 0.9, 1]]


def test_a_cut_box_yields_to_the_whole_one_which_takes_the_higher_score():
    """90 to 120: the left window shows 90 to 100 of it, IoU 1/3 with the whole, which plain NMS would keep."""
    assert merged(found([90, 40, 100, 60, 0.95, 1]), found([10, 40, 40, 60, 0.8, 1])) == [[90, 40, 120, 60, 0.95, 1]]


def test_a_cut_box_of_another_class_stays():
    assert len(merged(found([90, 40, 100, 60, 0.95, 1]), found([10, 40, 40, 60, 0.8, 2]))) == 2


def test_a_cut_box_stays_where_the_neighbour_shows_nothing():
    assert merged(found([90, 40, 100, 60, 0.6, 1]), found()) == [[90, 40, 100, 60, 0.6, 1]]


def test_a_weak_box_of_a_part_takes_nothing_from_a_cut_one():
    """A false alarm inside the cut object covers little of it."""
    rows = merged(found([40, 20, 100, 80, 0.9, 1]), found([5, 40, 10, 45, 0.1, 1]))
    assert [40, 20, 100, 80, 0.9, 1] in rows and len(rows) == 2


def test_a_sliver_that_is_badly_framed_yields_too():
    """The left window sees 2 px of the object and guesses 8 of its 40 px of height; 80 % of the guess lie inside."""
    assert merged(found([97.5, 52, 100, 60, 0.3, 1]), found([18, 20, 50, 60, 0.8, 1])) == [[98, 20, 130, 60, 0.8, 1]]


def test_halves_of_an_object_that_no_window_holds_become_one():
    """30 to 150; the halves have IoU 1/6 and the smaller lies to 29 % in the other, but both show 80 to 100 alike."""
    assert merged(found([30, 20, 100, 80, 0.7, 1]), found([0, 20, 70, 80, 0.9, 1])) == [[30, 20, 150, 80, 0.9, 1]]


def test_two_cut_objects_on_either_side_stay_two():
    """They overlap in the strip that both windows show by a quarter of what is seen there."""
    assert len(merged(found([30, 0, 100, 40, 0.7, 1]), found([0, 30, 70, 70, 0.9, 1]))) == 2


def test_with_the_whole_image_among_the_windows_the_halves_yield_to_it():
    seen = [found([29, 20, 151, 80, 0.5, 1]), found([30, 20, 100, 80, 0.7, 1]), found([0, 20, 70, 80, 0.9, 1])]
    assert merged(*seen, windows=(WHOLE, LEFT, RIGHT)) == [[29, 20, 151, 80, 0.9, 1]]


@pytest.mark.parametrize("scores", [(0.9, 0.8, 0.7), (0.7, 0.8, 0.9), (0.7, 0.9, 0.8)])
def test_an_object_over_three_windows_is_put_together_in_any_order(scores):
    windows = [(0, 0, 100, 100), (80, 0, 180, 100), (160, 0, 260, 100)]
    seen = [found([50, 20, 100, 60, scores[0], 1]), found([0, 20, 100, 60, scores[1], 1])]
    last = found([0, 20, 40, 60, scores[2], 1])
    assert merged(*seen, last, windows=windows, width=260) == [[50, 20, 200, 60, 0.9, 1]]


def test_an_object_over_the_corner_of_four_windows_is_put_together():
    windows = [(0, 0, 100, 100), (80, 0, 180, 100), (0, 80, 100, 180), (80, 80, 180, 180)]
    seen = [[60, 60, 100, 100], [0, 60, 50, 100], [60, 0, 100, 50], [0, 0, 50, 50]]
    parts = [found([*box, 0.6 + 0.1 * n, 3]) for n, box in enumerate(seen)]
    assert merged(*parts, windows=windows, height=180) == [[60, 60, 130, 130, 0.9, 3]]


def test_a_second_guess_of_a_window_does_not_make_the_object_grow():
    """The right window frames its half twice; the worse guess goes, the hull is that of the better one."""
    right = found([0, 20, 70, 80, 0.9, 1], [0, 18, 70, 84, 0.2, 1])
    assert merged(found([30, 20, 100, 80, 0.7, 1]), right) == [[30, 20, 150, 80, 0.9, 1]]


def test_nothing_found_anywhere():
    assert merged(found(), found()) == []
