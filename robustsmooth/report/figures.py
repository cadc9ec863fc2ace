"""The figures of a report: PNG and PDF files, and SVG inside the page.

Colours are Okabe and Ito's, which the colour-blind tell apart (without their yellow, too pale on white);
lines differ in their dashes too. matplotlib is imported when a figure is drawn.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robustsmooth.report import statistics
from robustsmooth.report.evaluations import FIELD_GUARANTEE, Attack, Certification, Evaluations, Training
from robustsmooth.report.statistics import METHOD_TITLES, Method
from robustsmooth.report.tables import agreement_rows, by_guarantee

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["PALETTE", "Drawing", "draw_figures", "write_figures"]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MOST_LINES = 7
"""More lines than colours cannot be told apart: then the best ones are drawn, the others in grey."""

RADIUS = "l2 radius r (pixel units, images in [0, 1])"
STYLE: dict[Any, Any] = {
    "figure.figsize": (5.6, 3.9), "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.alpha": 0.25, "legend.frameon": False, "legend.fontsize": 8.5, "lines.linewidth": 1.8,
    "svg.fonttype": "none", "font.family": "sans-serif", "savefig.dpi": 160,
    "font.sans-serif": ["DejaVu Sans", "Helvetica", "Arial"],
}  # fmt: skip


@dataclass(frozen=True)
class Drawing:
    """A figure to draw.

    Attributes:
        name: File name without suffix.
        title: What it shows; its heading.
        note: How to read it.
        draw: Draws into the axes.
    """

    name: str
    title: str
    note: str
    draw: Callable[[Axes], None]

    def figure(self) -> Figure:
        """Draw it; titled, with named axes."""
        import matplotlib as mpl
        from matplotlib.figure import Figure

        with mpl.rc_context(STYLE):
            figure = Figure(layout="constrained")
            axes = figure.subplots()
            axes.set_title(self.title)
            self.draw(axes)
            handles, _ = axes.get_legend_handles_labels()
            if len(handles) > 1:
                columns = 1 if max(len(str(each.get_label())) for each in handles) > 28 else 2
                figure.legend(loc="outside lower left", ncols=columns)
                rows = math.ceil(len(handles) / columns)
                figure.set_size_inches(STYLE["figure.figsize"][0], 3.5 + 0.21 * rows)
            return figure

    def svg(self) -> str:
        """As an SVG element that scales with the page; its identifiers do not clash with other figures'."""
        import matplotlib as mpl

        figure, buffer = self.figure(), io.StringIO()
        with mpl.rc_context({**STYLE, "svg.hashsalt": self.name}):
            figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        text = buffer.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        text = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{self.name}-", text)
        text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
        text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
        return text.replace("<svg", f'<svg role="img" aria-label="{self.title}"', 1)


def write_figures(drawings: Sequence[Drawing], folder: Path, formats: Sequence[str] = ("png", "pdf")) -> None:
    """Draw the figures into files."""
    import matplotlib as mpl

    folder.mkdir(parents=True, exist_ok=True)
    for drawing in drawings:
        figure = drawing.figure()
        with mpl.rc_context(STYLE):
            for suffix in formats:
                dated: dict[str, Any] = {"metadata": {"CreationDate": None}} if suffix == "pdf" else {}
                figure.savefig(folder / f"{drawing.name}.{suffix}", **dated)


def draw_figures(
    evaluations: Evaluations, level: float = 0.95, method: Method = "clopper_pearson"
) -> list[Drawing]:
    """All figures for which there is something to show."""
    drawings = [
        certified_accuracy(members, level, method)
        for members in by_guarantee(evaluations.certifications).values()
    ]
    certified = [each for each in evaluations.certifications if each.guarantee == FIELD_GUARANTEE]
    if len({_sigma(each) for each in certified}) > 1:
        drawings += [envelope(certified), envelope_per_sigma(certified)]
    if any(each.p_a_lower is not None for each in certified):
        drawings.append(lower_bounds(certified))
    budgets = [each for each in evaluations.attacks if _is_l2(each) and _epsilon(each) is not None]
    if budgets and certified:
        drawings.append(empirical_and_certified(budgets, certified))
    if evaluations.attacks:
        drawings.append(attack_curves(evaluations.attacks))
    if evaluations.trainings and any(_progress(each) for each in evaluations.trainings):
        drawings.append(training_curves(evaluations.trainings))
    rows = list(agreement_rows(evaluations.measurements, level, method))
    if any(row["own"] for row in rows):
        drawings.append(agreement(rows, own=True))
    if any(not row["own"] for row in rows):
        drawings.append(agreement(rows, own=False))
    return drawings


