"""Radii in other norms, and the largest that a number of votes can reach."""

import math

from scipy.special import ndtri

_STEP = 0.25  # between the radii of a table, as in most papers


def linf_radius(l2_radius: float, dimension: int) -> float:
    """An linf radius from an l2 radius: the linf ball of radius r is in the l2 ball of radius r sqrt(d).

    Salman et al. 2019, Table 3, uses it at 2/255.

    Args:
        l2_radius: Certified l2 radius.
        dimension: Number of pixel values d, channels included.

    Examples:
        >>> linf_radius(0.55, 3 * 32 * 32) > 2 / 255
        True
    """
    if dimension < 1:
        raise ValueError(f"`dimension` must be at least 1, got {dimension}")
    return l2_radius / math.sqrt(dimension)


def l2_radius(linf_radius: float, dimension: int) -> float:
    """The l2 radius that implies an linf radius, the inverse of `linf_radius`.

    Examples:
        >>> round(l2_radius(2 / 255, 3 * 32 * 32), 3)
        0.435
    """
    return linf_radius * math.sqrt(dimension)


def reachable_radius(n: int, alpha: float, sigma: float) -> float:
    """The largest l2 radius that n unanimous votes certify: sigma Phi^-1(alpha^(1/n)).

    Examples:
        >>> [round(reachable_radius(n, 0.001, 1.0), 2) for n in (100, 1000, 10_000, 100_000)]
        [1.5, 2.46, 3.2, 3.81]
    """
    return max(0.0, sigma * float(ndtri(alpha ** (1 / n))))


def table_radii(largest: float) -> tuple[float, ...]:
    """The radii of a table of certified accuracies: 0, 0.25, 0.5... up to the largest that is possible.

    Examples:
        >>> table_radii(0.95)
        (0.0, 0.25, 0.5, 0.75)
    """
    return tuple(step * _STEP for step in range(int(largest / _STEP) + 1))


def short(length: float) -> str:
    """A budget or a radius in a name: two digits where they are exact.

    Examples:
        >>> short(0.5), short(8 / 255)
        ('0.50', '0.03137')
    """
    return f"{length:.2f}" if math.isclose(length, round(length, 2), abs_tol=1e-9) else f"{length:.4g}"
