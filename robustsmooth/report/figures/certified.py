"""Figures of certificates."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from robustsmooth import statistics
from robustsmooth.report.evaluations import Certification
from robustsmooth.report.figures.drawing import Drawing, Styles, grey_lines, left_out, percent_axes, shortened
from robustsmooth.report.tables.certified import UNCERTIFIED
from robustsmooth.statistics import METHOD_TITLES, Guarantee, Method

if TYPE_CHECKING:
    from matplotlib.axes import Axes


RADIUS = "l2 radius r (pixel units, images in [0, 1])"


def sigma_of(certification: Certification) -> Any:
    """The noise level, if it is known."""
    return certification.run.facts.get("sigma")


def radius_grid(certifications: Sequence[Certification]) -> np.ndarray:
    """Radii to draw curves at, a little beyond the largest."""
    largest = max((float(certification.counted.max()) for certification in certifications), default=0.0)
    return np.linspace(0, 1.02 * largest or 1.0, 400)


def curve(certification: Certification, grid: np.ndarray) -> np.ndarray:
    """Certified accuracy in percent at the radii of `grid`."""
    return 100 * certification.accuracy(grid)


def certified_accuracy(
    certifications: Sequence[Certification],
    styles: Styles,
    level: float = 0.95,
    method: Method = "clopper_pearson",
    data: str = "",
) -> Drawing:
    """Certified accuracy against radius, with confidence bands over images.

    Args:
        certifications: Of one guarantee and one data set, at least one.
        styles: The report's lines.
        level: Confidence level of the bands.
        method: Kind of the intervals.
        data: Named in the title, if a report has several data sets.
    """
    guarantee = certifications[0].guarantee
    drawn, grey = styles.divide(certifications)
    drawn.sort(key=lambda pair: -pair[0].counted.mean())

    def draw(axes: Axes) -> None:
        grid = radius_grid(certifications)
        grey_lines(axes, grid, (curve(item, grid) for item in grey))
        for certification, style in drawn:
            axes.plot(grid, curve(certification, grid), label=shortened(certification.run.label), **style)
            counts = statistics.certified_counts(certification.correct, certification.radius, grid)
            low, high = statistics.interval(counts, certification.images, level, method)
            axes.fill_between(grid, 100 * low, 100 * high, color=style["color"], alpha=0.12, linewidth=0)
        accuracy = f"Accuracy {UNCERTIFIED[guarantee.kind]}" if guarantee.caveat else "Certified accuracy"
        percent_axes(axes, RADIUS.replace("l2", guarantee.norm), f"{accuracy} (% of all images)")

    note = f"Bands: {100 * level:g} % {METHOD_TITLES[method]} intervals over images."
    note += left_out([item.run.label for item in grey], "in grey")
    note += f" {guarantee.caveat}" if guarantee.caveat else ""
    title = "Certified accuracy against radius"
    if guarantee.caveat:
        title = f"Accuracy {UNCERTIFIED[guarantee.kind]}"
    title += "" if guarantee.usual else f" ({guarantee})"
    return Drawing(
        _name("certified_accuracy", guarantee, data), title + (f": {data}" if data else ""), note, draw
    )


def _name(name: str, guarantee: Guarantee, data: str) -> str:
    parts = [name, *([] if guarantee.usual else [str(guarantee)]), *([data] if data else [])]
    return "_".join(re.sub(r"\W+", "_", part).strip("_") for part in parts)


def lower_bounds(certifications: Sequence[Certification], styles: Styles, data: str = "") -> Drawing:
    """The distribution of p_A, the lower bounds of the top class's probability; to be read with every ACR."""
    known = [certification for certification in certifications if certification.p_a_lower is not None]
    drawn, grey = styles.divide(known)
    drawn.sort(key=lambda pair: -pair[0].counted.mean())

    def draw(axes: Axes) -> None:
        grid = np.linspace(0, 1, 400)
        grey_lines(axes, grid, (_shares(item, grid) for item in grey))
        for certification, style in drawn:
            axes.plot(grid, _shares(certification, grid), label=shortened(certification.run.label), **style)
        axes.axvline(0.5, color="0.5", linewidth=0.8)
        percent_axes(
            axes, "Lower bound p of the top class's probability", "Correct images with a bound ≥ p (%)"
        )
        axes.set_xlim(0, 1)

    note = (
        "Share of all images that are correct with a bound of at least p. Below 1/2 (grey) none is "
        "certified. The right end has most weight in the ACR."
    )
    note += left_out([item.run.label for item in grey], "in grey")
    title = "Distribution of p_A" + (f": {data}" if data else "")
    return Drawing(_name("lower_bounds", Guarantee(), data), title, note, draw)


def _shares(certification: Certification, grid: np.ndarray) -> np.ndarray:
    counted = certification.p_a_counted
    return 100 * statistics.exceedance(
        np.full(certification.images, np.nan) if counted is None else counted, grid
    )
