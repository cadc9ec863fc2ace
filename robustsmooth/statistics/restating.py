"""The exact expected result of a certification with fewer votes, from its counts.

Of the n votes of an image, k were for its class. A certification with m votes would have used a random subset
of m of these n votes, so the number of votes for the class is hypergeometric, and all its probabilities can
be summed. The result is the mean over all such subsets: no random numbers and no additional votes are needed.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtrik, gammaln, ndtri

from robustsmooth.statistics.bounds import clopper_pearson_lower


class Restated(NamedTuple):
    """Expected values per image with a smaller number of votes.

    Attributes:
        radius: ``(N,)`` expected certified radius, 0 where it would abstain.
        certified: ``(R, N)`` probability of being certified at each radius.
        sure: ``(N,)`` probability that the lower bound of p_A is at least `sure_at`.
    """

    radius: NDArray[np.float64]
    certified: NDArray[np.float64]
    sure: NDArray[np.float64]


def successes_of(bound: ArrayLike, n: int, alpha: float) -> NDArray[np.int64]:
    """The numbers of successes from Clopper-Pearson lower bounds: the inverse of the bound.

    Args:
        bound: Lower bounds; if rounded, the nearest count is found.
        n: Votes.
        alpha: Level of the bounds.

    Returns:
        Counts in [0, n]; 0 where the bound is 0 or NaN.
    """
    # The bound is the p at which k or more successes have probability alpha: at most k - 1 have 1 - alpha.
    counts = bdtrik(1 - alpha, n, np.asarray(bound, float)) + 1
    return np.rint(np.clip(np.nan_to_num(counts), 0, n)).astype(np.int64)


def restate(
    successes: ArrayLike, n: int, m: int, alpha: float, sigma: float, radii: ArrayLike, sure_at: float = 0.9
) -> Restated:
    """The expected certificate (Cohen et al. 2019) from a random subset of m of n votes.

    Args:
        successes: ``(N,)`` votes for the candidate class among the n of the estimate.
        n: Number of votes.
        m: Size of the subset, in [1, n].
        alpha: Level of the Clopper-Pearson bound.
        sigma: Noise level.
        radii: ``(R,)`` radii; at radius 0 it is enough not to abstain.
        sure_at: Threshold of `Restated.sure`.

    Raises:
        ValueError: If there are not that many votes.
    """
    if not 1 <= m <= n:
        raise ValueError(f"`m` must be in [1, n] with n={n}, got {m}: there are no more votes than n")
    counts = np.asarray(successes, np.int64)
    drawn = np.arange(m + 1)
    bounds = clopper_pearson_lower(drawn, m, alpha)
    radius = np.where(bounds > 0.5, sigma * ndtri(bounds), 0.0)
    # The smallest counts whose radius, or bound, is at least the given one.
    first = np.append(
        np.searchsorted(radius, np.maximum(np.asarray(radii, float), np.nextafter(0, 1))),
        np.searchsorted(bounds, max(sure_at, np.nextafter(0.5, 1))),
    )
    log_factorials = gammaln(np.arange(n + 1) + 1.0)
    distinct, place = np.unique(counts, return_inverse=True)
    expected = np.zeros(len(distinct))
    reached = np.zeros((len(first), len(distinct)))
    for at, k in enumerate(distinct):
        low, high = _support(int(k), n, m)
        chances = _hypergeometric(drawn[low : high + 1], int(k), n, m, log_factorials)
        expected[at] = chances @ radius[low : high + 1]
        tail = np.append(np.cumsum(chances[::-1])[::-1], 0.0)
        reached[:, at] = tail[np.clip(first - low, 0, len(chances))]
    return Restated(expected[place], reached[:-1, place], reached[-1, place])


def _support(k: int, n: int, m: int) -> tuple[int, int]:
    """Range of counts with all but 1e-15 of the probability, by Hoeffding's bound."""
    width = int(np.ceil(np.sqrt(m * np.log(2e15) / 2))) + 1
    centre = m * k / n
    return max(0, m - (n - k), int(centre) - width), min(m, k, int(np.ceil(centre)) + width)


def _hypergeometric(
    x: NDArray[np.int64], k: int, n: int, m: int, log_factorials: NDArray[np.float64]
) -> NDArray[np.float64]:
    """P(X = x) for X successes in m draws without replacement from n with k successes."""

    def choose(total: int, part: NDArray[np.int64]) -> NDArray[np.float64]:
        return log_factorials[total] - log_factorials[part] - log_factorials[total - part]

    logs = choose(k, x) + choose(n - k, m - x)
    chances = np.exp(logs - logs.max())
    return chances / chances.sum()
