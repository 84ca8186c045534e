import dataclasses

import numpy as np
import pytest

from efpn.data.balance import count_matrix, expected_in_windows, make_plan
from efpn.data.check import check_index
from efpn.data.transforms import TrainTransform
from efpn.data.tt100k import TT100K

BOX = [1, 1, 9, 9]


def whole(size):
    return np.inf


def repeats(index, target, window=whole):
    return np.bincount(make_plan(index, target, window)[0]).tolist()


def instances(index, plan, window=whole):
    """Instances of each class to be expected in a pass by this plan."""
    counts = count_matrix(index)
    expected = counts.sum(axis=0).astype(float)
    for label in np.unique(plan[1][plan[1] > 0]):
        expected += expected_in_windows(index, label, counts, window)[plan[0][plan[1] == label]].sum(axis=0)
    return np.rint(expected).astype(int)


def test_counts_by_image_and_class(index):
    assert count_matrix(index([BOX] * 3, [], labels=[[1, 2, 1], []])).tolist() == [[2, 1], [0, 0]]


def test_plan_by_hand(index):
    # Class a: images 0 (one instance) and 1 (two); class b: image 2, three instances, above the target.
    three = index([BOX], [BOX] * 2, [BOX] * 9, labels=[[1], [1, 1], [2] * 9])
    order, labels = make_plan(three, 8, whole)
    # 3 instances of a, 5 missing: 0 (+1), 1 (+2), 0 (+1), 1 (+2) overshoots by one.
    assert order.tolist() == [0, 0, 0, 1, 1, 1, 2] and labels.tolist() == [0, 1, 1, 0, 1, 1, 0]
    assert instances(three, (order, labels)).tolist() == count_matrix(three)[order].sum(axis=0).tolist() == [9, 9]


def test_images_that_swell_full_classes_come_last(index):
    # Both images hold one a; image 0 also holds two b, which has enough already.
    two = index([BOX] * 3, [BOX], [BOX] * 8, labels=[[1, 2, 2], [1], [2] * 8])
    assert repeats(two, target=3) == [1, 2, 1]


def test_repeats_are_capped(index):
    assert repeats(index([BOX], [], labels=[[1], []]), target=1000) == [30, 1]


def test_only_evaluated_classes_are_balanced(index):
    assert repeats(index([BOX], [BOX], labels=[[1], [2]], evaluated=(False, True)), target=3) == [1, 3]


def test_a_window_shows_its_object_and_what_is_near(index):
    # 100 px wide; windows of 40 px around the first box start at 0 to 10, and hold the third (centre 45) from 5 on.
    near, far = [10, 10, 30, 30], [80, 80, 90, 90]
    three = index([near, far, [40, 10, 50, 30]], [far], labels=[[1, 2, 2], [2]])
    record = three.records[0]
    records = tuple(dataclasses.replace(one, size=(100, 100)) for one in three.records)
    three = dataclasses.replace(three, records=records)
    counts = count_matrix(three)
    assert expected_in_windows(three, 1, counts, lambda size: 40.0).tolist() == [[1, 0.5], [0, 0]]
    assert expected_in_windows(three, 1, counts, lambda size: 20.0).tolist() == [[1, 0], [0, 0]]
    assert expected_in_windows(three, 1, counts, whole).tolist() == [[1, 2], [0, 0]]
    of_two = expected_in_windows(three, 2, counts, lambda size: 40.0)  # around either of two
    assert of_two[1].tolist() == [0, 1] and of_two[0, 1] == 1 and 0 < of_two[0, 0] < 0.5
    assert record.size is None


def test_crops_count_for_what_their_windows_show(index):
    far = index([BOX, [400, 400, 410, 410]], labels=[[1, 1]])
    order, labels = make_plan(far, 5, lambda size: 50.0)
    assert order.tolist() == [0] * 4 and labels.tolist() == [0, 1, 1, 1]  # two, and three crops of one each
    assert repeats(far, target=5) == [3]  # two, and twice two


@pytest.mark.slow
def test_the_papers_plan_with_crops_on_the_real_labels(shared_data):
    source = TT100K(shared_data / "tt100k_labels", evaluated={"min_count": 100, "splits": ["train", "test"]})
    train, _ = check_index(source.load("train"), open_images="none")
    train = dataclasses.replace(
        train, records=tuple(dataclasses.replace(one, size=(2048, 2048)) for one in train.records)
    )
    window = TrainTransform(1400, 1400, (0.8, 1.25), repeat_crop=700).repeat_window
    assert window((2048, 2048)) == 1024
    plan = make_plan(train, 1000, window)
    before, after = count_matrix(train).sum(axis=0), instances(train, plan, window)
    evaluated = [label - 1 for label in source.categories.evaluated_labels]
    assert min(after[evaluated]) >= 1000 and np.bincount(plan[0]).max() <= 16
    whole_images = instances(train, make_plan(train, 1000, whole))
    assert after[evaluated].sum() < whole_images[evaluated].sum()  # fewer bystanders
    shown, random = before.copy(), np.random.default_rng(0)
    for number, label in zip(*plan, strict=True):
        if label:
            shown += in_a_window(train.records[number], label, 1024, random, len(before))
    rare = [column for column in evaluated if before[column] < 160]
    assert np.abs(shown[rare] - 1000).max() < 60  # what the plan expects is what the crops show
    np.testing.assert_allclose(shown[evaluated], after[evaluated], rtol=0.08)


def in_a_window(record, label, side, random, classes):
    """Instances by class whose centre lies in a window around one object of `label`, placed as the transform does."""
    box = record.boxes[random.choice(np.flatnonzero(record.labels == label))]
    starts = []
    for axis in (0, 1):
        ends = sorted((int(np.ceil(box[2 + axis])) - side, int(np.floor(box[axis]))))
        low, high = (int(np.clip(end, 0, 2048 - side)) for end in ends)
        starts.append(random.integers(low, high + 1))
    centres = (record.boxes[:, :2] + record.boxes[:, 2:]) / 2
    inside = ((centres >= starts) & (centres < np.add(starts, side))).all(axis=1)
    return np.bincount(record.labels[inside] - 1, minlength=classes)


@pytest.mark.slow
def test_the_papers_plan_on_the_real_labels(shared_data):
    source = TT100K(shared_data / "tt100k_labels", evaluated={"min_count": 100, "splits": ["train", "test"]})
    train, _ = check_index(source.load("train"), open_images="none")
    counts, order = count_matrix(train), make_plan(train, 1000, whole)[0]
    totals = counts.sum(axis=0), counts[order].sum(axis=0)
    before, after = (dict(zip(source.categories.names, one.tolist(), strict=True)) for one in totals)
    evaluated = [source.categories.names[label - 1] for label in source.categories.evaluated_labels]
    assert (before["p6"], before["pn"]) == (69, 1887)
    assert min(after[name] for name in evaluated) == 1000
    rare = [name for name in evaluated if before[name] < 160]
    assert len(rare) == 21 and max(after[name] for name in rare) <= 1030
    times = np.bincount(order)
    assert times.min() == 1 and times.max() == 15 and len(order) == 22426
    np.testing.assert_array_equal(order, make_plan(train, 1000, whole)[0])


@pytest.mark.parametrize("target", [1, 2])
def test_nothing_is_repeated_when_all_classes_have_enough(index, target):
    assert repeats(index([BOX] * 2), target) == [1]
