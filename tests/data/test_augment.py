"""Augmentation: different for every image, and a pure function of (seed, epoch, index)."""

import numpy as np
import pytest
import torch
from scipy import stats

from robustsmooth.data import CropAndFlip
from robustsmooth.data.augment import augmentation_key, random_integers

MASK = 2**64 - 1


def slow_integer(key, index, draw, bound):
    """The same hash with Python's unbounded integers (SplitMix64's mixer)."""

    def mix(value):
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
        return value ^ (value >> 31)

    golden = 0x9E3779B97F4A7C15
    value = mix((mix((index * golden + key) & MASK) + mix((draw + 1) * golden & MASK)) & MASK)
    return ((value >> 32) * bound) >> 32


def test_integers_equal_the_slow_reference():
    indices = torch.tensor([0, 1, 2, 49_999, 1_281_166, 2**40])
    for key in (0, 7, augmentation_key(0, 3), 2**63 - 1):
        for draw in range(3):
            for bound in (2, 9, 1000):
                expected = [slow_integer(key, int(index), draw, bound) for index in indices]
                assert random_integers(key, indices, draw, bound).tolist() == expected


@pytest.mark.parametrize("bound", [2, 9])
def test_integers_are_uniform_and_independent(bound):
    """Chi-squared tests at level 1e-6 over images, draws, pairs of draws, neighbours and epochs."""
    indices = torch.arange(50_000)
    key = augmentation_key(0, 1)
    numbers = random_integers(key, indices, 0, bound)
    others = {
        "draws": random_integers(key, indices, 1, bound),
        "epochs": random_integers(augmentation_key(0, 2), indices, 0, bound),
        "seeds": random_integers(augmentation_key(1, 1), indices, 0, bound),
        "neighbours": numbers.roll(1),
    }
    assert stats.chisquare(np.bincount(numbers, minlength=bound)).pvalue > 1e-6
    for name, other in others.items():
        pairs = np.bincount(numbers * bound + other, minlength=bound**2)
        assert stats.chisquare(pairs).pvalue > 1e-6, name


def slow_crop(image, top, left, mirrored, padding):
    """Crop, then mirror one image with NumPy slices."""
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
    cut = padded[:, top : top + image.shape[1], left : left + image.shape[2]]
    return cut[:, :, ::-1] if mirrored else cut


@pytest.mark.parametrize(
    ("padding", "flip", "shape"), [(4, True, (3, 32, 32)), (1, False, (1, 8, 6)), (0, True, (2, 5, 7))]
)
def test_crop_and_flip_equal_slices(padding, flip, shape):
    images = torch.randint(0, 256, (16, *shape), dtype=torch.uint8)
    indices, key = torch.arange(100, 116), augmentation_key(3, 5)
    before = images.clone()
    changed = CropAndFlip(padding, flip)(images, indices, key)
    for place, index in enumerate(indices.tolist()):
        top, left = (slow_integer(key, index, draw, 2 * padding + 1) for draw in (0, 1))
        mirrored = flip and slow_integer(key, index, 2, 2)
        expected = slow_crop(images[place].numpy(), top, left, mirrored, padding)
        assert np.array_equal(changed[place].numpy(), expected)
    assert torch.equal(images, before)


def test_every_image_has_its_own_crop_and_flip():
    """Over many images, one pixel appears at all 81 positions, mirrored or not, equally often."""
    images = torch.zeros(20_000, 1, 32, 32, dtype=torch.uint8)
    images[:, :, 16, 8] = 255
    changed = CropAndFlip(4, True)(images, torch.arange(20_000), augmentation_key(0, 0))
    assert (changed.flatten(1).sum(1) == 255).all()
    place = changed.flatten(1).argmax(1)
    rows, columns = place // 32, place % 32
    assert sorted(rows.unique().tolist()) == list(range(12, 21))
    mirrored = columns > 15
    assert 0.47 < mirrored.double().mean() < 0.53  # eight standard deviations
    columns = torch.where(mirrored, 31 - columns, columns)
    counts = torch.bincount((rows - 12) * 9 + columns - 4, minlength=81)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-6


def test_an_image_does_not_depend_on_its_batch():
    images = torch.randint(0, 256, (10, 3, 8, 8), dtype=torch.uint8)
    indices, key = torch.randperm(1000)[:10], augmentation_key(0, 2)
    whole = CropAndFlip(2)(images, indices, key)
    order = torch.randperm(10)
    assert torch.equal(CropAndFlip(2)(images[order], indices[order], key), whole[order])
    alone = [CropAndFlip(2)(images[at : at + 1], indices[at : at + 1], key) for at in range(10)]
    assert torch.equal(torch.cat(alone), whole)
    assert not torch.equal(CropAndFlip(2)(images, indices, augmentation_key(0, 3)), whole)


@pytest.mark.gpu
def test_the_same_on_a_gpu():
    images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    indices, key = torch.randperm(50_000)[:64], augmentation_key(1, 2)
    here = CropAndFlip(4)(images, indices, key)
    there = CropAndFlip(4)(images.cuda(), indices.cuda(), key)
    assert there.is_cuda
    assert torch.equal(there.cpu(), here)


def test_padding_is_checked():
    with pytest.raises(ValueError, match=r"`padding` must be at least 0, got -1"):
        CropAndFlip(-1)
