import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from robustsmooth.statistics import (
    chernoff_interval,
    clopper_pearson_lower,
    clopper_pearson_upper,
    dispersion_test,
    majority_test,
    randomized_clopper_pearson_lower,
    reachable_radius,
)

EDGES = [
    (0, 1),
    (1, 1),
    (0, 10),
    (10, 10),
    (5, 10),
    (1, 1000),
    (999, 1000),
    (100_000, 100_000),
    (70_123, 100_000),
]


@pytest.mark.parametrize(("k", "n"), EDGES)
@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.5])
def test_clopper_pearson_is_scipys_interval(k, n, alpha):
    # scipy's two-sided interval at confidence 1 - 2 alpha has one-sided ends at alpha.
    if alpha < 0.5:
        interval = stats.binomtest(k, n).proportion_ci(1 - 2 * alpha, method="exact")
        assert clopper_pearson_lower(k, n, alpha) == pytest.approx(interval.low, abs=1e-12)
        assert clopper_pearson_upper(k, n, alpha) == pytest.approx(interval.high, abs=1e-12)


@pytest.mark.parametrize(("k", "n"), EDGES)
def test_clopper_pearson_equals_a_slow_reference(k, n):
    def slow(k, n, alpha):
        if k == 0:
            return 0.0
        return optimize.brentq(lambda p: stats.binom.sf(k - 1, n, p) - alpha, 0, 1, xtol=1e-15)

    assert clopper_pearson_lower(k, n, 0.001) == pytest.approx(slow(k, n, 0.001), abs=1e-10)
    assert clopper_pearson_upper(k, n, 0.001) == pytest.approx(1 - slow(n - k, n, 0.001), abs=1e-10)


def test_bounds_are_vectorised():
    k = np.arange(11)
    lower = clopper_pearson_lower(k, 10, 0.05)
    assert lower.shape == (11,)
    assert lower.tolist() == [clopper_pearson_lower(int(item), 10, 0.05) for item in k]


@given(st.integers(1, 10_000), st.data())
def test_properties_of_the_lower_bound(n, data):
    k = data.draw(st.integers(0, n))
    bound = clopper_pearson_lower(k, n, 0.01)
    assert 0 <= bound <= k / n
    assert clopper_pearson_lower(k, n, 0.001) <= bound
    if k < n:
        assert bound <= clopper_pearson_lower(k + 1, n, 0.01)


@pytest.mark.parametrize("p", [0.5, 0.6, 0.97])
@pytest.mark.parametrize("n", [1, 10, 40])
def test_clopper_pearson_errs_at_most_alpha_and_the_randomised_one_exactly_alpha(p, n):
    # Summed over all outcomes, not simulated.
    alpha, k = 0.05, np.arange(n + 1)
    chances = stats.binom.pmf(k, n, p)
    assert chances[clopper_pearson_lower(k, n, alpha) > p].sum() <= alpha
    uniforms = (np.arange(200) + 0.5) / 200
    bounds = randomized_clopper_pearson_lower(k[:, None], n, alpha, uniforms[None, :])
    if p < 2 ** (-1 / n):  # above, the bound is clamped and errs less often
        assert (chances * (bounds > p).mean(axis=1)).sum() == pytest.approx(alpha, abs=1 / 100)


def test_the_randomised_bound_is_never_below_the_plain_one_and_finite():
    k = np.arange(1, 51)
    for uniform in (0.0, 0.3, 1.0):
        bound = randomized_clopper_pearson_lower(k, 50, 0.001, uniform)
        assert np.all(bound >= clopper_pearson_lower(k, 50, 0.001) - 1e-12)
        assert np.all(bound < 1)
    assert randomized_clopper_pearson_lower(7, 50, 0.001, 1.0) == pytest.approx(
        clopper_pearson_lower(7, 50, 0.001)
    )


@pytest.mark.parametrize(("k", "n"), [(0, 0), (0, 1), (1, 1), (5, 10), (6, 10), (10, 10), (531, 1000)])
def test_majority_test_is_scipys(k, n):
    expected = 1.0 if n == 0 else stats.binomtest(k, n, 0.5).pvalue
    assert majority_test(k, n) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("mean", [0.0, 0.02, 0.5, 0.93, 1.0])
