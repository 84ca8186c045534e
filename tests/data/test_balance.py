import dataclasses

import numpy as np
import pytest

from efpn.data.balance import count_matrix, expected_in_windows, make_plan, whole
from efpn.data.check import check_index
from efpn.data.transforms import TrainTransform
from efpn.data.tt100k import TT100K

BOX = [1, 1, 9, 9]


def test_counts_by_image_and_class(index):
    assert count_matrix(index([BOX] * 3, [], labels=[[1, 2, 1], []])).tolist() == [[2, 1], [0, 0]]


def test_plan_by_hand(index):
    # Class a: images 0 (one instance) and 1 (two); class b: image 2, three instances, above the target.
    three = index([BOX], [BOX] * 2, [BOX] * 9, labels=[[1], [1, 1], [2] * 9])
    plan = make_plan(three, target=8)
    # 3 instances of a, 5 missing: 0 (+1), 1 (+2), 0 (+1), 1 (+2) overshoots by one.
    assert plan.repeats.tolist() == [3, 3, 1]
    assert plan.before.tolist() == [3, 9] and plan.after.tolist() == [9, 9]
    assert plan.order.tolist() == [0, 0, 0, 1, 1, 1, 2] and plan.labels.tolist() == [0, 1, 1, 0, 1, 1, 0]


def test_images_that_swell_full_classes_come_last(index):
    # Both images hold one a; image 0 also holds two b, which has enough already.
    two = index([BOX] * 3, [BOX], [BOX] * 8, labels=[[1, 2, 2], [1], [2] * 8])
    assert make_plan(two, target=3).repeats.tolist() == [1, 2, 1]


def test_repeats_are_capped(index):
    plan = make_plan(index([BOX], [], labels=[[1], []]), target=1000, max_repeats=4)
    assert plan.repeats.tolist() == [4, 1]


def test_only_evaluated_classes_are_balanced(index):
    plan = make_plan(index([BOX], [BOX], labels=[[1], [2]], evaluated=(False, True)), target=3)
    assert plan.repeats.tolist() == [1, 3]


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
    plan = make_plan(far, target=5, window=lambda size: 50.0)
    assert plan.repeats.tolist() == [4] and plan.after.tolist() == [5, 0]  # two, and three crops of one each
    assert plan.labels.tolist() == [0, 1, 1, 1]
    assert make_plan(far, target=5).repeats.tolist() == [3]  # two, and twice two


@pytest.mark.slow
def test_the_papers_plan_with_crops_on_the_real_labels(shared_data):
    source = TT100K(shared_data / "tt100k_labels", evaluated={"min_count": 100, "splits": ["train", "test"]})
    train, _ = check_index(source.load("train"), open_images="none")
    train = dataclasses.replace(
        train, records=tuple(dataclasses.replace(one, size=(2048, 2048)) for one in train.records)
    )
    window = TrainTransform(1400, 1400, (0.8, 1.25), repeat_crop=700).repeat_window
    assert window((2048, 2048)) == 1024
    plan, whole_images = make_plan(train, 1000, window=window), make_plan(train, 1000)
    evaluated = [label - 1 for label in source.categories.evaluated_labels]
    assert min(plan.after[evaluated]) >= 1000 and plan.repeats.max() <= 16
    assert plan.after[evaluated].sum() < whole_images.after[evaluated].sum()  # fewer bystanders
    shown, random = plan.before.copy(), np.random.default_rng(0)
    for number, label in zip(plan.order, plan.labels, strict=True):
        if label:
            shown += in_a_window(train.records[number], label, 1024, random, len(plan.before))
    rare = [column for column in evaluated if plan.before[column] < 160]
    assert np.abs(shown[rare] - 1000).max() < 60  # what the plan expects is what the crops show
    np.testing.assert_allclose(shown[evaluated], plan.after[evaluated], rtol=0.08)


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
    plan = make_plan(train, target=1000)
    before, after = (dict(zip(source.categories.names, one, strict=True)) for one in (plan.before, plan.after))
    evaluated = [source.categories.names[label - 1] for label in source.categories.evaluated_labels]
    assert (before["p6"], before["pn"], sum(before.values())) == (69, 1887, int(count_matrix(train).sum()))
    assert min(after[name] for name in evaluated) == 1000
    rare = [name for name in evaluated if before[name] < 160]
    assert len(rare) == 21 and max(after[name] for name in rare) <= 1030
    assert plan.repeats.min() == 1 and plan.repeats.max() == 15
    assert plan.repeats.sum() == 22426
    np.testing.assert_array_equal(plan.repeats, make_plan(train, target=1000).repeats)


@pytest.mark.parametrize("target", [1, 2])
def test_nothing_is_repeated_when_all_classes_have_enough(index, target):
    assert make_plan(index([BOX] * 2), target=target).repeats.tolist() == [1]
