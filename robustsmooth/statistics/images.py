"""Statistics over a set of images, as pure functions of arrays (NumPy in, NumPy or floats out).

In all functions, ``correct`` is 1 where the prediction is the label (an abstention is wrong, see
`is_correct`), ``radius`` is the certified radius, 0 on abstention, and means are over *all* images. Without
images these numbers are NaN; an infinite median means that more than half of the attacks failed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, ndtri

from robustsmooth.statistics.bounds import clopper_pearson_lower, clopper_pearson_upper, majority_test

ABSTAIN = -1
"""The prediction for an abstention; always counted as wrong."""

Array = NDArray[np.float64]
Method = Literal["clopper_pearson", "wilson"]
METHOD_TITLES = {"clopper_pearson": "Clopper-Pearson", "wilson": "Wilson"}


def is_correct(prediction: ArrayLike, label: ArrayLike) -> NDArray[np.bool_]:
    """Whether each prediction is the label; an abstention never is.

    Args:
        prediction: ``(N,)`` classes, `ABSTAIN` for an abstention.
        label: ``(N,)`` classes.

    Raises:
        ValueError: If there is not one label per prediction.
    """
    answers, labels = np.asarray(prediction), np.asarray(label)
    _same_images(prediction=answers, label=labels)
    return (answers == labels) & (answers != ABSTAIN)


def abstention_rate(prediction: ArrayLike) -> float:
    """Share of abstentions among ``(N,)`` predictions."""
    return _mean(np.asarray(prediction) == ABSTAIN)


def _mean(values: NDArray) -> float:
    return float(np.mean(values)) if values.size else float("nan")


def _same_images(**columns: NDArray) -> None:
    if len({column.shape for column in columns.values()}) > 1 or any(c.ndim != 1 for c in columns.values()):
        names = " and ".join(f"`{name}`" for name in columns)
        shapes = " and ".join(str(column.shape) for column in columns.values())
        raise ValueError(f"{names} must have one entry per image, got shapes {shapes}")


def _counted(correct: ArrayLike, radius: ArrayLike) -> Array:
    """``radius * correct`` of each image."""
    hits, radii = np.asarray(correct, bool), np.asarray(radius, float)
    _same_images(correct=hits, radius=radii)
    return np.where(hits, radii, 0.0)


def certified_counts(correct: ArrayLike, radius: ArrayLike, radii: ArrayLike) -> NDArray[np.int64]:
    """How many images are correct with a radius of at least r, for each r of `radii`."""
    hits, known = np.asarray(correct, bool), np.asarray(radius, float)
    _same_images(correct=hits, radius=known)
    certified = np.sort(known[hits])
    return len(certified) - np.searchsorted(certified, np.asarray(radii, float), side="left")


def certified_accuracy(correct: ArrayLike, radius: ArrayLike, radii: ArrayLike) -> Array:
    """Share of all images that are correct with ``radius >= r``, for each r of `radii`.

    Examples:
        >>> certified_accuracy([1, 1, 0, 1], [0.5, 0.25, 1.0, 0.0], [0.0, 0.25, 0.3, 1.0]).tolist()
        [0.75, 0.5, 0.25, 0.0]
    """
    count = np.size(correct)
    counts = certified_counts(correct, radius, radii)
    return counts / count if count else np.full(np.shape(counts), np.nan)


def interval(
    successes: ArrayLike, count: int, level: float = 0.95, method: Method = "clopper_pearson"
) -> tuple[Array, Array]:
    """Two-sided confidence interval of a binomial probability, one for each entry of `successes`.

    Args:
        successes: Counts in [0, count].
        count: Number of trials (images), at least 1.
        level: Confidence level in (0, 1).
        method: Clopper-Pearson (exact: at least the stated level) or Wilson (approximate, shorter).

    Returns:
        Lower and upper ends in [0, 1].

    Raises:
        ValueError: If `level` or `method` is not allowed, or there are no trials.
    """
    if not 0 < level < 1:
        raise ValueError(f"`level` must be in (0, 1), got {level}")
    if count < 1:
        raise ValueError(f"`count` must be at least 1, got {count}")
    hits = np.asarray(successes, float)
    tail = (1 - level) / 2
    if method == "clopper_pearson":
        return clopper_pearson_lower(hits, count, tail), clopper_pearson_upper(hits, count, tail)
    if method == "wilson":
        z = -ndtri(tail)
        share = hits / count
        centre = (share + z * z / (2 * count)) / (1 + z * z / count)
        half = z / (1 + z * z / count) * np.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
        return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)
    raise ValueError(f"`method` must be clopper_pearson or wilson, got {method!r}")


def acr(correct: ArrayLike, radius: ArrayLike) -> float:
    """Average certified radius: the mean over all images of ``radius * correct`` (Zhai et al. 2020).

    It rewards a classifier that is very certain on a few easy images; compare the whole curve too.
    """
    return _mean(_counted(correct, radius))


SURE = 0.9
"""A lower bound of p_A at which a classifier is called sure of an image."""


def sure_share(correct: ArrayLike, p_a_lower: ArrayLike) -> float:
    """Share of all images that are correct with a lower bound of p_A of at least `SURE`.

    It is read with every `acr`: a classifier can raise that by being surer of the images that it is sure of.

    Args:
        correct: ``(N,)``.
        p_a_lower: ``(N,)`` lower bounds of the top class's probability; NaN counts as below everything.

    Returns:
        The share; NaN if no bound is known.

    Examples:
        >>> sure_share([1, 1, 0, 1], [0.95, 0.8, 0.99, 0.9])
        0.5
    """
    bounds = np.asarray(p_a_lower, float)
    if np.isnan(bounds).all():
        return float("nan")
    return _mean(np.asarray(correct, bool) & (bounds >= SURE))


class Radii(NamedTuple):
    """Of the certified radii of all images, 0 where wrong; the mean is the ACR."""

    median: float
    mean: float
    largest: float


def radius_statistics(correct: ArrayLike, radius: ArrayLike) -> Radii:
    """Median, mean and maximum over all images of the radius, 0 where wrong (HeatSmoothing, Table 4)."""
    counted = _counted(correct, radius)
    if not counted.size:
        return Radii(float("nan"), float("nan"), float("nan"))
    return Radii(float(np.median(counted)), float(counted.mean()), float(counted.max()))


def envelope(curves: Sequence[ArrayLike]) -> Array:
    """The best of several curves at each point (SmoothAdv, Figure 1). No single classifier has it."""
    return np.max(np.asarray(curves, float), axis=0)


def exceedance(values: ArrayLike, grid: ArrayLike) -> Array:
    """Share of the values that are at least x, for each x of `grid`; NaN counts as below everything."""
    known = np.asarray(values, float)
    known = np.sort(np.where(np.isnan(known), -np.inf, known))
    return (len(known) - np.searchsorted(known, np.asarray(grid, float), side="left")) / max(len(known), 1)


@dataclass(frozen=True)
class Paired:
    """Two classifiers on the same images.

    Attributes:
        images: How many images both were tested on.
        only_first: Images that only the first classifies correctly (at the given radius).
        only_second: Images that only the second classifies correctly.
        p_value: Exact two-sided McNemar test of "both are correct equally often".
    """

    images: int
    only_first: int
    only_second: int
    p_value: float


def mcnemar(first: ArrayLike, second: ArrayLike) -> Paired:
    """Exact McNemar test on paired 0/1 outcomes (binomial over the images on which they differ).

    Raises:
        ValueError: If the two do not have one outcome per common image.
    """
    a, b = np.asarray(first, bool), np.asarray(second, bool)
    if a.shape != b.shape:
        raise ValueError(
            f"`first` and `second` must be outcomes on the same images, got {a.size} and {b.size}"
        )
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    p_value = float(majority_test(only_first, only_first + only_second))
    return Paired(int(a.size), only_first, only_second, p_value)


def attack_curve(distance: ArrayLike, success: ArrayLike, distances: ArrayLike) -> Array:
    """Share of all images for which an adversarial example within each distance was found.

    A failed attack counts as failed at every distance; an image that is wrong without an attack has
    distance 0 and counts from the start (HeatSmoothing, Figures 2 and 6).
    """
    reached = np.sort(np.asarray(distance, float)[np.asarray(success, bool)])
    found = np.searchsorted(reached, np.asarray(distances, float), side="right")
    return found / max(np.size(distance), 1)


class Distances(NamedTuple):
    """Adversarial distances: median over all images, mean over the successes, share of successes."""

    median: float
    mean: float
    success: float


def distance_statistics(distance: ArrayLike, success: ArrayLike) -> Distances:
    """Summarise the distances of attacks (HeatSmoothing, Tables 3 and 5).

    In the median a failure counts as infinitely far, so the median is infinite if half of the attacks fail.
    The mean over the successes is NaN if all of them fail.
    """
    won = np.asarray(success, bool)
    if not won.size:
        return Distances(float("nan"), float("nan"), float("nan"))
    reached = np.where(won, np.asarray(distance, float), np.inf)
    # The mean of the two middle values; inf if one of them is.
    middle = np.sort(reached)[[(won.size - 1) // 2, won.size // 2]]
    return Distances(float(middle.mean()), _mean(reached[won]), float(won.mean()))


@dataclass(frozen=True)
class Contradiction:
    """Certified images whose answer an attack within the certified radius has changed.

    Attributes:
        certified: Images that are correct and certified at the attack's budget, and attacked.
        broken: Those of them that are classified as another class under attack.
        probability: Of at least this many, if each certificate and each prediction is wrong with probability
            alpha.
    """

    certified: int
    broken: int
    probability: float


def contradiction(certified: ArrayLike, broken: ArrayLike, alpha: float) -> Contradiction:
    """Count broken certificates, with their probability under chance.

    Args:
        certified: Whether each attacked image is correct with a certified radius of at least the distance.
        broken: Whether the attack made the same smoothed classifier answer another class (not abstain).
        alpha: Probability that one image is counted by error: that of the certificate plus that of PREDICT.
    """
    sure = np.asarray(certified, bool)
    images, hits = int(sure.sum()), int((sure & np.asarray(broken, bool)).sum())
    # P(X >= hits) for X ~ Binomial(images, alpha)
    probability = float(betainc(hits, images - hits + 1, min(1.0, alpha))) if hits else 1.0
    return Contradiction(images, hits, probability)


def agreement(single: ArrayLike, vote: ArrayLike, label: ArrayLike | None = None) -> tuple[float, int]:
    """How often a single pass and a vote agree (HeatSmoothing, Figure 3).

    Args:
        single: Predictions of one pass.
        vote: Predictions of the stochastic vote; an abstention counts as disagreement.
        label: If given, only images that the single pass classifies correctly count, as in the paper.

    Returns:
        The share, and the number of images that it is computed from.
    """
    one, other = np.asarray(single), np.asarray(vote)
    counted = np.ones(one.shape, bool) if label is None else one == np.asarray(label)
    return _mean((one == other)[counted]), int(counted.sum())