def test_chernoff_interval_solves_its_equation_and_contains_the_mean(mean):
    lower, upper = chernoff_interval(mean, 500, 0.01)
    assert 0 <= lower <= mean <= upper <= 1

    def divergence(p, q):
        return sum(a * np.log(a / b) for a, b in ((p, q), (1 - p, 1 - q)) if a > 0)

    for end in (lower, upper):
        if 0 < end < 1:
            assert divergence(mean, end) == pytest.approx(np.log(200) / 500, rel=1e-6)


def test_chernoff_interval_covers_a_bounded_mean():
    rng, alpha, runs = np.random.default_rng(0), 0.1, 4000
    samples = rng.beta(0.3, 0.2, size=(runs, 60))
    lower, upper = chernoff_interval(samples.mean(axis=1), 60, alpha)
    missed = ((lower > 0.6) | (upper < 0.6)).sum()
    assert missed <= stats.binom.isf(1e-4, runs, alpha)


def test_dispersion_test_tells_shared_noise_from_independent_votes():
    rng = np.random.default_rng(0)
    independent = rng.binomial(32, 0.7, size=60)
    shared = rng.binomial(32, np.clip(rng.normal(0.7, 0.2, size=60), 0, 1))
    assert dispersion_test(independent, 32) > 0.001
    assert dispersion_test(shared, 32) < 1e-6
    assert dispersion_test([32, 32, 32], 32) == 1.0


def test_dispersion_test_is_uniform_under_independence():
    rng = np.random.default_rng(1)
    p_values = [dispersion_test(rng.binomial(32, 0.7, size=50), 32) for _ in range(400)]
    assert stats.kstest(p_values, "uniform").pvalue > 1e-4


def test_largest_radii_of_published_settings():
    radii = [reachable_radius(n, 0.001, 1.0) for n in (100, 1000, 10_000, 100_000)]
    assert np.allclose(radii, [1.50, 2.46, 3.20, 3.81], atol=0.006)
    assert reachable_radius(9, 0.001, 1.0) == 0.0  # .001^(1/9) is below one half


@pytest.mark.parametrize("alpha", [0, 1, 1.5, -0.1, np.nan])
def test_alpha_out_of_range(alpha):
    with pytest.raises(ValueError, match="`alpha` must be in"):
        clopper_pearson_lower(1, 2, alpha)


@pytest.mark.parametrize(("k", "n"), [(-1, 10), (11, 10)])
def test_counts_out_of_range(k, n):
    with pytest.raises(ValueError, match="`k` must be in"):
        clopper_pearson_lower(k, n, 0.1)
    with pytest.raises(ValueError, match="`k` must be in"):
        majority_test(k, n)


def test_no_votes():
    with pytest.raises(ValueError, match="`n` must be at least 1"):
        clopper_pearson_upper(0, 0, 0.1)


@pytest.mark.parametrize("alpha", [1e-3, 1e-10, 1e-17, 1e-300])
@pytest.mark.parametrize(("k", "n"), [(0, 2000), (3, 2000), (70_123, 100_000)])
def test_the_upper_bound_is_exact_at_tiny_levels(k, n, alpha):
    bound = clopper_pearson_upper(k, n, alpha)
    # By definition, k or fewer successes have probability alpha there.
    assert stats.binom.logcdf(k, n, bound) == pytest.approx(np.log(alpha), rel=1e-6)
    if k == 0:
        assert bound == pytest.approx(-np.expm1(np.log(alpha) / n), rel=1e-12)


@pytest.mark.parametrize(
    "call",
    [
        lambda nan: clopper_pearson_lower(nan, 10, 0.05),
        lambda nan: clopper_pearson_lower([1, nan], 10, 0.05),
        lambda nan: clopper_pearson_upper(nan, 10, 0.05),
        lambda nan: clopper_pearson_lower(1, nan, 0.05),
        lambda nan: clopper_pearson_lower(1, 10, nan),
        lambda nan: randomized_clopper_pearson_lower(1, 10, 0.05, nan),
        lambda nan: majority_test(nan, 10),
        lambda nan: majority_test(1, nan),
        lambda nan: chernoff_interval(nan, 10, 0.05),
        lambda nan: chernoff_interval(0.5, nan, 0.05),
        lambda nan: dispersion_test([1.0, nan], 10),
    ],
)
def test_nan_is_refused(call):
    with pytest.raises(ValueError, match="must"):
        call(float("nan"))
