"""Figures of the best of several runs (SmoothAdv, Figures 1 to 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from robustsmooth import statistics
from robustsmooth.report.comparable import by_method, repetitions
from robustsmooth.report.evaluations import Certification, Withstood
from robustsmooth.report.figures.certified import RADIUS, curve, radius_grid, sigma_of
from robustsmooth.report.figures.drawing import (
    DASHES,
    MARKERS,
    MOST_LINES,
    PALETTE,
    Drawing,
    Styles,
    grey_lines,
    left_out,
    percent_axes,
)
from robustsmooth.report.images import ImageSet
from robustsmooth.report.runs import Run
from robustsmooth.report.table import file_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def _best_of(certifications: Sequence[Certification], grid: np.ndarray) -> np.ndarray:
    """The best at each radius; runs that differ only in the seed count as one, with their mean."""
    means = [np.mean([curve(item, grid) for item in group], axis=0) for group in repetitions(certifications)]
    return statistics.envelope(means)


def _runs(members: Sequence[Certification] | Sequence[Withstood]) -> list[Run]:
    return [member.run for member in members]


def _named(name: str, certifications: Sequence[Certification]) -> str:
    runs = len(repetitions(certifications))
    return f"{name} ({runs} run{'s' if runs > 1 else ''})"


def _ranked(families: Mapping[str, Sequence[Certification]]) -> list[str]:
    """The methods with the largest ACR of any run first: these get the colours."""

    def largest(name: str) -> float:
        groups = repetitions(families[name])
        return max(float(np.mean([item.counted.mean() for item in group])) for group in groups)

    return sorted(families, key=largest, reverse=True)


SEEDS = " Runs that differ only in the seed count as one, with their mean."
OTHER_IMAGES = "left out, since certified on other images"


def envelope(
    certifications: Sequence[Certification],
    styles: Styles,
    attacks: Sequence[Withstood] = (),
    data: str = "",
    aside: Sequence[str] = (),
) -> Drawing:
    """The best of each method's runs at each radius, certified and under attack.

    It is SmoothAdv's Figure 1 and 2, left, and Figure 3.

    Args:
        certifications: On the same images.
        styles: The report's lines; a method has that of its best run.
        attacks: Points above the curves.
        data: Named in the title, if a report has several data sets.
        aside: Labels of the runs on other images, for the note.
    """
    families, attacked = by_method(certifications), by_method(attacks)
    order = [*_ranked(families), *(name for name in attacked if name not in families)]
    shown, grey = order[:MOST_LINES], order[MOST_LINES:]
    tried = {name: members for name, members in attacked.items() if name in shown}
    looks = styles.of_each({name: _runs(families.get(name) or attacked[name]) for name in shown})

    def draw(axes: Axes) -> None:
        grid = radius_grid(certifications)
        grey_lines(axes, grid, (_best_of(families[name], grid) for name in grey if name in families))
        for name in (name for name in shown if name in families):
            label, best = _named(name, families[name]), _best_of(families[name], grid)
            axes.plot(grid, best, label=label, **looks[name])
        _mark_attacks(axes, tried, {name: look["color"] for name, look in looks.items()})
        axis = "l2 radius r, or attack budget ε (pixel units)" if tried else RADIUS
        what = "Accuracy" if tried else "Certified accuracy"
        percent_axes(axes, axis, f"{what} (% of all images)")

    note = "Each point is the best of a method's runs at that radius: no single classifier has this curve."
    note += SEEDS
    if tried:
        note += " Marks: accuracy of the best under attack, an upper bound."
    note += left_out(grey, "in grey") + left_out(aside, OTHER_IMAGES)
    title = "Upper envelope over all runs" if families else "Under attack, the best of each method's runs"
    title += f": {data}" if data else ""
    return Drawing(file_name("envelope", data), title, note, draw)


def _mark_attacks(axes: Axes, tried: Mapping[str, Sequence[Withstood]], colours: Mapping[str, str]) -> None:
    """The best accuracy of each method's runs under each attack, a marker for each attack.

    Runs that differ only in the seed count as one, with their mean.
    """
    names = sorted({member.attack for members in tried.values() for member in members})
    for method, members in tried.items():
        best: dict[tuple[str, ImageSet], dict[float, float]] = {}
        for group in repetitions(members):
            first, accuracy = group[0], float(np.mean([100 * item.accuracy for item in group]))
            points = best.setdefault((first.attack, first.image_set), {})
            points[first.epsilon] = max(accuracy, points.get(first.epsilon, 0.0))
        for (name, _), points in best.items():
            axes.plot(
                sorted(points),
                [points[budget] for budget in sorted(points)],
                marker=MARKERS[names.index(name) % len(MARKERS)],
                markersize=4.5,
                linewidth=1,
                linestyle=":",
                color=colours[method],
                label=f"{method} under {name}",
            )


def envelope_per_sigma(
    certifications: Sequence[Certification], styles: Styles, data: str = "", aside: Sequence[str] = ()
) -> Drawing:
    """The envelope for each noise level (SmoothAdv Figures 1 and 2, middle); of the four best methods."""
    families = by_method(certifications)
    order = _ranked(families)
    shown = order[: len(DASHES)]
    sigmas = sorted(
        {sigma_of(certification) for certification in certifications if sigma_of(certification) is not None}
    )
    lines = {
        f"{name} σ={sigma:g}": chosen
        for name in shown
        for sigma in sigmas[: len(PALETTE)]
        if (chosen := [member for member in families[name] if sigma_of(member) == sigma])
    }
    looks = styles.of_each({name: _runs(members) for name, members in lines.items()})

    def draw(axes: Axes) -> None:
        grid = radius_grid(certifications)
        for name, members in lines.items():
            axes.plot(grid, _best_of(members, grid), label=_named(name, members), **looks[name])
        percent_axes(axes, RADIUS, "Certified accuracy (% of all images)")

    note = f"The best of a method's runs at one noise level σ, at each radius.{SEEDS}"
    note += left_out(order[len(DASHES) :]) + left_out([f"σ={sigma:g}" for sigma in sigmas[len(PALETTE) :]])
    note += left_out(aside, OTHER_IMAGES)
    title = "Upper envelope per noise level" + (f": {data}" if data else "")
    return Drawing(file_name("envelope_per_sigma", data), title, note, draw)
