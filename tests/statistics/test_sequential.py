from fractions import Fraction
from math import comb

import numpy as np
import pytest
from scipy import stats

from robustsmooth.statistics import looks, sequential_plan, upper_boundaries


def exact_chance_of_accepting(p, plan, boundaries):
    """P(the running count ever reaches its boundary), in rational numbers."""
    p = Fraction(p)
    alive, accepted, drawn = {0: Fraction(1)}, Fraction(0), 0
    for votes, boundary in zip(plan, boundaries, strict=True):
        step = votes - drawn
        chances = [comb(step, k) * p**k * (1 - p) ** (step - k) for k in range(step + 1)]
        after = {}
        for count, mass in alive.items():
            for k, chance in enumerate(chances):
                after[count + k] = after.get(count + k, Fraction(0)) + mass * chance
        accepted += sum(mass for count, mass in after.items() if count >= boundary)
        alive = {count: mass for count, mass in after.items() if count < boundary}
        drawn = votes
    return accepted


@pytest.mark.parametrize("p0", [Fraction(1, 2), Fraction(4, 5), Fraction(24, 25)])
@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_alpha_is_kept_at_the_boundary_exactly(p0, alpha):
    plan = (10, 14, 20, 30, 45, 60)
    boundaries = upper_boundaries(float(p0), plan, alpha)
    chance = exact_chance_of_accepting(p0, plan, boundaries)
    assert chance <= Fraction(alpha) * (1 + Fraction(1, 10**9))
    # Every boundary is the smallest possible one: with any of them lowered, the error exceeds alpha.
    budget = Fraction(0)
    for at in range(len(plan)):
        budget += Fraction(alpha) / 2 / (1 if at == len(plan) - 1 else len(plan) - 1)
        spent = exact_chance_of_accepting(p0, plan[: at + 1], boundaries[: at + 1])
        lowered = [*boundaries[:at], boundaries[at] - 1]
        assert spent <= budget * (1 + Fraction(1, 10**9))
        assert exact_chance_of_accepting(p0, plan[: at + 1], lowered) > budget


@pytest.mark.parametrize(("n", "growth"), [(101, 1.001), (100, 1.2), (99, 1.2), (110, 1.2), (5000, 1.2)])
def test_interim_analyses_are_ascending(n, growth):
    plan = looks(n, 100, growth)
    assert plan[-1] == n
    assert list(plan) == sorted(set(plan))


def test_alpha_is_kept_with_the_real_plan():
    # The recursion again, with plain arrays and scipy's pmf, for the plan of the default setting.
    p0, alpha = stats.norm.cdf(1.0), 0.001
    plan = looks(20_000)
    boundaries = upper_boundaries(p0, plan, alpha)
    mass, drawn, accepted = np.ones(1), 0, 0.0
    for votes, boundary in zip(plan, boundaries, strict=True):
        step = votes - drawn
        mass = np.convolve(mass, stats.binom.pmf(np.arange(step + 1), step, p0))
        accepted += mass[boundary:].sum()
        mass[boundary:] = 0
        drawn = votes
    assert accepted <= alpha
    assert accepted > 0.97 * alpha  # nearly all of alpha is used


def test_no_smaller_probability_is_accepted_more_often():
    plan = (10, 20, 40)
    boundaries = upper_boundaries(0.8, plan, 0.05)
    chances = [exact_chance_of_accepting(p, plan, boundaries) for p in (0.5, 0.7, 0.75, 0.8)]
    assert chances == sorted(chances)


def test_a_single_analysis_is_the_binomial_test():
    boundary = upper_boundaries(0.7, (200,), 0.01)[0]
    assert stats.binom.sf(boundary - 1, 200, 0.7) <= 0.01 < stats.binom.sf(boundary - 2, 200, 0.7)


def test_an_analysis_that_is_too_early_has_no_boundary():
    boundaries = upper_boundaries(0.99, (10, 2000), 0.001)
    assert boundaries[0] == 11  # .99^10 is far above the error that may be spent
    assert boundaries[1] <= 2000


def test_the_plan_grows_to_n():
    plan = looks(100_000)
    assert plan[0] == 100
    assert plan[-1] == 100_000
    assert 34 <= len(plan) <= 40
    ratios = np.diff(plan) / np.array(plan[:-1])
    assert np.all(ratios > 0.09)
    assert np.all(ratios < 0.32)
    assert looks(100) == (100,)
    assert looks(50) == (50,)


def test_refutation_is_the_same_test_of_failures():
    plan = sequential_plan(0.8, 5000, 0.001, 0.01)
    failures = upper_boundaries(0.2, plan.looks, 0.01)
    assert [n - f for n, f in zip(plan.looks, failures, strict=True)] == list(plan.refute)
    assert all(low < high for low, high in zip(plan.refute, plan.accept, strict=True))
    assert sequential_plan(0.8, 5000, 0.001, 0.01) is plan  # computed once
