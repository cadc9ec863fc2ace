"""Statistics over images against plain Python, exact fractions and scipy's intervals."""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from robustsmooth import statistics

logs = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0])), min_size=1, max_size=30
)


@given(logs, st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.25, 0.5, 0.75, 1.0, 2.0]), min_size=1, max_size=6))
def test_certified_accuracy_is_counting(rows, radii):
    correct, radius = zip(*rows, strict=True)
    expected = [sum(1 for c, r in rows if c and r >= at) / len(rows) for at in radii]
    assert statistics.certified_accuracy(correct, radius, radii).tolist() == expected


@given(st.lists(st.tuples(st.sampled_from([-1, 0, 1]), st.sampled_from([-1, 0, 1])), min_size=1))
def test_an_abstention_is_never_correct(pairs):
    prediction, label = zip(*pairs, strict=True)
    assert statistics.is_correct(prediction, label).tolist() == [p == y and p != -1 for p, y in pairs]
    assert statistics.abstention_rate(prediction) == sum(p == -1 for p in prediction) / len(pairs)


def test_statistics_of_no_images_are_nan():
    """Every statistic is NaN, not 0 and not an error."""
    assert math.isnan(statistics.acr([], []))
    assert math.isnan(statistics.abstention_rate([]))
    assert np.isnan(statistics.certified_accuracy([], [], [0.0])).all()
    for numbers in (statistics.radius_statistics([], []), statistics.distance_statistics([], [])):
        assert np.isnan(numbers).all()


def test_columns_of_unequal_length_are_refused():
    for function in (statistics.acr, statistics.radius_statistics):
        with pytest.raises(ValueError, match="one entry per image"):
            function([1, 0], [0.5])
    with pytest.raises(ValueError, match="one entry per image"):
        statistics.is_correct([1], [1, 1])


@given(logs)
def test_acr_is_the_area_under_the_curve_of_certified_accuracy(rows):
    correct, radius = zip(*rows, strict=True)
    steps = sorted({0.0, *radius})
    area = sum(
        (high - low) * statistics.certified_accuracy(correct, radius, [high])[0]
        for low, high in pairwise(steps)
    )
    assert statistics.acr(correct, radius) == pytest.approx(area)
    assert statistics.radius_statistics(correct, radius)[1] == pytest.approx(area)


def test_radius_statistics_count_mistakes_as_zero():
    assert statistics.radius_statistics([1, 0, 1, 1], [1.0, 9.0, 2.0, 0.0]) == (0.5, 0.75, 2.0)


@pytest.mark.parametrize("count", [1, 2, 7, 500])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
@pytest.mark.parametrize(("method", "scipys"), [("clopper_pearson", "exact"), ("wilson", "wilson")])
def test_intervals_equal_scipys(count, level, method, scipys):
    hits = sorted({0, 1, count // 2, count - 1, count})
    low, high = statistics.interval(hits, count, level, method)
    for hit, below, above in zip(hits, low, high, strict=True):
        expected = stats.binomtest(hit, count).proportion_ci(level, scipys)
        assert (below, above) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_clopper_pearson_covers():
    """Exact coverage by summing the binomial: at least the level, for each true share."""
    low, high = statistics.interval(np.arange(41), 40, 0.95)
    for share in np.linspace(0.01, 0.99, 25):
        weights = stats.binom.pmf(np.arange(41), 40, share)
        assert weights[(low <= share) & (share <= high)].sum() >= 0.95


def test_wrong_arguments_of_interval_are_refused():
    with pytest.raises(ValueError, match="`level` must be in"):
        statistics.interval([1], 2, 1.0)
    with pytest.raises(ValueError, match="`count` must be at least 1"):
        statistics.interval([0], 0)
    with pytest.raises(ValueError, match="clopper_pearson or wilson"):
        statistics.interval([0], 1, method="jeffreys")  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=25))
