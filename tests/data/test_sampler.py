import pytest

from efpn.data.dataset import StreamSampler


def epoch(sampler: StreamSampler, number: int) -> list[tuple[int, int, int]]:
    sampler.set_epoch(number)
    return list(sampler)


def test_each_pass_is_a_permutation_and_differs_from_the_last():
    sampler = StreamSampler(range(10), 1, 10)
    first, second = epoch(sampler, 0), epoch(sampler, 1)
    assert sorted(number for number, *_ in first) == sorted(number for number, *_ in second) == list(range(10))
    assert [number for number, *_ in first] != [number for number, *_ in second]


def test_epochs_are_cut_from_one_stream_whatever_their_length():
    short, long = (
        StreamSampler(range(7), seed=3, samples_per_epoch=4),
        StreamSampler(range(7), seed=3, samples_per_epoch=12),
    )
    assert epoch(short, 0) + epoch(short, 1) + epoch(short, 2) == epoch(long, 0)
    assert len(short) == 4 and len(long) == 12


def test_resuming_at_an_epoch_sees_what_an_unbroken_run_sees():
    unbroken = StreamSampler(range(7), seed=3, samples_per_epoch=5)
    expected = [epoch(unbroken, number) for number in range(6)]
    resumed = StreamSampler(range(7), seed=3, samples_per_epoch=5)
    assert [epoch(resumed, number) for number in (4, 5)] == expected[4:]


def test_sample_seeds_never_repeat_and_depend_on_the_seed():
    stream = epoch(StreamSampler(range(5), seed=3, samples_per_epoch=500), 0)
    assert len({seed for _, seed, _ in stream}) == 500
    assert all(0 <= seed < 2**63 for _, seed, _ in stream)
    assert stream != epoch(StreamSampler(range(5), seed=4, samples_per_epoch=500), 0)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_stream_without_overlap(world_size):
    alone = epoch(StreamSampler(range(7), seed=3, samples_per_epoch=12), 1)
    ranks = [epoch(StreamSampler(range(7), 3, 12, rank, world_size), 1) for rank in range(world_size)]
    assert [ranks[position % world_size][position // world_size] for position in range(12)] == alone


def test_ranks_have_equal_lengths_when_the_epoch_does_not_divide():
    ranks = [epoch(StreamSampler(range(7), 3, 5, rank, 2), 0) for rank in range(2)]
    assert len(ranks[0]) == len(ranks[1]) == 3
    alone = epoch(StreamSampler(range(7), 3, 6), 0)
    assert ranks[0] == alone[::2] and ranks[1] == alone[1::2]


def test_a_plan_with_repeats_is_followed():
    drawn = list(StreamSampler([0, 1, 1, 4], 0, 4, labels=[0, 0, 7, 0]))
    assert sorted((number, label) for number, _, label in drawn) == [(0, 0), (1, 0), (1, 7), (4, 0)]
    assert [number for number, *_ in drawn] == [number for number, *_ in StreamSampler([0, 1, 1, 4], 0, 4)]
