"""Boundaries of an exact group-sequential binomial test.

Votes arrive in groups; after each group there is an interim analysis (a "look"), at which one may stop. The
boundaries keep the probability of ever stopping wrongly at most alpha, computed exactly from the distribution
of the running count at all analyses (Armitage, McPherson and Rowe 1969, for binomial counts).
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from robustsmooth.statistics.bounds import clopper_pearson_upper

Spending = Literal["halves", "root"]
"""How an error probability is spent over the interim analyses. ``halves``: half equally over all but the
last, half at the last. ``root``: the square root of the share of votes drawn, so that more is spent early."""

_NEGLIGIBLE = 1e-18  # probability that is cut off counts as spent, which is conservative


@dataclass(frozen=True)
class SequentialPlan:
    """The interim analyses of a test, and their boundaries.

    Attributes:
        looks: ``(L,)`` numbers of votes n_1 < ... < n_L of the interim analyses.
        accept: ``(L,)`` with at least this many successes, the probability is above p0.
        refute: ``(L,)`` with at most this many successes, it is not; -1 if that is impossible.
    """

    looks: tuple[int, ...]
    accept: tuple[int, ...]
    refute: tuple[int, ...]


def looks(n: int, first: int = 100, growth: float = 1.2) -> tuple[int, ...]:
    """Numbers of votes of the interim analyses: about first * growth^k; the last one is n.

    Args:
        n: Votes at the last look.
        first: Votes at the first look.
        growth: Ratio of one number to the one before, above 1.

    Returns:
        Strictly increasing whole numbers ending with `n`.
    """
    rungs = math.ceil(math.log(max(n / first, 1)) / math.log(growth))
    # The last one is n itself; a number just below n is left out.
    steps = (first * growth**k for k in range(rungs))
    return (*sorted({round(step) for step in steps if step < n / math.sqrt(growth)} - {n}), n)


def _shares(spending: Spending, plan: tuple[int, ...]) -> NDArray[np.float64]:
    """Shares of the error probability for the interim analyses, ``(L,)``; they add up to 1."""
    if len(plan) == 1:
        return np.ones(1)
    if spending == "root":
        return np.diff(np.sqrt(np.asarray(plan) / plan[-1]), prepend=0.0)
    return np.append(np.full(len(plan) - 1, 0.5 / (len(plan) - 1)), 0.5)


def upper_boundaries(
    p0: float, plan: tuple[int, ...], alpha: float, spending: Spending = "halves"
) -> NDArray[np.int64]:
    """Smallest counts at which one may conclude that the probability is above p0.

    What one analysis cannot spend, since counts are integers, is carried to the next.

    Args:
        p0: The hypothesis to reject, in (0, 1).
        plan: Numbers of votes of the interim analyses.
        alpha: Probability, at most, of ever reaching a boundary if the probability is p0 (or less).
        spending: How alpha is spent over the analyses; fixed before the first vote.

    Returns:
        ``(L,)`` int64; one more than the number of votes if no count is enough.
    """
    from scipy.stats import binom  # slow to import, and needed only here

    boundaries = np.empty(len(plan), dtype=np.int64)
    mass, offset = np.ones(1), 0  # the distribution of the running count if the test has not stopped
    budget, drawn = 0.0, 0
    shares = _shares(spending, plan)
    for at, votes in enumerate(plan):
        budget += alpha * shares[at]
        step = votes - drawn
        low = max(0, int(binom.ppf(_NEGLIGIBLE, step, p0)) - 2)
        high = min(step, int(binom.isf(_NEGLIGIBLE, step, p0)) + 2)
        mass = np.convolve(mass, binom.pmf(np.arange(low, high + 1), step, p0))
        offset, drawn = offset + low, votes
        budget -= 2 * _NEGLIGIBLE
        # tail[i]: probability of a count of offset + i or more; summed from the small end
        tail = np.cumsum(mass[::-1])[::-1]
        first = int(np.searchsorted(-tail, -budget))  # the first i with tail[i] <= budget
        boundaries[at] = min(offset + first, votes + 1)
        if first < len(mass):
            budget -= tail[first]
        mass = mass[:first]
        kept = int(np.searchsorted(np.cumsum(mass), _NEGLIGIBLE))
        mass, offset = mass[kept:], offset + kept
        budget -= _NEGLIGIBLE
        if not len(mass):
            raise ValueError(f"no test is possible at alpha={alpha} and p0={p0}")
    return boundaries


@lru_cache(maxsize=64)
def sequential_plan(
    p0: float, n: int, alpha: float, beta: float, first: int = 100, growth: float = 1.2
) -> SequentialPlan:
    """The complete test of "the probability is above p0".

    The boundary of refutation is the same construction for failures at level `beta`. It is not
    binding: acceptance keeps its alpha whether or not anybody stops there.

    Args:
        p0: The probability to exceed, in (0, 1).
        n: Votes at the last look.
        alpha: Probability of a wrong acceptance, at most.
        beta: Probability of a wrong refutation, at most.
        first: Votes at the first look.
        growth: Ratio of one look to the one before.
    """
    plan = looks(n, first, growth)
    accept = upper_boundaries(p0, plan, alpha)
    failures = upper_boundaries(1 - p0, plan, beta)
    refute = np.asarray(plan) - failures
    return SequentialPlan(plan, tuple(int(u) for u in accept), tuple(int(u) for u in refute))


def detectable_probability(p0: float, n: int, alpha: float, beta: float) -> float:
    """The probability that one look at n votes finds above p0 with probability 1 - beta.

    Args:
        p0: The probability to exceed, in (0, 1).
        n: Votes.
        alpha: Level of the test at the one look.
        beta: Probability of missing it.

    Returns:
        A number in (p0, 1]; 1 where not even n successes out of n reject p0.
    """
    needed = int(upper_boundaries(p0, (n,), alpha)[0])
    return float(clopper_pearson_upper(needed - 1, n, beta))


@lru_cache(maxsize=256)
def table_plan(
    p0: float, n: int, alpha: float, beta: float, first: int = 100, growth: float = 1.1
) -> SequentialPlan:
    """A test of "the probability is above p0" that replaces one look at n votes in a table.

    It gives up where p0 is out of reach: `refute` is the boundary against the probability p1 that the one
    look would miss with probability beta (`detectable_probability`), so that a probability of p1 or more is
    given up with probability beta at most. Between p0 and p1, where most votes go, the one look would have
    failed often as well. Giving up is not binding: acceptance keeps its alpha whether or not anybody stops.

    Args:
        p0: The probability to exceed, in (0, 1).
        n: Votes at the last look.
        alpha: Probability of a wrong acceptance, at most.
        beta: Probability of giving up although the probability is at least p1, at most.
        first: Votes at the first look.
        growth: Ratio of one look to the one before.
    """
    plan = looks(n, first, growth)
    accept = upper_boundaries(p0, plan, alpha, "root")
    within_reach = detectable_probability(p0, n, alpha, beta)
    if within_reach < 1:
        refute = np.asarray(plan) - upper_boundaries(1 - within_reach, plan, beta, "root")
    else:
        refute = np.asarray(plan) - 1  # one failure is enough
    return SequentialPlan(plan, tuple(int(u) for u in accept), tuple(int(u) for u in refute))
