"""Which rank visits which image, and when."""

import collections
import itertools

import pytest
import torch

from robustsmooth.data import TrainingSampler, UnrepeatedSampler

DATA = range(1000, 1103)  # only its length, 103, counts


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 200])
def test_unrepeated_visits_each_once(ranks):
    dealt = [list(UnrepeatedSampler(DATA, ranks, rank)) for rank in range(ranks)]
    assert sorted(itertools.chain(*dealt)) == list(range(103))
    assert [len(UnrepeatedSampler(DATA, ranks, rank)) for rank in range(ranks)] == [
        len(item) for item in dealt
    ]


def test_unrepeated_visits_chosen_positions():
    assert list(UnrepeatedSampler(DATA, 2, 1, positions=[4, 8, 15, 16, 23])) == [8, 16]


def batches(sampler, per_rank):
    return (
        [list(batch) for batch in itertools.batched(sampler, per_rank)]
        if hasattr(itertools, "batched")
        else [list(sampler)[start : start + per_rank] for start in range(0, len(list(sampler)), per_rank)]
    )


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_step_sees_the_same_images_on_any_number_of_ranks(ranks):
    alone = batches(TrainingSampler(DATA, 8, seed=1, epoch=3), 8)
    shares = [
        batches(TrainingSampler(DATA, 8, seed=1, epoch=3, num_replicas=ranks, rank=rank), 8 // ranks)
        for rank in range(ranks)
    ]
    assert all(len(share) == 12 for share in shares)
    for step, batch in enumerate(alone):
        assert sorted(itertools.chain(*(share[step] for share in shares))) == sorted(batch)


def test_epochs_and_seeds_have_their_own_order():
    sampler = TrainingSampler(DATA, 4, seed=0)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert len(order) == len(sampler) == 100
        assert len(set(order)) == 100  # without repetition; three are left out
        orders.append(order)
    orders.append(list(TrainingSampler(DATA, 4, seed=1)))
    assert len({tuple(order) for order in orders}) == 4
    sampler.set_epoch(1)
    assert list(sampler) == orders[1]


def test_other_images_are_left_out_in_every_epoch():
    left_out = set()
    for epoch in range(200):
        left_out |= set(range(103)) - set(TrainingSampler(DATA, 50, epoch=epoch))
    assert len(left_out) > 90  # 3 of 103 in each of 200 epochs


def test_only_chosen_positions_train():
    assert set(TrainingSampler(DATA, 5, positions=range(40, 60))) == set(range(40, 60))


@pytest.mark.parametrize("ranks", [1, 2])
def test_half_of_an_epoch_are_extra_images(ranks):
    """20 images, 70 extra ones: three epochs divide 60 of these, the next three another 60."""
    extra, drawn = range(30, 100), []
    for epoch in range(6):
        shares = [
            list(TrainingSampler(DATA, 4, 1, range(20), extra, ranks, rank, epoch)) for rank in range(ranks)
        ]
        order = [position for pair in zip(*shares, strict=True) for position in pair]
        assert sorted(order)[:20] == list(range(20))
        drawn.append(set(order) & set(extra))
        assert len(order) == len(set(order)) == 20 + len(drawn[-1]) == 40
        assert len(shares[0]) == len(TrainingSampler(DATA, 4, 1, range(20), extra, ranks, 0, epoch))
    first, second = set.union(*drawn[:3]), set.union(*drawn[3:])
    assert len(first) == len(second) == 60
    assert first != second
    assert drawn[0] != drawn[3]


def test_fewer_extra_images_are_all_drawn_in_every_epoch():
    for epoch in range(3):
        assert sorted(TrainingSampler(DATA, 5, 0, range(20), range(40, 45), epoch=epoch)) == [
            *range(20),
            *range(40, 45),
        ]


def test_extra_images_after_a_resume():
    settings = {"positions": range(20), "extra": range(30, 100), "epoch": 4}
    whole = list(TrainingSampler(DATA, 4, **settings))
    assert list(TrainingSampler(DATA, 4, first_batch=7, **settings)) == whole[28:]


def test_a_resumed_epoch_is_completed_and_the_next_is_complete():
    whole = TrainingSampler(DATA, 10, epoch=7)
    resumed = TrainingSampler(DATA, 10, epoch=7, first_batch=4)
    assert list(resumed) == list(whole)[40:]
    whole.set_epoch(8)
    resumed.set_epoch(8)
    assert list(resumed) == list(whole)


def test_bad_batch_sizes():
    with pytest.raises(ValueError, match=r"a multiple of their number \(3\), got 8"):
        TrainingSampler(DATA, 8, num_replicas=3)
    with pytest.raises(ValueError, match=r"at most the number of training images \(103\), got 104"):
        TrainingSampler(DATA, 104)


def test_the_sampler_draws_in_proportion_on_any_number_of_ranks():
    weights = torch.tensor([0.0, 1.0, 3.0, 0.0] * 5000)
    drawn = list(TrainingSampler(range(20000), 100, weights=lambda epoch: weights))
    assert len(drawn) == 20000
    values = weights[torch.tensor(drawn) % 20000]
    assert (values > 0).all()
    share = (values == 3).float().mean().item()
    assert share == pytest.approx(0.75, abs=4 * (0.75 * 0.25 / 20000) ** 0.5)
    ranks = [
        list(TrainingSampler(range(20000), 100, num_replicas=2, rank=rank, weights=lambda epoch: weights))
        for rank in range(2)
    ]
    assert sorted(ranks[0][:50] + ranks[1][:50]) == sorted(drawn[:100])


def test_repeated_draws_of_an_image_are_numbered():
    weights = torch.tensor([1.0, 2.0, 0.0] * 20)
    drawn = list(TrainingSampler(range(100), 60, positions=range(60), weights=lambda epoch: weights))
    counts = collections.Counter()
    for draw in drawn:
        repetition, position = divmod(draw, 100)
        assert repetition == counts[position]
        counts[position] += 1
    assert counts.total() == 60 > len(counts)
