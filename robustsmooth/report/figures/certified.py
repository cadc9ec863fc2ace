"""Figures of what was proved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from robustsmooth import statistics
from robustsmooth.report.evaluations import FIELD_GUARANTEE, Certification
from robustsmooth.report.figures.drawing import MOST_LINES, PALETTE, Drawing, line_style, percent_axes
from robustsmooth.statistics import METHOD_TITLES, Method

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "certified_accuracy",
    "curve",
    "lower_bounds",
    "radius_grid",
    "sigma_of",
]

RADIUS = "l2 radius r (pixel units, images in [0, 1])"


def sigma_of(each: Certification) -> Any:
    """The noise level, if it is known."""
    return each.run.facts.get("sigma")


def radius_grid(certifications: Sequence[Certification]) -> np.ndarray:
    """Radii to draw curves at, a little beyond the largest."""
    largest = max((float(each.counted.max()) for each in certifications), default=0.0)
    return np.linspace(0, 1.02 * largest or 1.0, 400)


def curve(each: Certification, grid: np.ndarray) -> np.ndarray:
    """Certified accuracy in percent at the radii of `grid`."""
    return 100 * statistics.certified_accuracy(each.correct, each.radius, grid)


def certified_accuracy(
    certifications: Sequence[Certification], level: float = 0.95, method: Method = "clopper_pearson"
) -> Drawing:
    """Certified accuracy against radius, with confidence bands over images; for radii of one guarantee."""
    guarantee, norm = certifications[0].guarantee, certifications[0].norm
    ranked = sorted(certifications, key=lambda each: -statistics.acr(each.correct, each.radius))

    many = len(ranked) > 50  # as a picture inside the figure, or the page gets heavy

    def draw(axes: Axes) -> None:
        grid = radius_grid(certifications)
        for each in ranked[MOST_LINES:]:
            axes.plot(grid, curve(each, grid), color="0.8", linewidth=0.7, zorder=1, rasterized=many)
        for position, each in enumerate(ranked[:MOST_LINES]):
            axes.plot(grid, curve(each, grid), label=each.run.label, **line_style(position))
            counts = statistics.certified_counts(each.correct, each.radius, grid)
            low, high = statistics.interval(counts, each.images, level, method)
            color = PALETTE[position % len(PALETTE)]
            axes.fill_between(grid, 100 * low, 100 * high, color=color, alpha=0.12, linewidth=0)
        percent_axes(axes, RADIUS.replace("l2", norm), "Certified accuracy (% of all images)")

    note = f"Bands: {100 * level:g} % {METHOD_TITLES[method]} intervals over images."
    if len(ranked) > MOST_LINES:
        note += f" The {MOST_LINES} with the largest ACR in colour, the others grey."
    if guarantee == FIELD_GUARANTEE:
        return Drawing("certified_accuracy", "Certified accuracy against radius", note, draw)
    name = f"certified_accuracy_{guarantee.replace('-', '_')}"
    return Drawing(name, f"Certified accuracy ({guarantee})", note, draw)


def lower_bounds(certifications: Sequence[Certification]) -> Drawing:
    """The distribution of the lower bounds of the top class's probability."""
    known = [each for each in certifications if each.p_a_lower is not None]
    ranked = sorted(known, key=lambda each: -statistics.acr(each.correct, each.radius))[:MOST_LINES]

    def draw(axes: Axes) -> None:
        grid = np.linspace(0, 1, 400)
        for position, each in enumerate(ranked):
            bounds = np.where(each.correct, each.p_a_lower, np.nan)  # type: ignore[arg-type]
            axes.plot(
                grid, 100 * statistics.exceedance(bounds, grid), label=each.run.label, **line_style(position)
            )
        axes.axvline(0.5, color="0.5", linewidth=0.8)
        percent_axes(
            axes, "Lower bound p of the top class's probability", "Correct images with a bound ≥ p (%)"
        )
        axes.set_xlim(0, 1)

    note = (
        "Share of all images that are correct with a bound of at least p. Below 1/2 (grey) none is certified."
    )
    return Drawing("lower_bounds", "Distribution of the lower bounds", note, draw)
