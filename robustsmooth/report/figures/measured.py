"""Figures of training and of the smaller measurements."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from robustsmooth.report.evaluations import Measurement, Training
from robustsmooth.report.figures.drawing import (
    DASHES,
    MARKERS,
    MOST_LINES,
    Drawing,
    Styles,
    left_out,
    line_style,
    percent_axes,
)
from robustsmooth.report.table import file_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PROGRESS = "val/top1"


def training_curves(trainings: Sequence[Training], styles: Styles) -> Drawing:
    """Validation accuracy per epoch; for training runs that have it."""
    drawn, grey = styles.lines(trainings)

    def draw(axes: Axes) -> None:
        for line in drawn:
            curves = [training.metrics[PROGRESS].to_numpy(float) for training in line.members]
            epochs = min(map(len, curves))
            mean = np.mean([values[:epochs] for values in curves], axis=0)
            axes.plot(np.arange(1, epochs + 1), 100 * mean, label=line.label, **(line.style or {}))
        percent_axes(axes, "Epoch", "Validation accuracy (%)")

    missing = left_out([line.label for line in grey])
    return Drawing("training", "Training", "On clean validation images." + missing, draw)


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
            style = line_style(position)
            axes.plot(sigmas, shares, label=name, marker="o", markersize=4, **style)
            axes.fill_between(sigmas, lows, highs, color=style["color"], alpha=0.12, linewidth=0)
        percent_axes(axes, "Noise level σ of the vote (pixel units)", "Equal answers (%)")

    note = (
        "Over the images that the single pass classifies correctly. Bands: confidence intervals over images."
    )
    note += left_out(list(lines)[MOST_LINES:])
    if own:
        return Drawing("agreement", "Agreement with the network's own vote", note, draw)
    return Drawing("agreement_others", "Agreement with another network's vote", note, draw)


def inference_over_samples(measurement: Measurement, voting: str) -> Drawing:
    """Accuracy against injected noise for numbers of samples M (CPNI Figures 1, 3), one voting rule."""
    rows = measurement.rows[measurement.rows["voting"] == voting]

    def draw(axes: Axes) -> None:
        samples = sorted(rows["samples"].unique())
        shown = samples if len(samples) <= MOST_LINES else samples[:: -(-len(samples) // MOST_LINES)]
        for position, count in enumerate(shown):
            accuracy = rows[rows["samples"] == count].groupby("sigma")["correct"].mean()
            style = line_style(position)
            axes.plot(accuracy.index, 100 * accuracy, label=f"M={count}", marker="o", markersize=3, **style)
        _noise_axes(axes)

    name = file_name("inference_samples", measurement.run.label, voting)
    title = f"{measurement.run.label}, {voting} votes"
    return Drawing(name, title, "Each answer is the vote of M noisy copies.", draw)


def inference_over_votings(measurements: Sequence[Measurement], most_samples: int = 8) -> Drawing:
    """Accuracy against injected noise for the voting rules, with at most 8 samples (CPNI Figure 2)."""

    def draw(axes: Axes) -> None:
        position = 0
        for measurement in measurements:
            few = [count for count in measurement.rows["samples"].unique() if count <= most_samples]
            rows = measurement.rows[
                measurement.rows["samples"] == max(few, default=measurement.rows["samples"].min())
            ]
            for voting, votes in rows.groupby("voting"):
                if position < len(MARKERS) * len(DASHES):
                    accuracy = votes.groupby("sigma")["correct"].mean()
                    label = f"{measurement.run.label}, {voting}"
                    marker = MARKERS[position % len(MARKERS)]
                    style = line_style(position)
                    axes.plot(
                        accuracy.index, 100 * accuracy, label=label, marker=marker, markersize=3, **style
                    )
                    position += 1
        _noise_axes(axes)

    title = "Voting rules over injected noise"
    return Drawing("inference_voting", title, f"At most {most_samples} votes per image.", draw)


def _noise_axes(axes: Axes) -> None:
    axes.set_xlabel("Injected noise σ (pixel units)")
    axes.set_ylabel("Accuracy (% of all images)")
    axes.set_xlim(left=0)
