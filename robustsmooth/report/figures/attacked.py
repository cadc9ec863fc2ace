"""Figures of what attacks achieved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from robustsmooth import statistics
from robustsmooth.report.evaluations import Attack, Certification
from robustsmooth.report.figures.certified import curve, radius_grid
from robustsmooth.report.figures.drawing import (
    MARKERS,
    MOST_LINES,
    PALETTE,
    Drawing,
    line_style,
    percent_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["attack_curves", "attack_name", "empirical_and_certified"]


def empirical_and_certified(attacks: Sequence[Attack], certifications: Sequence[Certification]) -> Drawing:
    """Accuracy under attack at each budget beside certified accuracy (SmoothAdv Figure 3)."""
    under_attack = {each.run.trained for each in attacks}
    shown = [each for each in certifications if each.run.trained in under_attack][:MOST_LINES]
    colours = {each.run.trained: PALETTE[position % len(PALETTE)] for position, each in enumerate(shown)}
    left_out = {each.run.trained for each in certifications} - set(colours)
    attacks = [each for each in attacks if each.run.trained not in left_out]

    def draw(axes: Axes) -> None:
        from matplotlib.lines import Line2D

        grid = radius_grid(shown or certifications)
        for each in shown:
            axes.plot(grid, curve(each, grid), label=each.run.label, color=colours[each.run.trained])
        lines: dict[tuple[Any, str], list[tuple[float, float]]] = {}
        for attack in attacks:
            held = float((~attack.won).mean())
            lines.setdefault((attack.run.trained, attack_name(attack)), []).append(
                (attack.epsilon or 0, 100 * held)
            )
        names = sorted({name for _, name in lines})
        for (trained, name), points in lines.items():
            marker = MARKERS[names.index(name) % len(MARKERS)]
            x, y = zip(*sorted(points), strict=True)
            axes.plot(
                x,
                y,
                marker=marker,
                markersize=4.5,
                linewidth=1,
                linestyle=":",
                color=colours.get(trained, "0.4"),
            )
        for position, name in enumerate(names):
            marker = MARKERS[position % len(MARKERS)]
            axes.add_line(
                Line2D([], [], marker=marker, linestyle=":", color="0.3", label=f"under attack: {name}")
            )
        percent_axes(axes, "l2 radius r, or attack budget ε (pixel units)", "Accuracy (% of all images)")

    note = "Solid: certified, a lower bound. Marks: what attacks left standing, an upper bound."
    return Drawing("empirical_certified", "Certified and empirical accuracy", note, draw)


def attack_name(each: Attack) -> str:
    """An attack in a legend: its name, what it attacked, the number of noises."""
    words = [str(each.run.facts.get("attack", "attack"))]
    words += [f"on {each.run.facts['target']}"] if "target" in each.run.facts else []
    words += [f"m={each.settings['num_noise']:g}"] if each.settings.get("num_noise", 1) > 1 else []
    return " ".join(words)


def attack_curves(attacks: Sequence[Attack]) -> Drawing:
    """Share of images attacked within a distance (HeatSmoothing Figures 2, 6); each run's largest budget."""
    largest: dict[str, Attack] = {}
    for each in attacks:
        kept = largest.get(each.run.label)
        if kept is None or (each.epsilon or 0) >= (kept.epsilon or 0):
            largest[each.run.label] = each
    norm = "l2" if any(each.norm == "l2" for each in largest.values()) else "linf"
    shown = [each for each in largest.values() if each.norm == norm][:MOST_LINES]

    def draw(axes: Axes) -> None:
        reach = max((float(each.distance[each.won].max(initial=0.0)) for each in shown), default=0.0)
        grid = np.linspace(0, reach or 1.0, 400)
        for position, each in enumerate(shown):
            share = statistics.attack_curve(each.distance, each.won, grid)
            axes.plot(grid, 100 * share, label=each.run.label, **line_style(position))
        percent_axes(axes, f"{norm} distance (pixel units)", "Images attacked (%)")

    note = (
        "Share of all images with an adversarial example within the distance; a clean mistake has distance 0."
    )
    return Drawing("attack_curves", "Attack curves", note, draw)