def test_mcnemar_is_the_exact_binomial(pairs):
    first, second = zip(*pairs, strict=True)
    b = sum(x and not y for x, y in pairs)
    n = b + sum(y and not x for x, y in pairs)
    observed = math.comb(n, b)
    exact = sum(Fraction(math.comb(n, k), 2**n) for k in range(n + 1) if math.comb(n, k) <= observed)
    result = statistics.mcnemar(first, second)
    assert result.p_value == pytest.approx(float(exact))
    assert (result.images, result.only_first, result.only_second) == (len(pairs), b, n - b)


def test_mcnemar_needs_the_same_images():
    with pytest.raises(ValueError, match="same images"):
        statistics.mcnemar([1, 0], [1])


@pytest.mark.parametrize(("n", "expected"), [(100, 1.50), (1000, 2.46), (10_000, 3.20), (100_000, 3.81)])
def test_largest_radius_of_published_settings(n, expected):
    assert statistics.reachable_radius(n, 0.001, 1.0) == pytest.approx(expected, abs=0.005)
    assert statistics.reachable_radius(n, 0.001, 0.25) == pytest.approx(expected / 4, abs=0.002)


def test_linf_radius_is_the_papers():
    assert statistics.l2_radius(2 / 255, 3 * 32 * 32) == pytest.approx(0.435, abs=5e-4)


def test_envelope_is_the_best_at_each_point():
    assert statistics.envelope([[3, 1, 0], [2, 2, 0]]).tolist() == [3, 2, 0]


def test_exceedance_counts_unknown_bounds_as_lowest():
    assert statistics.exceedance([0.2, np.nan, 0.9, 0.5], [0.0, 0.5, 0.95]).tolist() == [0.75, 0.5, 0.0]


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.booleans()), min_size=1, max_size=20))
def test_attack_curve_is_counting_and_never_falls(rows):
    distance, success = zip(*rows, strict=True)
    grid = [0.0, 0.1, 0.2, 0.6, 1.0, 5.0]
    curve = statistics.attack_curve(distance, success, grid)
    expected = [sum(1 for d, s in rows if s and d <= at) / len(rows) for at in grid]
    assert curve.tolist() == pytest.approx(expected)
    assert np.all(np.diff(curve) >= 0)


@given(st.lists(st.tuples(st.floats(0, 5), st.booleans()), min_size=1, max_size=30))
def test_the_median_is_numpys_with_failures_at_infinity(pairs):
    distance, success = zip(*pairs, strict=True)
    with np.errstate(invalid="ignore"):
        median = np.median([length if won else np.inf for length, won in pairs])
    found = statistics.distance_statistics(distance, success)
    assert found.median == (pytest.approx(median) if np.isfinite(median) else math.inf)
    assert found.success == pytest.approx(sum(success) / len(pairs))


def test_a_failed_attack_counts_as_an_infinite_distance():
    assert statistics.distance_statistics([1.0, 2.0, 0.1], [1, 1, 0]) == (2.0, 1.5, pytest.approx(2 / 3))
    assert statistics.distance_statistics([1.0, 4.0], [1, 0])[0] == math.inf
    assert statistics.distance_statistics([1.0, 4.0, 2.0, 3.0], [1, 1, 1, 1])[0] == 2.5
    median, mean, won = statistics.distance_statistics([4.0], [0])
    assert (median, won) == (math.inf, 0.0)
    assert math.isnan(mean)


def test_contradictions_are_counted_against_their_binomial():
    certified = [1] * 500 + [0] * 10
    broken = [1] * 3 + [0] * 507
    found = statistics.contradiction(certified, broken, 0.002)
    assert (found.certified, found.broken) == (500, 3)
    assert found.probability == pytest.approx(
        1 - sum(math.comb(500, k) * 0.002**k * 0.998 ** (500 - k) for k in range(3))
    )
    assert statistics.contradiction(certified, [0] * 510, 0.002).probability == 1.0


def test_agreement_may_be_conditioned_on_the_single_pass_being_right():
    single, vote, label = [1, 1, 2, 3], [1, -1, 2, 3], [1, 1, 2, 0]
    assert statistics.agreement(single, vote) == (0.75, 4)
    assert statistics.agreement(single, vote, label) == (pytest.approx(2 / 3), 3)
