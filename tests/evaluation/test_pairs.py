"""The choice of images where two runs differ, by hand-made records."""

from __future__ import annotations

import numpy as np
import pytest

from efpn.figures.sheet import Difference, choose, crop_window, difference_sheet, differences

NOTHING = np.empty((0, 4))


def boxes(count):
    return np.array([[20.0 * n, 0, 20.0 * n + 10, 10] for n in range(count)]).reshape(-1, 4)


def image(image_id, gained, lost):
    return Difference(image_id, boxes(gained), boxes(lost))


def found(image_id, box, score=0.9):
    return {"image_id": image_id, "category_id": 4, "bbox": box, "score": score}


SMALL, LARGE = [10, 10, 20, 20], [20, 20, 120, 110]


def test_a_small_object_that_one_run_finds(evaluation):
    ours, theirs = evaluation(detections=[found(1, SMALL)]), evaluation(detections=[found(2, LARGE)])
    gained = differences(theirs, ours)
    assert [(one.image_id, one.gain) for one in gained] == [(1, 1), (2, 0), (3, 0)]
    assert gained[0].gained.tolist() == [[10, 10, 30, 30]]
    lost = differences(ours, theirs)
    assert [one.gain for one in lost] == [-1, 0, 0] and lost[0].lost.tolist() == [[10, 10, 30, 30]]


def test_low_scores_and_crowds_are_no_difference(evaluation, ground_truth):
    weak = differences(evaluation(detections=[]), evaluation(detections=[found(1, SMALL, 0.4)]))
    ground_truth["annotations"][0]["iscrowd"] = 1
    crowd = differences(evaluation(detections=[]), evaluation(detections=[found(1, SMALL)]))
    assert {one.gain for one in [*weak, *crowd]} == {0}


def test_greatest_differences_first_and_worse_ones_in_proportion():
    """Six better and two worse images: of four shown, one is worse, the one that loses most."""
    rows = [image(n, n, 0) for n in range(1, 7)] + [image(7, 0, 1), image(8, 1, 4), image(9, 2, 2)]
    assert [one.image_id for one in choose(rows, 4)] == [6, 5, 4, 8]
    assert [one.image_id for one in choose(rows, 8)] == [6, 5, 4, 3, 2, 1, 8, 7]
    assert [one.image_id for one in choose(rows, 1)] == [6]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], []),
        ([image(1, 1, 1)], []),
        ([image(1, 0, 1), image(2, 0, 2)], [2, 1]),
        ([image(2, 1, 0), image(1, 1, 0)], [1, 2]),  # ties in the order of ids
        ([image(n, 0, 1) for n in range(1, 9)] + [image(9, 1, 0)], [9, 1, 2]),  # one better at least
        ([image(n, 1, 0) for n in range(1, 9)] + [image(9, 0, 1)], [1, 2, 9]),  # one worse at least
    ],
)
def test_choice_of_three(rows, expected):
    assert [one.image_id for one in choose(rows, 3)] == expected


def test_a_crop_shows_the_cluster_and_stays_inside():
    lost = np.array([[150.0, 150, 160, 160], [5, 5, 15, 15], [25, 5, 35, 15]])
    assert crop_window(Difference(1, NOTHING, lost), (200, 200, 3)) == (0, 0, 96, 96)
    assert crop_window(Difference(1, lost[:1], NOTHING), (200, 200, 3)) == (104, 104, 200, 200)


def test_a_sheet_says_which_way_each_pair_goes(evaluation, ground_truth):
    ground_truth["annotations"].append({**ground_truth["annotations"][0], "id": 9, "image_id": 3})
    fpn = evaluation(name="FPN", detections=[found(1, SMALL)])
    sheet, data = difference_sheet(fpn, evaluation(detections=[found(3, SMALL)]))
    assert data["runs"] == ("FPN", "EFPN") and data["shown"] == [3, 1]
    left_upper = [10.0, 10.0, 30.0, 30.0]
    assert data["images"] == [
        {"image_id": 1, "gained": [], "lost": [left_upper]},
        {"image_id": 3, "gained": [left_upper], "lost": []},
    ]
    head, *pages = sheet.subfigs
    assert "only EFPN finds: 1, only FPN: 1; 1 images better, 1 worse, 1 as good" in head.texts[0].get_text()
    assert [page.texts[0].get_text().split(" (")[0] for page in pages] == [
        "3: better, 1 small gained, 0 lost",
        "1: worse, 0 small gained, 1 lost",
    ]
    for page, said in zip(pages, (["missed", "hit"], ["hit", "missed"]), strict=True):
        assert [axes.get_title(loc="left") for axes in page.axes] == ["FPN", "EFPN"]
        assert [axes.texts[0].get_text().split()[0] for axes in page.axes] == said
        assert page.axes[0].get_xlim() == page.axes[1].get_xlim()


def test_runs_that_do_not_differ_have_no_sheet(evaluation):
    assert difference_sheet(evaluation(detections=[]), evaluation(detections=[])) is None


def test_a_sheet_of_pairs_wraps_its_title(evaluation, ground_truth):
    sheet, _ = difference_sheet(evaluation(name="word " * 30, detections=[]), evaluation(detections=[found(1, SMALL)]))
    lines = sheet.subfigs[0].texts[0].get_text().splitlines()
    assert len(lines) > 3 and max(map(len, lines)) <= 10.5 * sheet.get_figwidth()
    assert len(sheet.subfigs) == 2
