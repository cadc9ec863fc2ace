"""Figures of the best of several runs (SmoothAdv, Figures 1 to 3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from robustsmooth import statistics
from robustsmooth.report.comparable import by_method, repetitions, smoothed_classifier
from robustsmooth.report.evaluations import Certification, Withstood
from robustsmooth.report.figures.attacked import mean_accuracy, plot_marks
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
from robustsmooth.report.titles import with_images

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
    tried = _tried({name: members for name, members in attacked.items() if name in shown})
    markers = dict(zip(sorted({name for _, name in tried}), MARKERS, strict=False))
    looks = styles.of_each({name: _runs(families.get(name) or attacked[name]) for name in shown})

    def draw(axes: Axes) -> None:
        grid = radius_grid(certifications)
        grey_lines(axes, grid, (_best_of(families[name], grid) for name in grey if name in families))
        for name in (name for name in shown if name in families):
            label, best = _named(name, families[name]), _best_of(families[name], grid)
            axes.plot(grid, best, label=label, **looks[name])
        for (method, name), points in tried.items():
            if name in markers:
                label = f"{method} under {name}"
                plot_marks(axes, points, markers[name], color=looks[method]["color"], label=label)
        axis = "l2 radius r, or attack budget ε (pixel units)" if tried else RADIUS
        what = "Accuracy" if tried else "Certified accuracy"
        percent_axes(axes, axis, f"{what} (% of all images)")

    note = "Each point is the best of a method's runs at that radius: no single classifier has this curve."
    note += SEEDS
    if tried:
        note += " Marks: accuracy of the best under attack, an upper bound: under the strongest of several "
        note += "attacks of one name."
    note += left_out([f"{method} under {name}" for method, name in tried if name not in markers])
    note += left_out(grey, "in grey") + left_out(aside, OTHER_IMAGES)
    title = "Upper envelope over all runs" if families else "Under attack, the best of each method's runs"
    title += f": {data}" if data else ""
    return Drawing(file_name("envelope", data), title, note, draw)


def _tried(attacked: Mapping[str, Sequence[Withstood]]) -> dict[tuple[str, str], dict[float, float]]:
    """The best accuracy of each method's runs under each attack, by budgets; keys: the method, the attack.

    Runs that differ only in the seed count as one, with their mean. What they withstand is their accuracy
    under the strongest of several attacks with one name, also if only some of the seeds were attacked so.
    """
    lines: dict[tuple[str, str, ImageSet], list[list[Withstood]]] = {}
    for method, members in attacked.items():
        for group in repetitions(members):
            lines.setdefault((method, group[0].attack, group[0].image_set), []).append(group)
    homes = [method for method, _, _ in lines]
    names = with_images([name for _, name, _ in lines], [groups[0][0] for groups in lines.values()])
    found: dict[tuple[str, str], dict[float, float]] = {}
    for method, name, groups in zip(homes, names, lines.values(), strict=True):
        held: dict[float, dict[Any, float]] = {}
        for group in groups:
            run, least = group[0].run, held.setdefault(group[0].epsilon, {})
            repeated = run.training_seed is not None
            classifier = (run.facts["family" if repeated else "classifier"], *smoothed_classifier(run)[1:])
            least[classifier] = min(mean_accuracy(group), least.get(classifier, math.inf))
        found[method, name] = {budget: max(least.values()) for budget, least in held.items()}
    return found


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
