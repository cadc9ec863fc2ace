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
    Line,
    Styles,
    left_out,
    percent_axes,
)
from robustsmooth.report.levels import inference_accuracy, whole_levels
from robustsmooth.report.table import file_name
from robustsmooth.report.tables.measured import pairs_left_out

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PROGRESS = "val/top1"
SHARES = ["agreement", "agreement_low", "agreement_high"]


def training_curves(trainings: Sequence[Training], styles: Styles) -> Drawing | None:
    """Validation accuracy per epoch, for training runs that have it; None if there is no line."""
    drawn, grey = styles.lines([training for training in trainings if PROGRESS in training.metrics])
    if not drawn:
        return None

    def draw(axes: Axes) -> None:
        for line in drawn:
            curves = [training.metrics[PROGRESS].to_numpy(float) for training in line.members]
            epochs = min(map(len, curves))
            mean = np.mean([values[:epochs] for values in curves], axis=0)
            axes.plot(np.arange(1, epochs + 1), 100 * mean, label=line.label, **(line.style or {}))
        percent_axes(axes, "Epoch", "Validation accuracy (%)")

    note = "On clean validation images." + _over_seeds(drawn)
    if any(len({len(training.metrics) for training in line.members}) > 1 for line in drawn):
        note += " A mean ends with the shortest of its trainings."
    note += left_out([line.label for line in grey])
    return Drawing("training", "Training", note, draw)


def agreement(
    rows: Iterable[Mapping[str, Any]], measurements: Sequence[Measurement], styles: Styles, own: bool
) -> Drawing | None:
    """Agreement of the single pass with its own vote (HeatSmoothing Figure 3a) or another's (Figure 3b).

    A line has the colour and dashes of the network of the single pass; the marker tells whose vote it is.
    None if there is no line.

    Args:
        rows: Those of the table.
        measurements: Where they come from.
        styles: Of the runs.
        own: Whether the vote is the network's own.
    """
    drawn, grey = styles.lines(measurements)
    lines = [*drawn, *grey]
    place = {member.run.label: at for at, line in enumerate(lines) for member in line.members}
    points = pd.DataFrame(
        [
            {**row, "pass": place[row["single"]], "of": place[row["vote"]]}
            for row in rows
            if row["own"] == own
        ],
        columns=["pass", "of", "sigma", "single", "vote", *SHARES],
    )
    votes = list(points["of"].unique())
    curves, missing = [], []
    for (single, vote), group in points.groupby(["pass", "of"]):
        first, second = lines[single], lines[vote]
        label = first.label if own else f"pass of {first.label}, vote of {second.label}"
        marker = 0 if own else votes.index(vote)
        pairs = len(group[["single", "vote"]].drop_duplicates())
        group = group[group.groupby("sigma")["agreement"].transform("count") == pairs]
        if first.style and marker < len(MARKERS) and len(group):
            curves.append(
                (group, {"label": label, "marker": MARKERS[marker], "markersize": 4, **first.style})
            )
        else:
            missing.append(label)
    if not curves:
        return None

    def draw(axes: Axes) -> None:
        for group, look in curves:
            shares = 100 * group.groupby("sigma")[SHARES].mean()
            axes.plot(shares.index, shares["agreement"], **look)
            if len(shares) == len(group):  # of one pair of networks, not a mean over seeds
                low, high = shares["agreement_low"], shares["agreement_high"]
                axes.fill_between(shares.index, low, high, color=look["color"], alpha=0.12, linewidth=0)
        percent_axes(axes, "Noise level σ of the vote (pixel units)", "Equal answers (%)")

    note = (
        "Over the images that the single pass classifies correctly. Bands: confidence intervals over images."
    )
    note += _over_seeds(drawn) + left_out(missing)
    if own:
        return Drawing("agreement", "Agreement with the network's own vote", note, draw)
    note += pairs_left_out(measurements)
    return Drawing("agreement_others", "Agreement with another network's vote", note, draw)


def inference_over_samples(measurement: Measurement, voting: str) -> Drawing | None:
    """Accuracy against injected noise for numbers of samples M (CPNI Figures 1, 3), one voting rule.

    None if no level of noise has all images.
    """
    rows = whole_levels(measurement)
    rows = rows[rows["voting"] == voting]
    if rows.empty:
        return None

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
) -> Drawing | None:
    """Accuracy against injected noise for the voting rules, with at most 8 samples (CPNI Figure 2).

    None if there is no line.
    """
    coloured, missing = styles.lines(measurements)
    means = [inference_accuracy(line.members).mean(axis=1) for line in coloured]
    curves = [(line, _few_samples(mean, most_samples)) for line, mean in zip(coloured, means, strict=True)]
    missing += [line for line, accuracy in curves if accuracy.empty]
    drawn = [line for line, accuracy in curves if not accuracy.empty]
    if not drawn:
        return None
    votings = sorted({voting for item in measurements for voting in item.rows["voting"].unique()})

    def draw(axes: Axes) -> None:
        for line, every in curves:
            for voting, accuracy in every.groupby("voting"):
                marker = MARKERS[votings.index(voting) % len(MARKERS)]
                how = {"label": f"{line.label}, {voting}", "markersize": 4, **(line.style or {})}
                axes.plot(accuracy.index.get_level_values("sigma"), 100 * accuracy, marker=marker, **how)
        _noise_axes(axes)

    note = f"At most {most_samples} votes per image." + _over_seeds(drawn)
    note += left_out([line.label for line in missing])
    return Drawing("inference_voting", "Voting rules over injected noise", note, draw)


def _over_seeds(lines: Sequence[Line[Any]]) -> str:
    """A sentence about lines that are means over seeds; empty if there are none."""
    return " Under several seeds: the mean." if any(len(line.members) > 1 for line in lines) else ""


def _few_samples(accuracy: pd.Series, most: int) -> pd.Series:
    """Those with the largest number of samples that is at most this."""
    counts = accuracy.index.get_level_values("samples")
    return accuracy[counts == max((count for count in counts if count <= most), default=counts.min())]


def _noise_axes(axes: Axes) -> None:
    axes.set_xlabel("Injected noise σ (pixel units)")
    axes.set_ylabel("Accuracy (% of all images)")
    axes.set_xlim(left=0)
