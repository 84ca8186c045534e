import numpy as np
import pytest

from efpn.data.balance import count_matrix, main, make_plan
from efpn.data.check import check_index
from efpn.data.tt100k import TT100K

BOX = [1, 1, 9, 9]


def test_counts_by_picture_and_class(index):
    assert count_matrix(index([BOX] * 3, [], labels=[[1, 2, 1], []])).tolist() == [[2, 1], [0, 0]]


def test_plan_by_hand(index):
    # Class a: pictures 0 (one instance) and 1 (two); class b: picture 2, three instances, above the target.
    three = index([BOX], [BOX] * 2, [BOX] * 9, labels=[[1], [1, 1], [2] * 9])
    plan = make_plan(three, target=8)
    # 3 instances of a, 5 missing: 0 (+1), 1 (+2), 0 (+1), 1 (+2) overshoots by one.
    assert plan.repeats.tolist() == [3, 3, 1]
    assert plan.before.tolist() == [3, 9] and plan.after.tolist() == [9, 9]
    assert plan.order.tolist() == [0, 0, 0, 1, 1, 1, 2]


def test_pictures_that_swell_full_classes_come_last(index):
    # Both pictures hold one a; picture 0 also holds two b, which has enough already.
    two = index([BOX] * 3, [BOX], [BOX] * 8, labels=[[1, 2, 2], [1], [2] * 8])
    assert make_plan(two, target=3).repeats.tolist() == [1, 2, 1]


def test_repeats_are_capped(index):
    plan = make_plan(index([BOX], [], labels=[[1], []]), target=1000, max_repeats=4)
    assert plan.repeats.tolist() == [4, 1]


def test_only_evaluated_classes_are_balanced(index):
    plan = make_plan(index([BOX], [BOX], labels=[[1], [2]], evaluated=(False, True)), target=3)
    assert plan.repeats.tolist() == [1, 3]


def test_the_papers_plan_on_the_real_labels(shared_data):
    source = TT100K(shared_data / "tt100k_labels", evaluated={"min_count": 100, "splits": ["train", "test"]})
    train, _ = check_index(source.load("train"), open_pictures="none")
    plan = make_plan(train, target=1000)
    before, after = dict(zip(plan.names, plan.before, strict=True)), dict(zip(plan.names, plan.after, strict=True))
    evaluated = [source.categories.names[label - 1] for label in source.categories.evaluated_labels]
    assert (before["p6"], before["pn"], sum(before.values())) == (69, 1887, int(train.instances().sum()))
    assert min(after[name] for name in evaluated) == 1000
    rare = [name for name in evaluated if before[name] < 160]
    assert len(rare) == 21 and max(after[name] for name in rare) <= 1030
    assert plan.repeats.min() == 1 and plan.repeats.max() == 15
    assert plan.repeats.sum() == 22426
    np.testing.assert_array_equal(plan.repeats, make_plan(train, target=1000).repeats)


def test_table_is_printed_by_the_command(tt100k, tt100k_sign, capsys):
    things = {1: [tt100k_sign("pn")], 2: [tt100k_sign("pl50")], 3: [tt100k_sign("pl50")]}
    root = tt100k({"train": things, "test": {4: []}})
    assert main([str(root), "--target", "4", "--min-count", "1"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[:3] == [["class", "before", "after"], ["pn", "1", "4"], ["pl50", "2", "4"]]
    assert rows[-2:] == [["all", "instances", "3", "8"], ["pictures", "3", "8"]]


def test_command_names_a_missing_folder(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("target", [1, 2])
def test_nothing_is_repeated_when_all_classes_have_enough(index, target):
    assert make_plan(index([BOX] * 2), target=target).repeats.tolist() == [1]
