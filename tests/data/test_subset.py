"""Which images are evaluated, and which are held out for validation."""

import hashlib
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustsmooth.data import DigitsDataModule, Subset
from robustsmooth.data.subset import stratified_split


@pytest.mark.parametrize(
    ("subset", "expected"),
    [
        (Subset(), list(range(12))),
        (Subset(every=5), [0, 5, 10]),
        (Subset(max=3), [0, 4, 8]),
        (Subset(every=2, max=3), [0, 4, 8]),
        (Subset(max=100), list(range(12))),
        (Subset(indices=[7, 3]), [3, 7]),
        (Subset(indices=5), [5]),
        (Subset(indices="2:5"), [2, 3, 4]),
        (Subset(indices="0:12:5"), [0, 5, 10]),
        (Subset(every=20, max=1, indices="0:3"), [0, 1, 2]),
    ],
)
def test_selection(subset, expected):
    assert subset.select(12) == expected


@given(st.integers(1, 500), st.integers(1, 50), st.integers(1, 100))
def test_max_takes_evenly(length, every, most):
    kept = Subset(every=every, max=most).select(length)
    everything = Subset(every=every).select(length)
    assert len(kept) == min(most, len(everything))
    assert len(set(kept)) == len(kept)
    assert set(kept) <= set(everything)
    gaps = {later - earlier for earlier, later in itertools.pairwise(kept)}
    assert max(gaps, default=0) - min(gaps, default=0) <= every


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, "`subset.every` must be at least 1, got 0"),
        ({"max": 0}, "`subset.max` must be at least 1"),
        ({"split": "training"}, "`subset.split` must be test, val or train"),
    ],
)
def test_bad_numbers(settings, message):
    with pytest.raises(ValueError, match=message):
        Subset(**settings)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([12], r"must be in \[0, 12\)"),
        ([-1, 3], r"must be in \[0, 12\)"),
        ([], r"must be in \[0, 12\)"),
        ([3, 3], "names an image twice"),
        ("abc", "must be a list or a range such as '0:1000'"),
        ("5", "must be a list or a range"),
        ("5:5", "must be a list or a range"),
        ("0:13", r"must be in \[0, 12\)"),
    ],
)
def test_bad_indices(indices, message):
    with pytest.raises(ValueError, match=message):
        Subset(indices=indices).select(12)


@given(st.lists(st.integers(2, 60), min_size=1, max_size=8), st.data())
def test_split_is_stratified_and_disjoint(counts, data):
    labels = torch.tensor([label for label, count in enumerate(counts) for _ in range(count)])
    labels = labels[torch.randperm(len(labels))]
    held_out = data.draw(st.integers(0, len(labels) - 1))
    stays, chosen = stratified_split(labels, held_out)
    assert sorted(stays + chosen) == list(range(len(labels)))
    taken = torch.bincount(labels[chosen], minlength=len(counts)).tolist()
    kept_back = 0
    for number, count in zip(taken, counts, strict=True):  # in proportion, to a rounding
        share = held_out * count / len(labels)
        assert number < count
        kept_back += number == count - 1
        assert abs(number - share) < 1 + 1e-9 or (number == count - 1 and share > number)
    assert held_out - kept_back <= len(chosen) <= held_out


def test_split_is_always_the_same():
    labels = torch.arange(1000) % 10
    torch.manual_seed(1)
    first = stratified_split(labels, 100)
    torch.manual_seed(2)
    assert stratified_split(labels, 100) == first
    assert stratified_split(labels, 0.1) == first
    assert first[1] != list(range(100))


IMAGENET = torch.randint(732, 1301, (1000,), generator=torch.Generator().manual_seed(0))  # images per class


@pytest.mark.parametrize(
    ("sizes", "held_out", "digest"),
    [
        ([5000] * 10, 1000, "be304348"),
        ([500] * 100, 1000, "6b53f6bb"),
        ([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949], 1000, "0f2b381c"),
        (IMAGENET, 10_000, "28e93d1e"),
        (IMAGENET[:50], 1000, "7bdb8405"),
    ],
    ids=["CIFAR-10", "CIFAR-100", "MNIST", "like ImageNet", "like 50 of its classes"],
)
def test_the_validation_images_of_earlier_versions(sizes, held_out, digest):
    """Networks were trained without them: other ones would make their validation worthless."""
    split = stratified_split(
        torch.repeat_interleave(torch.arange(len(sizes)), torch.as_tensor(sizes)), held_out
    )
    assert hashlib.sha256(str(split).encode()).hexdigest()[:8] == digest


def test_the_validation_digits_of_earlier_versions():
    data = DigitsDataModule(channels=1, val_images=180)
    split = (data.train_positions, data.val_positions)
    assert hashlib.sha256(str(split).encode()).hexdigest()[:8] == "0bb8848b"


def test_the_last_training_image_of_a_class_is_not_held_out():
    labels = torch.tensor([0] * 1000 + list(range(1, 51)))
    stays, chosen = stratified_split(labels, 0.05)
    assert labels[stays].unique().tolist() == list(range(51))
    assert labels[chosen].unique().tolist() == [0]
    stays, chosen = stratified_split(torch.tensor([0, 0, 1, 1]), 3)
    assert len(stays) == 2
    with pytest.raises(ValueError, match="would hold out 1 of 5 images, each the only one of its class"):
        stratified_split(torch.arange(5), 0.2)


@pytest.mark.parametrize("held_out", [-1, 10, 11])
def test_bad_split(held_out):
    with pytest.raises(ValueError, match=r"`data.val_images` must be in \[0, 10\)"):
        stratified_split(torch.zeros(10, dtype=torch.int64), held_out)
