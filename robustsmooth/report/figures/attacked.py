"""Figures of what attacks achieved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from robustsmooth import statistics
from robustsmooth.report.evaluations import Attack, Certification, Withstood
from robustsmooth.report.figures.certified import curve, radius_grid
from robustsmooth.report.figures.drawing import MARKERS, Drawing, Styles, left_out, percent_axes, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["attack_curves", "empirical_and_certified"]


def empirical_and_certified(
    attacks: Sequence[Withstood], certifications: Sequence[Certification], styles: Styles
) -> Drawing:
    """Accuracy under attack at each budget beside certified accuracy (SmoothAdv Figure 3).

    Attacks stand beside the certificates of the classifier that they attacked, in its colour.
    """
    under_attack = {each.run.facts["classifier"] for each in attacks}
    beside = [each for each in certifications if each.run.facts["classifier"] in under_attack]
    drawn = [(each, style) for each in beside if (style := styles.of(each.run)) is not None]
    drawn.sort(key=lambda pair: -pair[0].counted.mean())
    marked = [(each, style) for each in attacks if (style := styles.of(each.run)) is not None]
    names = sorted({each.attack for each, _ in marked})

    def draw(axes: Axes) -> None:
        from matplotlib.lines import Line2D

        grid = radius_grid([each for each, _ in drawn])
        for each, style in drawn:
            axes.plot(grid, curve(each, grid), label=shortened(each.run.label), **style)
        lines: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for attack, style in marked:
            lines.setdefault((attack.attack, style["color"]), []).append(
                (attack.epsilon, 100 * attack.accuracy)
            )
        for (name, colour), points in lines.items():
            x, y = zip(*sorted(points), strict=True)
            marker = MARKERS[names.index(name) % len(MARKERS)]
            axes.plot(x, y, marker=marker, markersize=4.5, linewidth=1, linestyle=":", color=colour)
        for position, name in enumerate(names):
            marker = MARKERS[position % len(MARKERS)]
            label = shortened(f"under attack: {name}")
            axes.add_line(Line2D([], [], marker=marker, linestyle=":", color="0.3", label=label))
        percent_axes(axes, "l2 radius r, or attack budget ε (pixel units)", "Accuracy (% of all images)")

    note = "Without marks: certified, a lower bound. Marks: what attacks left standing, an upper bound."
    concerned = [*(each.run for each in beside), *(each.run for each in attacks)]
    missing = [run.label for run in concerned if styles.of(run) is None]
    return Drawing("empirical_certified", "Certified and empirical accuracy", note + left_out(missing), draw)


def attack_curves(attacks: Sequence[Attack], styles: Styles) -> Drawing | None:
    """Share of images attacked within a distance (HeatSmoothing Figures 2, 6); each run's largest budget.

    None where there is no curve to see: where each attack used up one budget, whose accuracy a table says.
    """
    largest: dict[str, Attack] = {}
    for each in attacks:
        kept = largest.get(each.run.label)
        if kept is None or (each.epsilon or 0) >= (kept.epsilon or 0):
            largest[each.run.label] = each
    norm = "l2" if any(each.norm == "l2" for each in largest.values()) else "linf"
    curves = [each for each in largest.values() if each.norm == norm and _has_curve(each)]
    if not curves:
        return None
    shown = [(each, style) for each in curves if (style := styles.of(each.run)) is not None]

    def draw(axes: Axes) -> None:
        reach = max((_reach(each) for each, _ in shown), default=0.0)
        grid = np.linspace(0, reach or 1.0, 400)
        for each, style in shown:
            share = statistics.attack_curve(each.distance, each.won, grid)
            axes.plot(grid, 100 * share, label=shortened(each.run.label), **style)
        percent_axes(axes, f"{norm} distance (pixel units)", "Images attacked (%)")

    note = (
        "Share of all images with an adversarial example within the distance; a clean mistake has distance 0."
    )
    note += left_out([each.run.label for each in curves if styles.of(each.run) is None])
    return Drawing("attack_curves", "Attack curves", note, draw)


def _reach(each: Attack) -> float:
    """The largest finite distance of a success."""
    distances = each.distance[each.won]
    return float(distances[np.isfinite(distances)].max(initial=0.0))


def _has_curve(each: Attack) -> bool:
    """Whether the distances of the successes differ: not all at the budget."""
    distances = each.distance[each.won & each.clean]
    distances = distances[np.isfinite(distances)]
    return len(distances) > 0 and float(np.mean(distances < 0.97 * distances.max())) > 0.05
