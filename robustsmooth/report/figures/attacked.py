"""Figures of attacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from robustsmooth import statistics
from robustsmooth.report.comparable import is_certified, repetitions
from robustsmooth.report.evaluations import Attack, Certification, Withstood
from robustsmooth.report.figures.certified import by_acr, curve, radius_grid
from robustsmooth.report.figures.drawing import MARKERS, Drawing, Styles, left_out, percent_axes
from robustsmooth.report.titles import distinct_titles

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def empirical_and_certified(
    attacks: Sequence[Withstood], certifications: Sequence[Certification], styles: Styles
) -> Drawing | None:
    """Accuracy under attack at each budget beside certified accuracy (SmoothAdv Figure 3).

    Attacks are drawn with the certificates of the attacked smoothed classifier, in its colour. None if no
    classifier has both and a colour.
    """
    beside = [item for item in certifications if any(is_certified(attack, item) for attack in attacks)]
    drawn, grey = by_acr(styles, beside)
    if not drawn:
        return None
    shown = [item for line in drawn for item in line.members]
    tried = _tried(attacks, shown, styles)
    names = sorted({name for _, name, _ in tried})
    markers = dict(zip(names, MARKERS, strict=False))

    def draw(axes: Axes) -> None:
        from matplotlib.lines import Line2D

        grid = radius_grid(shown)
        for line in drawn:
            mean = line.values(lambda item: curve(item, grid)).mean(0)
            axes.plot(grid, mean, label=line.label, **(line.style or {}))
        for (colour, name, _), points in tried.items():
            if name in markers:
                plot_marks(axes, points, markers[name], color=colour)
        for name, marker in markers.items():
            label = f"under attack: {name}"
            axes.add_line(Line2D([], [], marker=marker, linestyle=":", color="0.3", label=label))
        percent_axes(axes, "l2 radius r, or attack budget ε (pixel units)", "Accuracy (% of all images)")

    note = "Without marks: certified accuracy, a lower bound. Marks: accuracy under attack, an upper bound."
    missing = [line.label for line in grey] + [name for name in names if name not in markers]
    missing += [
        attack.run.label for attack in attacks if not any(is_certified(attack, item) for item in beside)
    ]
    return Drawing("empirical_certified", "Certified and empirical accuracy", note + left_out(missing), draw)


def _tried(
    attacks: Sequence[Withstood], certifications: Sequence[Certification], styles: Styles
) -> dict[tuple[str | None, str, tuple[str, ...]], dict[float, float]]:
    """Accuracies in percent under attacks on certified classifiers, by their budgets; of seeds the mean.

    Keys: the colour, the name of the attack, the networks. As in tables, names are those among all attacks,
    and two attacks on one network share none. Beside a mean over more seeds, a name says which seeds it has.
    """
    groups = repetitions(attacks)
    certified = [
        [one for one in group if any(is_certified(one, item) for item in certifications)] for group in groups
    ]
    homes = [{(one.run.facts["classifier"], one.epsilon) for one in group} for group in certified]
    names = distinct_titles([group[0].attack for group in groups], groups, homes)
    lines: dict[tuple[str | None, str, tuple[str, ...]], dict[float, float]] = {}
    for name, group in zip(names, certified, strict=True):
        if group:
            networks = tuple(str(one.run.facts["classifier"]) for one in group)
            points = lines.setdefault((styles.colour(group[0].run), name, networks), {})
            points[group[0].epsilon] = mean_accuracy(group)
    most: dict[tuple[str | None, str], int] = {}
    for colour, name, networks in lines:
        most[colour, name] = max(len(networks), most.get((colour, name), 0))
    named = {}
    for (colour, name, networks), points in lines.items():
        whole = len(networks) == most[colour, name]
        named[colour, name if whole else f"{name} of {_seeds(networks)}", networks] = points
    return named


def _seeds(networks: Sequence[str]) -> str:
    """The only network, or how many seeds of it there are."""
    return networks[0] if len(networks) == 1 else f"{len(networks)} seeds"


def mean_accuracy(group: Sequence[Withstood]) -> float:
    """In percent."""
    return float(np.mean([100 * item.accuracy for item in group]))


def plot_marks(axes: Axes, points: Mapping[float, float], marker: str, **look: Any) -> None:
    """Accuracies under an attack over its budgets."""
    x, y = zip(*sorted(points.items()), strict=True)
    axes.plot(x, y, marker=marker, markersize=4.5, linewidth=1, linestyle=":", **look)


def attack_curves(attacks: Sequence[Attack], styles: Styles) -> Drawing | None:
    """Share of images attacked within a distance (HeatSmoothing Figures 2, 6); each run's largest budget.

    None if there is no line; if every perturbation has the length of the budget, the table is enough.
    """
    largest: dict[str, Attack] = {}
    for attack in attacks:
        kept = largest.get(attack.run.label)
        if kept is None or (attack.epsilon or 0) >= (kept.epsilon or 0):
            largest[attack.run.label] = attack
    norm = "l2" if any(attack.norm == "l2" for attack in largest.values()) else "linf"
    curves = [attack for attack in largest.values() if attack.norm == norm and _has_curve(attack)]
    drawn, grey = styles.lines(curves)
    if not drawn:
        return None

    def draw(axes: Axes) -> None:
        reach = max((_reach(item) for line in drawn for item in line.members), default=0.0)
        grid = np.linspace(0, reach or 1.0, 400)
        for line in drawn:
            share = line.values(lambda item: statistics.attack_curve(item.distance, item.won, grid)).mean(0)
            axes.plot(grid, 100 * share, label=line.label, **(line.style or {}))
        percent_axes(axes, f"{norm} distance (pixel units)", "Images attacked (%)")

    note = (
        "Share of all images with an adversarial example within the distance; a clean mistake has distance 0."
    )
    note += left_out([line.label for line in grey])
    return Drawing("attack_curves", "Attack curves", note, draw)


def _reach(attack: Attack) -> float:
    """The largest finite distance of a success."""
    distances = attack.distance[attack.won]
    return float(distances[np.isfinite(distances)].max(initial=0.0))


def _has_curve(attack: Attack) -> bool:
    """Whether the distances of the successes differ: not all at the budget."""
    distances = attack.distance[attack.won & attack.clean]
    distances = distances[np.isfinite(distances)]
    return len(distances) > 0 and float(np.mean(distances < 0.97 * distances.max())) > 0.05
