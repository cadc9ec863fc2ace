"""Intervals over images and seeds have their stated coverage; one seed says nothing about other seeds."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from robustsmooth.statistics import difference_over_seeds, holm, mean_and_std


def test_mean_and_std_over_seeds():
    assert mean_and_std([1.0, 3.0]) == (2.0, pytest.approx(np.sqrt(2)))
    assert np.isnan(mean_and_std([1.0])[1])


def draw(random, seeds, image, shift, seed_scale):
    """Crossed random effects: of the seed, of the image, and a residual."""
    own = 0.3 * random.normal(size=(1, len(image)))  # of this method on each image
    noise = 0.5 * random.normal(size=(seeds, len(image)))
    return shift + image + own + seed_scale * random.normal(size=(seeds, 1)) + noise


@pytest.mark.parametrize(("first", "second"), [(2, 2), (3, 5), (5, 5)])
@pytest.mark.parametrize("seed_scale", [0.0, 0.05, 0.5])
def test_the_interval_covers_the_true_difference(first, second, seed_scale):
    random, draws, images = np.random.default_rng(first * 10 + second), 600, 60
    missed = 0
    for _ in range(draws):
        image = random.normal(size=images)
        found = difference_over_seeds(
            draw(random, first, image, 0.2, seed_scale), draw(random, second, image, 0.0, seed_scale)
        )
        missed += not found.low <= 0.2 <= found.high
    assert missed <= stats.binom.isf(1e-4, draws, 0.05)


def test_an_interval_over_images_alone_would_not_cover():
    """The test above can fail: without the seeds' term most intervals miss."""
    random, missed = np.random.default_rng(0), 0
    for _ in range(300):
        image = random.normal(size=200)
        one, other = (draw(random, 3, image, shift, 0.3) for shift in (0.2, 0.0))
        low, high = stats.ttest_rel(one.mean(axis=0), other.mean(axis=0)).confidence_interval()
        missed += not low <= 0.2 <= high
    assert missed > stats.binom.isf(1e-4, 300, 0.05)


def test_one_seed_gives_the_paired_interval_over_images():
    random = np.random.default_rng(0)
    one, other = random.random((1, 50)), random.random((3, 50))
    found = difference_over_seeds(one, other)
    assert found.mean == pytest.approx(one.mean() - other.mean())
    expected = stats.ttest_rel(one[0], other.mean(axis=0)).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert not found.over_seeds
    assert difference_over_seeds(random.random((2, 50)), other).over_seeds


def test_equal_values_give_an_interval_of_width_zero_and_unequal_images_no_difference():
    assert difference_over_seeds(np.ones((2, 4)), np.zeros((2, 4)))[:3] == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="the same images, at least 2, got 4 and 5"):
        difference_over_seeds(np.ones((2, 4)), np.ones((2, 5)))


def test_the_p_value_is_that_of_the_paired_t_test_and_agrees_with_the_interval():
    random = np.random.default_rng(1)
    one, other = random.random(40), random.random(40)
    assert difference_over_seeds(one, other).p_value == pytest.approx(stats.ttest_rel(one, other).pvalue)
    one, other = random.random((4, 40)) + 0.1, random.random((3, 40))
    found = difference_over_seeds(one, other)
    edge = difference_over_seeds(one, other, 1 - found.p_value)  # at this level an end of the interval is 0
    assert min(edge.low, edge.high, key=abs) == pytest.approx(0, abs=1e-9)
    assert difference_over_seeds(np.ones(4), np.ones(4)).p_value == 1
    assert difference_over_seeds(np.ones(4), np.zeros(4)).p_value == 0


def test_holms_correction_is_the_closed_test_with_bonferronis():
    """A hypothesis is rejected if each set with it is, by the set's smallest p-value times its size."""
    random = np.random.default_rng(2)
    for count in (1, 2, 5):
        p = random.random(count) ** 3
        sets = [chosen for size in range(1, count + 1) for chosen in combinations(range(count), size)]
        expected = [max(min(1, len(s) * p[list(s)].min()) for s in sets if at in s) for at in range(count)]
        assert holm(p) == pytest.approx(expected)
    assert holm([]).size == 0