def _sigma(each: Certification) -> Any:
    return each.run.facts.get("sigma")


def _is_l2(each: Attack) -> bool:
    return str(each.run.facts.get("norm", "l2")) in ("l2", "2")


def _epsilon(each: Attack) -> float | None:
    value = each.settings.get("epsilon", each.run.facts.get("epsilon"))
    return None if value is None else float(value)


def _style(position: int) -> dict[str, Any]:
    return {
        "color": PALETTE[position % len(PALETTE)],
        "linestyle": DASHES[(position // len(PALETTE) + position) % len(DASHES)],
    }


def _grid(certifications: Sequence[Certification]) -> np.ndarray:
    largest = max((float(each.counted.max()) for each in certifications), default=0.0)
    return np.linspace(0, 1.02 * largest or 1.0, 400)


def _percent_axes(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_ylim(0, 100)
    axes.set_xlim(left=0)


def _shares(each: Certification, grid: np.ndarray) -> np.ndarray:
    return 100 * statistics.certified_accuracy(each.correct, each.radius, grid)


def certified_accuracy(
    certifications: Sequence[Certification], level: float = 0.95, method: Method = "clopper_pearson"
) -> Drawing:
    """Certified accuracy against radius, with confidence bands over images; for radii of one guarantee."""
    guarantee, norm = certifications[0].guarantee, certifications[0].norm
    ranked = sorted(certifications, key=lambda each: -statistics.acr(each.correct, each.radius))

    many = len(ranked) > 50  # as a picture inside the figure, or the page gets heavy

    def draw(axes: Axes) -> None:
        grid = _grid(certifications)
        for each in ranked[MOST_LINES:]:
            axes.plot(grid, _shares(each, grid), color="0.8", linewidth=0.7, zorder=1, rasterized=many)
        for position, each in enumerate(ranked[:MOST_LINES]):
            axes.plot(grid, _shares(each, grid), label=each.run.label, **_style(position))
            counts = statistics.certified_counts(each.correct, each.radius, grid)
            low, high = statistics.interval(counts, each.images, level, method)
            color = PALETTE[position % len(PALETTE)]
            axes.fill_between(grid, 100 * low, 100 * high, color=color, alpha=0.12, linewidth=0)
        _percent_axes(axes, RADIUS.replace("l2", norm), "Certified accuracy (% of all images)")

    note = f"Bands: {100 * level:g} % {METHOD_TITLES[method]} intervals over images."
    if len(ranked) > MOST_LINES:
        note += f" The {MOST_LINES} with the largest ACR in colour, the others grey."
    if guarantee == FIELD_GUARANTEE:
        return Drawing("certified_accuracy", "Certified accuracy against radius", note, draw)
    name = f"certified_accuracy_{guarantee.replace('-', '_')}"
    return Drawing(name, f"Certified accuracy ({guarantee})", note, draw)


def _best_of(certifications: Sequence[Certification], grid: np.ndarray) -> np.ndarray:
    return statistics.envelope([_shares(each, grid) for each in certifications])


def _families(certifications: Sequence[Certification]) -> dict[str, list[Certification]]:
    families: dict[str, list[Certification]] = {}
    for each in certifications:
        families.setdefault(str(each.run.facts.get("method", "all")), []).append(each)
    return families


def envelope(certifications: Sequence[Certification]) -> Drawing:
    """The best of each method's runs at each radius (SmoothAdv Figures 1 and 2, left)."""

    def draw(axes: Axes) -> None:
        grid = _grid(certifications)
        for position, (name, members) in enumerate(_families(certifications).items()):
            axes.plot(
                grid, _best_of(members, grid), label=f"{name} ({len(members)} runs)", **_style(position)
            )
        _percent_axes(axes, RADIUS, "Certified accuracy (% of all images)")

    note = "Each point is the best of a method's runs at that radius: no single classifier has this curve."
    return Drawing("envelope", "Upper envelope over all runs", note, draw)


def envelope_per_sigma(certifications: Sequence[Certification]) -> Drawing:
    """The envelope for each noise level (SmoothAdv Figures 1 and 2, middle)."""

    def draw(axes: Axes) -> None:
        grid = _grid(certifications)
        for line, (name, members) in enumerate(_families(certifications).items()):
            for position, sigma in enumerate(sorted({_sigma(each) for each in members}, key=str)):
                chosen = [each for each in members if _sigma(each) == sigma]
                style = {**_style(position), "linestyle": DASHES[line % len(DASHES)]}
                axes.plot(
                    grid, _best_of(chosen, grid), label=f"{name} σ={sigma} ({len(chosen)} runs)", **style
                )
        _percent_axes(axes, RADIUS, "Certified accuracy (% of all images)")

    note = "The best of the runs of one noise level σ at each radius."
    return Drawing("envelope_per_sigma", "Upper envelope per noise level", note, draw)


def lower_bounds(certifications: Sequence[Certification]) -> Drawing:
    """The distribution of the lower bounds of the top class's probability."""
    known = [each for each in certifications if each.p_a_lower is not None]
    ranked = sorted(known, key=lambda each: -statistics.acr(each.correct, each.radius))[:MOST_LINES]

    def draw(axes: Axes) -> None:
        grid = np.linspace(0, 1, 400)
        for position, each in enumerate(ranked):
            bounds = np.where(each.correct, each.p_a_lower, np.nan)  # type: ignore[arg-type]
            axes.plot(
                grid, 100 * statistics.exceedance(bounds, grid), label=each.run.label, **_style(position)
            )
        axes.axvline(0.5, color="0.5", linewidth=0.8)
        _percent_axes(
            axes, "Lower bound p of the top class's probability", "Correct images with a bound ≥ p (%)"
        )
        axes.set_xlim(0, 1)

    note = (
        "Share of all images that are correct with a bound of at least p. Below 1/2 (grey) none is certified."
    )
    return Drawing("lower_bounds", "Distribution of the lower bounds", note, draw)


def empirical_and_certified(attacks: Sequence[Attack], certifications: Sequence[Certification]) -> Drawing:
    """Accuracy under attack at each budget beside certified accuracy (SmoothAdv Figure 3)."""
    under_attack = {each.run.trained for each in attacks}
    shown = [each for each in certifications if each.run.trained in under_attack][:MOST_LINES]
    colours = {each.run.trained: PALETTE[position % len(PALETTE)] for position, each in enumerate(shown)}

    def draw(axes: Axes) -> None:
        from matplotlib.lines import Line2D

        grid = _grid(shown or certifications)
        for each in shown:
            axes.plot(grid, _shares(each, grid), label=each.run.label, color=colours[each.run.trained])
        lines: dict[tuple[Any, str], list[tuple[float, float]]] = {}
        for attack in attacks:
            held = float((attack.rows["adversarial"] == attack.rows["label"]).mean())
            lines.setdefault((attack.run.trained, _attack_name(attack)), []).append(
                (_epsilon(attack) or 0, 100 * held)
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
        _percent_axes(axes, "l2 radius r, or attack budget ε (pixel units)", "Accuracy (% of all images)")

    note = "Solid: certified, a lower bound. Marks: what attacks left standing, an upper bound."
    return Drawing("empirical_certified", "Certified and empirical accuracy", note, draw)


def _attack_name(each: Attack) -> str:
    words = [str(each.run.facts.get("attack", "attack"))]
    words += [f"on {each.run.facts['target']}"] if "target" in each.run.facts else []
    words += [f"m={each.settings['num_noise']:g}"] if each.settings.get("num_noise", 1) > 1 else []
    return " ".join(words)


def attack_curves(attacks: Sequence[Attack]) -> Drawing:
    """Share of images attacked within a distance (HeatSmoothing Figures 2, 6); each run's largest budget."""
    largest: dict[str, Attack] = {}
    for each in attacks:
        kept = largest.get(each.run.label)
        if kept is None or (_epsilon(each) or 0) >= (_epsilon(kept) or 0):
            largest[each.run.label] = each
    norms = {"l2" if _is_l2(each) else "linf" for each in largest.values()}
    norm = "l2" if "l2" in norms else "linf"
    shown = [each for each in largest.values() if _is_l2(each) == (norm == "l2")][:MOST_LINES]

    def draw(axes: Axes) -> None:
        reach = max(
            (float(each.rows.loc[each.rows["success"] == 1, norm].max()) for each in shown), default=1.0
        )
        grid = np.linspace(0, reach if math.isfinite(reach) and reach > 0 else 1.0, 400)
        for position, each in enumerate(shown):
            rows = each.rows
            wrong = (rows["clean"] != rows["label"]).to_numpy()
            distance = np.where(wrong, 0.0, rows[norm].to_numpy(float))
            curve = statistics.attack_curve(distance, wrong | (rows["success"] == 1).to_numpy(), grid)
            axes.plot(grid, 100 * curve, label=each.run.label, **_style(position))
        _percent_axes(axes, f"{norm} distance (pixel units)", "Images attacked (%)")

    note = (
        "Share of all images with an adversarial example within the distance; a clean mistake has distance 0."
    )
    return Drawing("attack_curves", "Attack curves", note, draw)


def _progress(each: Training) -> str | None:
    return next((key for key in ("val/noisy_top1", "val/top1") if key in each.metrics), None)


def training_curves(trainings: Sequence[Training]) -> Drawing:
    """Validation accuracy per epoch, under noise of the training level where there is some."""
    shown = [each for each in trainings if _progress(each)][:MOST_LINES]

    def draw(axes: Axes) -> None:
        for position, each in enumerate(shown):
            values = each.metrics[_progress(each)].to_numpy(float)
            axes.plot(np.arange(1, len(values) + 1), 100 * values, label=each.run.label, **_style(position))
        _percent_axes(axes, "Epoch", "Validation accuracy under noise (%)")

    return Drawing("training", "Training", "Validation images under noise of the training level.", draw)


def agreement(rows: Sequence[Mapping[str, Any]], own: bool) -> Drawing:
    """Agreement of the single pass with its own vote (HeatSmoothing Figure 3a) or another's (Figure 3b)."""
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["own"] == own:
            name = row["single"] if own else f"pass of {row['single']}, vote of {row['vote']}"
            lines.setdefault(name, []).append(row)

    def draw(axes: Axes) -> None:
        for position, (name, points) in enumerate(list(lines.items())[:MOST_LINES]):
            points = sorted(points, key=lambda row: row["sigma"])
            sigmas, shares, lows, highs = (
                [scale * point.get(key, math.nan) for point in points]
                for key, scale in (
                    ("sigma", 1), ("agreement", 100), ("agreement_low", 100), ("agreement_high", 100),
                )
            )  # fmt: skip
            style = _style(position)
            axes.plot(sigmas, shares, label=name, marker="o", markersize=4, **style)
            axes.fill_between(sigmas, lows, highs, color=style["color"], alpha=0.12, linewidth=0)
        _percent_axes(axes, "Noise level σ of the vote (pixel units)", "Equal answers (%)")

    note = "Over the images that the single pass has right. Bands: confidence intervals over images."
    if own:
        return Drawing("agreement", "Agreement with the network's own vote", note, draw)
    return Drawing("agreement_others", "Agreement with another network's vote", note, draw)
