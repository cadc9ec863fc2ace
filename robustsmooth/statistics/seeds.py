"""Statistics over several runs that differ only in their seed."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit


def mean_and_std(values: ArrayLike) -> tuple[float, float]:
    """Mean and sample standard deviation over seeds; the latter is NaN for a single run."""
    known = np.asarray(values, float)
    return float(known.mean()), float(known.std(ddof=1)) if known.size > 1 else float("nan")


class Difference(NamedTuple):
    """A difference of means, its confidence interval, and whether that includes seeds.

    The p-value is that of the two-sided t test of "no difference" with the same variance and degrees of
    freedom: it is below 1 - level where the interval does not contain 0.
    """

    mean: float
    low: float
    high: float
    over_seeds: bool
    p_value: float


def difference_over_seeds(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> Difference:
    """Difference of two methods' means, with an interval over images *and* seeds, paired on the images.

    The value of method m under seed s on image i is modelled as mean + seed effect + image effect + residual,
    with random seeds and images, crossed within a method; the images are the same for both methods. The
    variance of the difference is the sum of

    * the variance over seeds of each method's means, divided by its number of seeds, and
    * the variance over images of the difference of the methods' means over seeds, divided by the number of
    images.

    This is the two-way cluster variance of Cameron, Gelbach and Miller (2011) without its last term: what
    varies with both seed and image is counted twice, as by the pigeonhole bootstrap (Owen 2007), so the
    interval is conservative. The quantile is Student's, with the degrees of freedom of Satterthwaite (1946),
    which remains valid for two or three seeds, where a bootstrap is not. With a single seed of either method
    the variance over seeds is unknown, and the interval is over images only.

    Args:
        first: ``(S, N)``, one row per seed, one column per image: radius times correct, or correct at a
            radius.
        second: ``(T, N)`` of the other method, on the same images.
        level: Confidence level in (0, 1).

    Returns:
        Mean of the first minus mean of the second, the ends of its interval and the p-value.

    Raises:
        ValueError: If the two do not have the same images, at least two.
    """
    one, other = np.atleast_2d(np.asarray(first, float)), np.atleast_2d(np.asarray(second, float))
    if one.shape[1] != other.shape[1] or one.shape[1] < 2:
        raise ValueError(
            f"both must have the same images, at least 2, got {one.shape[1]} and {other.shape[1]}"
        )
    images = one.mean(axis=0) - other.mean(axis=0)
    parts = [(images.var(ddof=1) / len(images), len(images) - 1)]
    over_seeds = min(len(one), len(other)) > 1
    if over_seeds:
        parts += [(_variance_of_mean(values), len(values) - 1) for values in (one, other)]
    variance = sum(part for part, _ in parts)
    mean = float(images.mean())
    if variance == 0:
        return Difference(mean, mean, mean, over_seeds, float(mean == 0))
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    error = float(np.sqrt(variance))
    half = float(stdtrit(freedom, (1 + level) / 2)) * error
    return Difference(
        mean, mean - half, mean + half, over_seeds, 2 * float(stdtr(freedom, -abs(mean) / error))
    )


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """P-values corrected for their number, so that one error among all has at most its stated probability.

    The k-th smallest of m is multiplied by m - k + 1, and is at least the corrected one before it (Holm
    1979). No assumption about how the tests depend on each other.

    Args:
        p_values: ``(M,)``, in [0, 1].

    Returns:
        ``(M,)`` corrected ones in the same order, at most 1.

    Examples:
        >>> holm([0.01, 0.04, 0.03]).tolist()
        [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, float)
    order = np.argsort(values)
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)), 1)
    return corrected


def _variance_of_mean(values: NDArray[np.float64]) -> float:
    """Variance over seeds of the mean, divided by the number of seeds."""
    return float(values.mean(axis=1).var(ddof=1) / len(values))
