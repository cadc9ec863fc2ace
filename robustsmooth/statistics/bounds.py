"""Confidence bounds and tests for counts of independent votes: host-side, float64, vectorised.

Every function broadcasts over arrays. `k` is a number of successes in `n` independent votes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, betainccinv, betaincinv, betaln, chdtrc, xlog1py, xlogy

Floats = NDArray[np.float64]


def _counts(k: ArrayLike, n: ArrayLike) -> tuple[Floats, Floats]:
    successes, votes = np.broadcast_arrays(np.asarray(k, dtype=np.float64), np.asarray(n, dtype=np.float64))
    if not np.all(np.isfinite(votes) & (votes >= 1)):  # written so that NaN is refused too
        raise ValueError(f"`n` must be at least 1 and finite, got {votes.min():g}")
    return _within(successes, votes), votes


def _within(successes: Floats, votes: Floats) -> Floats:
    if not np.all((successes >= 0) & (successes <= votes)):
        raise ValueError("`k` must be in [0, n]")
    return successes


def _level(alpha: float) -> float:
    if not 0 < alpha < 1:
        raise ValueError(f"`alpha` must be in (0, 1), got {alpha}")
    return float(alpha)


def clopper_pearson_lower(k: ArrayLike, n: ArrayLike, alpha: float) -> Any:
    """One-sided lower confidence bound: the p at which k or more successes have probability alpha.

    Args:
        k: Successes, in [0, n]; need not be whole (for planning).
        n: Votes, at least 1.
        alpha: Probability that the bound exceeds the truth, in (0, 1).

    Returns:
        float64 in [0, 1), of the broadcast shape; exactly 0 where k = 0, alpha^(1/n) where k = n.
    """
    successes, votes = _counts(k, n)
    none = successes == 0
    bound = betaincinv(np.where(none, 1.0, successes), votes - successes + 1, _level(alpha))
    return np.where(none, 0.0, bound)[()]


def clopper_pearson_upper(k: ArrayLike, n: ArrayLike, alpha: float) -> Any:
    """One-sided upper confidence bound: the p at which k or fewer successes have probability alpha.

    Args:
        k: Successes, in [0, n]; need not be whole (for planning).
        n: Votes, at least 1.
        alpha: Probability that the bound is below the truth, in (0, 1).

    Returns:
        float64 in (0, 1], of the broadcast shape; exactly 1 where k = n, 1 - alpha^(1/n) where k = 0.
    """
    successes, votes = _counts(k, n)
    every = successes == votes
    # The complementary function takes alpha itself: 1 - alpha would lose the digits of a small one.
    bound = betainccinv(successes + 1, np.where(every, 1.0, votes - successes), _level(alpha))
    return np.where(every, 1.0, bound)[()]


def _at_least(k: Floats, n: Floats, p: Floats) -> Floats:
    """P(X >= k) for X ~ Binomial(n, p)."""
    return np.where(
        k <= 0, 1.0, np.where(k > n, 0.0, betainc(np.maximum(k, 1.0), np.maximum(n - k + 1, 1.0), p))
    )


def randomized_clopper_pearson_lower(k: ArrayLike, n: ArrayLike, alpha: float, uniform: ArrayLike) -> Any:
    """Lower bound with exact coverage: the p at which P(X > k) + uniform P(X = k) = alpha.

    It exceeds the truth with probability exactly alpha (not at most alpha). It needs one random number, which
    must be drawn independently of the votes and logged. Never below the Clopper-Pearson
    bound. Where k = n the equation may have no solution below 1; the bound is then clamped at
    2^(-1/n), where n of n successes have probability one half, so that the radius stays finite.

    Args:
        k: Successes, in [0, n].
        n: Votes, at least 1.
        alpha: Probability that the bound exceeds the truth, in (0, 1).
        uniform: The random number, in [0, 1].

    Returns:
        float64 in [0, 1), of the broadcast shape.
    """
    level = _level(alpha)
    chance = np.asarray(uniform, dtype=np.float64)
    if not np.all((chance >= 0) & (chance <= 1)):
        raise ValueError("`uniform` must be in [0, 1]")
    successes, votes = _counts(k, n)
    successes, votes, chance = np.broadcast_arrays(successes, votes, chance)
    low, high = np.zeros(successes.shape), np.ones(successes.shape)
    for _ in range(60):  # bisection: the tail grows with p
        middle = (low + high) / 2
        more, same_or_more = _at_least(successes + 1, votes, middle), _at_least(successes, votes, middle)
        tail = (1 - chance) * more + chance * same_or_more
        low, high = np.where(tail <= level, middle, low), np.where(tail <= level, high, middle)
    return np.where(successes == votes, np.minimum(low, 2 ** (-1 / votes)), low)[()]


def majority_test(k: ArrayLike, n: ArrayLike) -> Any:
    """Two-sided p-value of k successes in n fair coin flips (the test in PREDICT).

    Args:
        k: Successes, in [0, n].
        n: Flips; with 0 the p-value is 1.

    Returns:
        float64 in (0, 1], of the broadcast shape.
    """
    successes, votes = np.broadcast_arrays(np.asarray(k, dtype=np.float64), np.asarray(n, dtype=np.float64))
    larger = np.maximum(_within(successes, votes), votes - successes)
    return np.minimum(1.0, 2 * _at_least(larger, votes, np.full(votes.shape, 0.5)))[()]


def chernoff_interval(mean: ArrayLike, n: ArrayLike, alpha: float) -> tuple[Any, Any]:
    """Confidence interval for the mean of independent numbers in [0, 1], from their average alone.

    The Chernoff bound in its relative-entropy form (Hoeffding 1963, Theorem 1): each side fails with
    probability at most alpha/2, whatever the distribution on [0, 1].

    Args:
        mean: The average of the sample, in [0, 1].
        n: Its size, at least 1.
        alpha: Probability that the interval misses the truth, in (0, 1).

    Returns:
        Lower and upper end, float64 of the broadcast shape.
    """
    average, size = np.broadcast_arrays(np.asarray(mean, dtype=np.float64), np.asarray(n, dtype=np.float64))
    if not np.all((average >= 0) & (average <= 1)):
        raise ValueError("`mean` must be in [0, 1]")
    if not np.all(np.isfinite(size) & (size >= 1)):
        raise ValueError(f"`n` must be at least 1 and finite, got {size.min():g}")
    budget = np.log(2 / _level(alpha)) / size

    return _ends(average, lambda mean: _relative_entropy(average, mean) <= budget)


def _ends(inside: Floats, contains: Callable[[Floats], NDArray[np.bool_]]) -> tuple[Any, Any]:
    """The ends of an interval around `inside` in [0, 1], by bisection; rounded to the conservative side."""

    def end(towards: float) -> Any:
        near, far = inside, np.full(inside.shape, towards)
        for _ in range(60):
            middle = (near + far) / 2
            within = contains(middle)
            near, far = np.where(within, middle, near), np.where(within, far, middle)
        return far[()]

    return end(0.0), end(1.0)


def _relative_entropy(p: Floats, q: Floats) -> Floats:
    """Relative entropy of a coin with probability p from one with probability q."""
    with np.errstate(divide="ignore", invalid="ignore"):
        heads = np.where(p > 0, p * (np.log(p) - np.log(q)), 0.0)
        tails = np.where(p < 1, (1 - p) * (np.log1p(-p) - np.log1p(-q)), 0.0)
    return heads + tails


def confidence_sequence(k: ArrayLike, n: ArrayLike, alpha: float) -> tuple[Any, Any]:
    """Confidence interval that may be inspected after every vote: one may stop or continue at any time.

    With probability at least 1 - alpha the intervals of *all* n contain the truth simultaneously. For a true
    probability p, the likelihood of the votes averaged over a Beta(1/2, 1/2) prior, divided by their
    likelihood under p, is a martingale with mean 1; it ever reaches 1/alpha with probability alpha at most
    (Ville 1939; Robbins 1970). The interval contains those p for which it has not.

    Args:
        k: Successes, in [0, n].
        n: Votes, at least 1.
        alpha: Probability that any of the intervals misses the truth, in (0, 1).

    Returns:
        Lower and upper end, float64 of the broadcast shape; 0 where k = 0, and 1 where k = n.
    """
    successes, votes = _counts(k, n)
    failures = votes - successes
    average = betaln(successes + 0.5, failures + 0.5) - betaln(0.5, 0.5)
    slack = 1e-9 + 1e-14 * votes  # rounded to the conservative side
    needed = np.log(1 / _level(alpha)) + slack

    return _ends(successes / votes, lambda p: average - xlogy(successes, p) - xlog1py(failures, -p) < needed)


def dispersion_test(successes: ArrayLike, votes: int) -> float:
    """Test whether groups of votes vary as independent votes do, for networks that are random inside.

    When many votes of an image share one draw of the network's own noise, the counts of such groups vary more
    than binomial counts, and no binomial bound holds. This is the usual chi-square test for it.

    Args:
        successes: ``(G,)`` successes in each of G groups of votes, G at least 2.
        votes: Votes in each group.

    Returns:
        p-value of the hypothesis that the votes are independent with one probability; tiny when
        they are not.
    """
    counts = np.asarray(successes, dtype=np.float64)
    if counts.ndim != 1 or len(counts) < 2:
        raise ValueError(f"`successes` must hold at least 2 groups, got shape {counts.shape}")
    if not np.all((counts >= 0) & (counts <= votes)):
        raise ValueError("`successes` must be in [0, votes]")
    share = counts.mean() / votes
    if share in (0.0, 1.0):
        return 1.0
    statistic = ((counts - votes * share) ** 2).sum() / (votes * share * (1 - share))
    return float(chdtrc(len(counts) - 1, statistic))
