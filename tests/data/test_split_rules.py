import pytest

from efpn.data.records import Categories
from efpn.data.splits import load_role
from efpn.data.tt100k import TT100K
from efpn.errors import UserError


@pytest.fixture
def source(tt100k):
    return TT100K(tt100k({"train": {number: [] for number in range(20)}, "test": {100: []}}))


def ids(source, rules, role):
    return [record.image_id for record in load_role(source, rules, role).records]


def test_a_name_takes_the_whole_split(source):
    assert ids(source, {"train": "train", "test": "test"}, "train") == list(range(20))
    assert ids(source, {"train": "train", "test": "test"}, "test") == [100]


def test_holdout_takes_its_share_out_of_training(source):
    rules = {"train": "train", "val": {"from": "train", "holdout": 0.15}}
    train, val = ids(source, rules, "train"), ids(source, rules, "val")
    assert len(val) == 3
    assert sorted(train + val) == list(range(20))
    assert val == ids(source, rules, "val")
    assert load_role(source, rules, "val").name == "signs/train (its part for val)"


def test_holdout_grows_without_reshuffling(source):
    few = ids(source, {"val": {"from": "train", "holdout": 0.15}}, "val")
    many = ids(source, {"val": {"from": "train", "holdout": 0.5}}, "val")
    assert set(few) < set(many)


def test_match_takes_images_by_file_name(source):
    rules = {"train": "train", "val": {"from": "train", "match": "1?.jpg"}}
    assert ids(source, rules, "val") == list(range(10, 20))
    assert ids(source, rules, "train") == list(range(10))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({}, "data.splits.val is not set; name a split of the data set or a part"),
        ({"val": {"from": "train"}}, "data.splits.val needs 'from' and one of 'holdout' and 'match'; it has from"),
        ({"val": {"from": "train", "holdout": 1.5}}, "data.splits.val.holdout is 1.5; it must be a fraction"),
        ({"val": {"from": "train", "holdout": "0.1"}}, "data.splits.val.holdout is '0.1'; it must be a fraction"),
        ({"val": {"from": "train", "match": "x*"}}, r"data.splits.val.match='x\*' matches no file name in signs/train"),
    ],
)
def test_bad_rules(source, rules, message):
    with pytest.raises(UserError, match=message):
        load_role(source, rules, "val")


def test_a_reader_that_gives_no_index_is_told():
    class Reader:
        categories = Categories((), (), ())

        def load(self, split):
            return [split]

    with pytest.raises(UserError, match=r"load\(.train.\) gives list; it has to give an efpn.data.records.Index"):
        load_role(Reader(), {"train": "train"}, "train")


def test_a_reader_without_categories_or_with_another_load_is_told():
    class Reader:
        def load(self):
            return []

    with pytest.raises(UserError, match="data.source: Reader has no categories"):
        load_role(Reader(), {"train": "train"}, "train")
    Reader.categories = Categories((), (), ())
    with pytest.raises(UserError, match=r"Reader.load is called with the name of a split, but too many positional"):
        load_role(Reader(), {"train": "train"}, "train")
