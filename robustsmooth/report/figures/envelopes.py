"""Figures of what the best of several runs reaches (SmoothAdv, Figures 1 to 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from robustsmooth import statistics
from robustsmooth.report.evaluations import Attack, Certification
from robustsmooth.report.figures.attacked import attack_name
from robustsmooth.report.figures.certified import RADIUS, curve, radius_grid, sigma_of
from robustsmooth.report.figures.drawing import DASHES, MARKERS, PALETTE, Drawing, line_style, percent_axes
from robustsmooth.report.tables import by_method

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["envelope", "envelope_per_sigma"]


def _best_of(certifications: Sequence[Certification], grid: np.ndarray) -> np.ndarray:
    return statistics.envelope([curve(each, grid) for each in certifications])


def _named(name: str, runs: int) -> str:
    return f"{name} ({runs} run{'s' if runs > 1 else ''})"


def envelope(certifications: Sequence[Certification], attacks: Sequence[Attack] = ()) -> Drawing:
    """The best of each method's runs at each radius, certified and under attack.

    It is SmoothAdv's Figure 1 and 2, left, and Figure 3.
    """
    families = by_method(certifications)
    tried = {name: members for name, members in by_method(attacks).items() if name in families}

    def draw(axes: Axes) -> None:
        grid = radius_grid(certifications)
        for position, (name, members) in enumerate(families.items()):
            style = line_style(position)
            axes.plot(grid, _best_of(members, grid), label=_named(name, len(members)), **style)
        _mark_attacks(axes, tried, list(families))
        axis = "l2 radius r, or attack budget ε (pixel units)" if tried else RADIUS
        what = "Accuracy" if tried else "Certified accuracy"
        percent_axes(axes, axis, f"{what} (% of all images)")

    note = "Each point is the best of a method's runs at that radius: no single classifier has this curve."
    if tried:
        note += " Marks: what attacks left standing of the best, an upper bound."
    return Drawing("envelope", "Upper envelope over all runs", note, draw)


def _mark_attacks(axes: Axes, tried: Mapping[str, Sequence[Attack]], order: Sequence[str]) -> None:
    """The best accuracy of each method's runs under each attack, a marker for each attack."""
    names = sorted({attack_name(each) for members in tried.values() for each in members})
    for method, members in tried.items():
        best: dict[str, dict[float, float]] = {}
        for each in members:
            points = best.setdefault(attack_name(each), {})
            budget, held = float(each.epsilon or 0), 100 * float((~each.won).mean())
            points[budget] = max(held, points.get(budget, 0.0))
        for name, points in best.items():
            axes.plot(
                sorted(points),
                [points[budget] for budget in sorted(points)],
                marker=MARKERS[names.index(name) % len(MARKERS)],
                markersize=4.5,
                linewidth=1,
                linestyle=":",
                color=PALETTE[order.index(method) % len(PALETTE)],
                label=f"{method} under {name}",
            )


def envelope_per_sigma(certifications: Sequence[Certification]) -> Drawing:
    """The envelope for each noise level (SmoothAdv Figures 1 and 2, middle)."""

    def draw(axes: Axes) -> None:
        grid = radius_grid(certifications)
        for line, (name, members) in enumerate(by_method(certifications).items()):
            for position, sigma in enumerate(sorted({sigma_of(each) for each in members}, key=str)):
                chosen = [each for each in members if sigma_of(each) == sigma]
                style = {**line_style(position), "linestyle": DASHES[line % len(DASHES)]}
                label = _named(f"{name} σ={sigma}", len(chosen))
                axes.plot(grid, _best_of(chosen, grid), label=label, **style)
        percent_axes(axes, RADIUS, "Certified accuracy (% of all images)")

    note = "The best of the runs of one noise level σ at each radius."
    return Drawing("envelope_per_sigma", "Upper envelope per noise level", note, draw)
