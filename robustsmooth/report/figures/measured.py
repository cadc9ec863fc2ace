"""Figures of training and of the smaller measurements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from robustsmooth.report.evaluations import Measurement, Training
from robustsmooth.report.figures.drawing import (
    MARKERS,
    MOST_LINES,
    Drawing,
    Styles,
    left_out,
    percent_axes,
)
from robustsmooth.report.table import file_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PROGRESS = "val/top1"
ENDS = ["agreement_low", "agreement_high"]


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


AGREEMENT = (
    "Over the images that the single pass classifies correctly. Bands: confidence intervals over images."
)


def agreement(
    rows: Iterable[Mapping[str, Any]], measurements: Sequence[Measurement], styles: Styles
) -> Drawing:
    """Agreement of the single pass with its own vote (HeatSmoothing Figure 3a); means over seeds.

    Args:
        rows: Those of the table.
        measurements: Where they come from.
        styles: Of the runs.
    """
    points = _points(row for row in rows if row["own"]).set_index(["single", "sigma"]).sort_index()
    drawn, grey = styles.lines(measurements)

    def draw(axes: Axes) -> None:
        for line in drawn:
            labels = [member.run.label for member in line.members]
            shares = 100 * points.loc[labels].groupby("sigma")[["agreement", *ENDS]].mean()
            style = line.style or {}
            axes.plot(shares.index, shares["agreement"], label=line.label, marker="o", markersize=4, **style)
            if len(labels) == 1:
                _band(axes, shares, style)
        percent_axes(axes, "Noise level σ of the vote (pixel units)", "Equal answers (%)")

    note = AGREEMENT + " Under several seeds: the mean." * any(len(line.members) > 1 for line in drawn)
    note += left_out([line.label for line in grey])
    return Drawing("agreement", "Agreement with the network's own vote", note, draw)


def agreement_with_others(
    rows: Iterable[Mapping[str, Any]], measurements: Iterable[Measurement], styles: Styles
) -> Drawing:
    """Agreement of the single pass with another network's vote (HeatSmoothing Figure 3b).

    A line has the colour and dashes of the network of the single pass; the marker tells whose vote it is.
    """
    runs = {item.run.label: item.run for item in measurements}
    points = _points(row for row in rows if not row["own"])
    votes = list(points["vote"].unique())
    pairs = {
        pair: shares.set_index("sigma") for pair, shares in points.groupby(["single", "vote"], sort=False)
    }
    names = {(single, vote): f"pass of {single}, vote of {vote}" for single, vote in pairs}
    drawn = {pair: style for pair in pairs if (style := styles.of(runs[pair[0]]))}

    def draw(axes: Axes) -> None:
        for pair, style in drawn.items():
            shares = 100 * pairs[pair][["agreement", *ENDS]].sort_index()
            marker = MARKERS[votes.index(pair[1]) % len(MARKERS)]
            axes.plot(
                shares.index, shares["agreement"], label=names[pair], marker=marker, markersize=4, **style
            )
            _band(axes, shares, style)
        percent_axes(axes, "Noise level σ of the vote (pixel units)", "Equal answers (%)")

    note = AGREEMENT + left_out([names[pair] for pair in pairs if pair not in drawn])
    return Drawing("agreement_others", "Agreement with another network's vote", note, draw)


def _points(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A table of shares; without images there is no interval."""
    return pd.DataFrame(rows, columns=["single", "vote", "sigma", "agreement", *ENDS])


def _band(axes: Axes, shares: pd.DataFrame, style: Mapping[str, Any]) -> None:
    low, high = (shares[end] for end in ENDS)
    axes.fill_between(shares.index, low, high, color=style["color"], alpha=0.12, linewidth=0)


def inference_over_samples(measurement: Measurement, voting: str) -> Drawing:
    """Accuracy against injected noise for numbers of samples M (CPNI Figures 1, 3), one voting rule."""
    rows = measurement.rows[measurement.rows["voting"] == voting]

    def draw(axes: Axes) -> None:
        from matplotlib import colormaps

        samples = sorted(rows["samples"].unique())
        shown = samples if len(samples) <= MOST_LINES else samples[:: -(-len(samples) // MOST_LINES)]
        for position, count in enumerate(shown):
            accuracy = rows[rows["samples"] == count].groupby("sigma")["correct"].mean()
            shade = colormaps["viridis"](0.9 * position / max(len(shown) - 1, 1))  # the lightest is too pale
            axes.plot(
                accuracy.index, 100 * accuracy, label=f"M={count}", marker="o", markersize=3, color=shade
            )
        _noise_axes(axes)

    name = file_name("inference_samples", measurement.run.label, voting)
    title = f"{measurement.run.label}, {voting} votes"
    return Drawing(name, title, "Each answer is the vote of M noisy copies.", draw)


def inference_over_votings(
    measurements: Sequence[Measurement], styles: Styles, most_samples: int = 8
) -> Drawing:
    """Accuracy against injected noise for the voting rules, with at most 8 samples (CPNI Figure 2)."""
    votings = sorted({voting for item in measurements for voting in item.rows["voting"].unique()})
    drawn, grey = styles.lines(measurements)

    def draw(axes: Axes) -> None:
        for line in drawn:
            rows = pd.concat([_few_samples(item.rows, most_samples) for item in line.members])
            for voting, votes in rows.groupby("voting"):
                accuracy = votes.groupby("sigma")["correct"].mean()
                marker = MARKERS[votings.index(voting) % len(MARKERS)]
                how = {"label": f"{line.label}, {voting}", "markersize": 4, **(line.style or {})}
                axes.plot(accuracy.index, 100 * accuracy, marker=marker, **how)
        _noise_axes(axes)

    note = f"At most {most_samples} votes per image." + left_out([line.label for line in grey])
    return Drawing("inference_voting", "Voting rules over injected noise", note, draw)


def _few_samples(rows: pd.DataFrame, most: int) -> pd.DataFrame:
    """The rows with the largest number of samples that is at most this."""
    counts = rows["samples"].unique()
    return rows[rows["samples"] == max((count for count in counts if count <= most), default=counts.min())]


def _noise_axes(axes: Axes) -> None:
    axes.set_xlabel("Injected noise σ (pixel units)")
    axes.set_ylabel("Accuracy (% of all images)")
    axes.set_xlim(left=0)
