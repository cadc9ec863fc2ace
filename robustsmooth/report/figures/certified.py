"""Figures of certificates."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from robustsmooth import statistics
from robustsmooth.report.evaluations import Certification
from robustsmooth.report.figures.drawing import Drawing, Line, Styles, grey_lines, left_out, percent_axes
from robustsmooth.report.table import file_name
from robustsmooth.report.tables.certified import UNCERTIFIED
from robustsmooth.report.tables.common import asked_radii, tested
from robustsmooth.statistics import METHOD_TITLES, Guarantee, Method

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RADIUS = "l2 radius r (pixel units, images in [0, 1])"
TESTED = " Coloured marks: the given radii, the only ones with a result."


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


def places(members: Sequence[Certification], grid: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Where a line is drawn, with its style: all along the grid, or marks at the radii that were tested."""
    if not members[0].guarantee.at_some_radii:
        return grid, {}
    return np.array(tested(members, asked_radii(members))), {"marker": "."}


def by_acr(
    styles: Styles, certifications: Sequence[Certification]
) -> tuple[list[Line[Certification]], list[Line[Certification]]]:
    """The lines of certifications, those with the largest ACR first, and those without a style."""
    drawn, grey = styles.lines(certifications)
    drawn.sort(key=lambda line: -float(np.mean([item.counted.mean() for item in line.members])))
    return drawn, grey


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
    drawn, grey = by_acr(styles, certifications)

    def draw(axes: Axes) -> None:
        grid = radius_grid(certifications)
        grey_lines(axes, grid, (line.values(lambda item: curve(item, grid)).mean(0) for line in grey))
        for line in drawn:
            at, marks = places(line.members, grid)
            curves = line.values(partial(curve, grid=at))
            (mean,) = axes.plot(at, curves.mean(0), label=line.label, **(line.style or {}), **marks)
            if len(curves) > 1:
                low, high = curves.mean(0) + np.outer([-1, 1], curves.std(0, ddof=1))
            else:
                (only,) = line.members
                counts = statistics.certified_counts(only.correct, only.radius, at)
                low, high = 100 * np.array(statistics.interval(counts, only.images, level, method))
            axes.fill_between(at, low, high, color=mean.get_color(), alpha=0.12, linewidth=0)
        accuracy = f"Accuracy {UNCERTIFIED[guarantee.kind]}" if guarantee.caveat else "Certified accuracy"
        percent_axes(axes, RADIUS.replace("l2", guarantee.norm), f"{accuracy} (% of all images)")

    note = ""
    if any(len(line.members) == 1 for line in drawn):
        note = f"Bands: {100 * level:g} % {METHOD_TITLES[method]} intervals over images."
    if any(len(line.members) > 1 for line in drawn):
        note += f"{' ' * bool(note)}Under several seeds: the mean, and a band of one standard deviation."
    note += TESTED if guarantee.at_some_radii else ""
    note += left_out([line.label for line in grey], "in grey")
    note += f" {guarantee.caveat}" if guarantee.caveat else ""
    title = "Certified accuracy against radius"
    if guarantee.caveat:
        title = f"Accuracy {UNCERTIFIED[guarantee.kind]}"
    title += "" if guarantee.usual else f" ({guarantee})"
    return Drawing(
        _name("certified_accuracy", guarantee, data), title + (f": {data}" if data else ""), note, draw
    )


def _name(name: str, guarantee: Guarantee, data: str) -> str:
    return file_name(name, "" if guarantee.usual else str(guarantee), data)


def lower_bounds(certifications: Sequence[Certification], styles: Styles, data: str = "") -> Drawing:
    """The distribution of p_A, the lower bounds of the top class's probability; to be read with every ACR.

    It begins at 1/2, below which nothing is certified, unless a correct image has a smaller bound.
    """
    known = [certification for certification in certifications if certification.p_a_lower is not None]
    drawn, grey = by_acr(styles, known)
    smaller = any((item.p_a_counted < 0.5).any() for item in known if item.p_a_counted is not None)
    start = 0.0 if smaller else 0.5

    def draw(axes: Axes) -> None:
        grid = np.linspace(start, 1, 400)
        grey_lines(axes, grid, (line.values(lambda item: _shares(item, grid)).mean(0) for line in grey))
        for line in drawn:
            mean = line.values(lambda item: _shares(item, grid)).mean(0)
            axes.plot(grid, mean, label=line.label, **(line.style or {}))
        if smaller:
            axes.axvline(0.5, color="0.5", linewidth=0.8)
        percent_axes(
            axes, "Lower bound p of the top class's probability", "Correct images with a bound ≥ p (%)"
        )
        axes.set_xlim(start, 1)

    note = "Share of all images that are correct with a bound of at least p. "
    note += "Below 1/2 (grey line) none is certified. " if smaller else ""
    note += "The right end has most weight in the ACR."
    note += left_out([line.label for line in grey], "in grey")
    title = "Distribution of p_A" + (f": {data}" if data else "")
    return Drawing(_name("lower_bounds", Guarantee(), data), title, note, draw)


def _shares(certification: Certification, grid: np.ndarray) -> np.ndarray:
    counted = certification.p_a_counted
    return 100 * statistics.exceedance(
        np.full(certification.images, np.nan) if counted is None else counted, grid
    )
