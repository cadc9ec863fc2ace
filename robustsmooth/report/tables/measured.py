"""Tables of the smaller measurements: agreement of a pass with the vote, inference time."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd

from robustsmooth import statistics
from robustsmooth.report.comparable import repetitions
from robustsmooth.report.evaluations import Measurement
from robustsmooth.report.table import Column, Table
from robustsmooth.report.tables.common import RUN, known_facts
from robustsmooth.statistics import ABSTAIN, Method

__all__ = ["agreement_rows", "agreement_table", "inference_table", "prediction_table", "timing_table"]

MOST_PAIRS = 12


def agreement_rows(
    measurements: Iterable[Measurement], level: float = 0.95, method: Method = "clopper_pearson"
) -> Iterator[dict[str, Any]]:
    """How often one network's single pass says what a vote says: its own, or another network's.

    Over the images that the single pass has right, as in HeatSmoothing's Figure 3.
    """
    chosen = [each for each in measurements if each.kind == "agreement"]
    pairs = [(each, each) for each in chosen]
    others = [(one, other) for one in chosen for other in chosen if one is not other]
    for one, other in pairs + others[:MOST_PAIRS]:
        keys = ["idx", "sigma"]
        both = one.rows[[*keys, "label", "single"]].merge(other.rows[[*keys, "vote"]], on=keys)
        for sigma, rows in both.groupby("sigma"):
            share, count = statistics.agreement(rows["single"], rows["vote"], rows["label"])
            row: dict[str, Any] = {
                "single": one.run.label,
                "vote": other.run.label,
                "own": one is other,
                "sigma": float(sigma),
                "images": count,
                "agreement": share,
            }
            if count:
                low, high = statistics.interval(round(share * count), count, level, method)
                row |= {"agreement_low": float(low), "agreement_high": float(high)}
            yield row


def agreement_table(
    measurements: Iterable[Measurement], level: float = 0.95, method: Method = "clopper_pearson"
) -> Table:
    """Agreement of the single pass with the stochastic vote, per noise level (HeatSmoothing Figure 3a, b)."""
    columns = [
        Column("single", "Single pass of"),
        Column("vote", "Vote of"),
        Column("sigma", "σ (pixel units)", style="g"),
        Column("images", "Images", style="d"),
        Column("agreement", "Agreement (%)", "measurement", "percent", "agreement_low", "agreement_high"),
    ]
    return Table(
        "agreement",
        "Agreement of a single pass with the stochastic vote",
        columns,
        list(agreement_rows(measurements, level, method)),
        "Share of equal answers over the images that the single pass has right; an abstaining vote agrees "
        "with nothing.",
    )


def prediction_table(
    measurements: Iterable[Measurement], level: float = 0.95, method: Method = "clopper_pearson"
) -> Table:
    """Accuracy and abstention of PREDICT (SmoothAdv, Appendix C.5: over its number of votes)."""
    rows = []
    for each in (each for each in measurements if each.kind == "predict"):
        hits = int((each.rows["correct"] == 1).sum())
        low, high = statistics.interval(hits, len(each.rows), level, method)
        rows.append(
            {
                "run": each.run.label,
                **known_facts(each.run),
                "images": len(each.rows),
                "accuracy": hits / len(each.rows),
                "accuracy_low": float(low),
                "accuracy_high": float(high),
                "abstained": float((each.rows["predict"] == ABSTAIN).mean()),
                "seconds": float(each.rows["time"].mean()) if "time" in each.rows else math.nan,
            }
        )
    columns = [
        RUN,
        Column("sigma", "σ (pixel units)", style="g"),
        Column("n", "n", style="d"),
        Column("images", "Images", style="d"),
        Column("accuracy", "Accuracy (%)", "measurement", "percent", "accuracy_low", "accuracy_high", "max"),
        Column("abstained", "Abstained (%)", "measurement", "percent"),
        Column("seconds", "Seconds per image", "measurement", ".3g"),
    ]
    return Table(
        "predictions",
        "The smoothed classifier's answers (PREDICT)",
        columns,
        rows,
        "Abstentions are wrong. Without attack; an answer is the most probable class with probability 1 - α.",
    )


def timing_table(measurements: Iterable[Measurement]) -> Table:
    """Inference time of one pass against the vote (HeatSmoothing Table 2)."""
    rows = []
    for each in (each for each in measurements if each.kind == "timing"):
        single, vote = each.rows["single_seconds"].median(), each.rows["vote_seconds"].median()
        rows.append(
            {
                "run": each.run.label,
                **known_facts(each.run),
                "device": str(each.rows["device"].iloc[0]),
                "n": int(each.rows["n"].iloc[0]),
                "images": len(each.rows),
                "single_ms": 1000 * float(single),
                "vote_ms": 1000 * float(vote),
                "ratio": float(vote / single) if single else math.nan,
            }
        )
    columns = [
        RUN,
        Column("device", "Device"),
        Column("images", "Images", style="d"),
        Column("n", "Votes", style="d"),
        Column("single_ms", "Single pass (ms)", "measurement", ".3g"),
        Column("vote_ms", "Vote (ms)", "measurement", ".3g"),
        Column("ratio", "Vote / pass", "measurement", ".1f"),
    ]
    return Table(
        "timing",
        "Inference time",
        columns,
        rows,
        "Median over images, one image at a time; the quickest of several runs each.",
    )


def inference_table(measurements: Iterable[Measurement]) -> Table:
    """Accuracy of smoothed inference, mean over seeds, without noise and at the best level (CPNI Table 3)."""
    rows: list[dict[str, Any]] = []
    for members in repetitions(each for each in measurements if each.kind == "smoothed_inference"):
        for voting in sorted(members[0].rows["voting"].unique()):
            rows += _inference_rows(members, voting)
    columns = [
        RUN,
        Column("attack", "Attack"),
        Column("voting", "Voting"),
        Column("samples", "Looks M", style="d"),
        Column("sigma", "Noise σ (pixel units)", style="g"),
        Column("accuracy", "Accuracy (%)", "empirical", "percent", best="max"),
        Column("std", "± over seeds", "empirical", "percent"),
        Column("seeds", "Seeds", style="d"),
        Column("images", "Images", style="d"),
    ]
    return Table(
        "smoothed_inference",
        "Smoothed inference",
        columns,
        rows,
        "With the most looks, without injected noise and at the level with the largest accuracy. That level "
        "was chosen on these very images, which flatters it a little.",
    )


def _inference_rows(members: Sequence[Measurement], voting: str) -> Iterator[dict[str, Any]]:
    """For one rule of voting, the rows without noise and at the best level."""
    samples = int(min(each.rows["samples"].max() for each in members))
    by_seed = []
    for each in members:
        rows = each.rows[(each.rows["voting"] == voting) & (each.rows["samples"] == samples)]
        by_seed.append(rows.groupby("sigma")["correct"].mean())
    accuracy = pd.concat(by_seed, axis=1).dropna()
    if accuracy.empty:
        return
    best = float(accuracy.mean(axis=1).idxmax())
    first = members[0].run
    for sigma in sorted({0.0, best} & set(accuracy.index)):
        mean, std = statistics.mean_and_std(accuracy.loc[sigma].to_numpy())
        yield {
            **known_facts(first),
            "run": first.facts.get("classifier", first.label),
            "voting": voting,
            "samples": samples,
            "sigma": sigma,
            "accuracy": mean,
            "std": std,
            "seeds": len(members),
            "images": int(members[0].rows["idx"].nunique()),
        }
