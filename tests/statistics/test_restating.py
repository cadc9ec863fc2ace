"""Restating at fewer votes, against counting all choices, SciPy's distribution, and simulation."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from robustsmooth.statistics import clopper_pearson_lower, restate, successes_of


def radius_of(k, m, alpha, sigma):
    bound = clopper_pearson_lower(k, m, alpha)
    return sigma * stats.norm.ppf(bound) if bound > 0.5 else 0.0


def test_it_is_the_mean_over_all_choices_of_the_votes():
    n, m, alpha, sigma = 11, 6, 0.2, 0.5
    for k in range(n + 1):
        votes = [1] * k + [0] * (n - k)
        radii = [radius_of(sum(chosen), m, alpha, sigma) for chosen in combinations(votes, m)]
        found = restate([k], n, m, alpha, sigma, [0.0, 0.2])
        assert found.radius[0] == pytest.approx(np.mean(radii))
        assert found.certified[:, 0] == pytest.approx(
            [np.mean([r > 0 for r in radii]), np.mean([r >= 0.2 for r in radii])]
        )


def test_it_is_scipys_hypergeometric_distribution():
    n, m, alpha, sigma = 100_000, 1000, 0.001, 0.25
    counts = np.array([0, 49_000, 60_000, 93_000, 99_990, 100_000])
    found = restate(counts, n, m, alpha, sigma, [0.25])
    x = np.arange(m + 1)
    radii = np.array([radius_of(item, m, alpha, sigma) for item in x])
    for at, k in enumerate(counts):
        chances = stats.hypergeom.pmf(x, n, k, m)
        assert found.radius[at] == pytest.approx(chances @ radii, abs=1e-9)
        assert found.certified[0, at] == pytest.approx(chances[radii >= 0.25].sum(), abs=1e-9)
        bounds = clopper_pearson_lower(x, m, alpha)
        assert found.sure[at] == pytest.approx(chances[bounds >= 0.9].sum(), abs=1e-9)


def test_it_is_what_a_certification_with_fewer_votes_gives():
    """Votes drawn from a known probability, certified with m of them and restated from n."""
    random, n, m, alpha, sigma, p = np.random.default_rng(0), 2000, 200, 0.001, 0.5, 0.9
    expected = restate(random.binomial(n, p, 3000), n, m, alpha, sigma, [0.4])
    direct = np.array([radius_of(k, m, alpha, sigma) for k in random.binomial(m, p, 3000)])
    assert expected.radius.mean() == pytest.approx(direct.mean(), abs=4 * direct.std() / np.sqrt(3000))
    assert expected.certified.mean() == pytest.approx((direct >= 0.4).mean(), abs=0.04)


def test_at_all_votes_nothing_changes():
    counts = np.array([50, 90, 100])
    found = restate(counts, 100, 100, 0.001, 0.25, [0.0])
    assert found.radius == pytest.approx([radius_of(k, 100, 0.001, 0.25) for k in counts])
    assert found.certified[0].tolist() == [0.0, 1.0, 1.0]


@pytest.mark.parametrize(("n", "alpha"), [(100, 0.001), (100_000, 0.001), (1000, 0.05)])
def test_counts_are_read_back_from_their_bounds(n, alpha):
    counts = np.unique(np.linspace(0, n, 777).astype(int))
    assert successes_of(clopper_pearson_lower(counts, n, alpha), n, alpha).tolist() == counts.tolist()


def test_the_nearest_count_is_found_for_rounded_bounds():
    every = clopper_pearson_lower(np.arange(1001), 1000, 0.001)
    counts = np.arange(500, 1000)
    for neighbour in (counts - 1, counts + 1):
        rounded = 0.7 * every[counts] + 0.3 * every[neighbour]
        assert successes_of(rounded, 1000, 0.001).tolist() == counts.tolist()
    assert successes_of([every[-1] + 1e-4, 1.0, 0.0, np.nan], 1000, 0.001).tolist() == [1000, 1000, 0, 0]


def test_restating_at_more_votes_is_refused():
    with pytest.raises(ValueError, match="there are no more votes than n"):
        restate([10], 100, 1000, 0.001, 0.25, [0.0])
