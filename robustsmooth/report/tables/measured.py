"""Tables of the smaller measurements: agreement of a pass with the vote, inference time."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd

from robustsmooth import statistics
from robustsmooth.report.comparable import repetitions
from robustsmooth.report.evaluations import Measurement
from robustsmooth.report.levels import inference_accuracy, whole_levels
from robustsmooth.report.table import Column, Table
from robustsmooth.report.tables.common import DATA, RUN, known_facts
from robustsmooth.report.titles import distinct_titles
from robustsmooth.statistics import ABSTAIN, Method

MOST_PAIRS = 12


def agreement_rows(
    measurements: Iterable[Measurement], level: float = 0.95, method: Method = "clopper_pearson"
) -> Iterator[dict[str, Any]]:
    """How often a network's single pass agrees with a vote: its own, or another network's.

    Over the images that the single pass classifies correctly, as in HeatSmoothing's Figure 3. Networks that
    were run on other data are no pair.
    """
    chosen = list(measurements)
    pairs = [(item, item) for item in chosen if item.kind == "agreement"]
    for one, other in pairs + _others(chosen)[:MOST_PAIRS]:
        keys = ["idx", "sigma"]
        passes, votes = whole_levels(one)[[*keys, "label", "single"]], whole_levels(other)[[*keys, "vote"]]
        both = passes.merge(votes, on=keys)
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


def pairs_left_out(measurements: Iterable[Measurement]) -> str:
    """A sentence about the pairs of networks that `agreement_rows` leaves out; empty if it has all."""
    pairs = len(_others(measurements))
    return f" Of {pairs} pairs of networks the first {MOST_PAIRS}." if pairs > MOST_PAIRS else ""


def _others(measurements: Iterable[Measurement]) -> list[tuple[Measurement, Measurement]]:
    """The pass of a network and the vote of another one, on images of the same data."""
    chosen = [item for item in measurements if item.kind == "agreement"]
    pairs = ((one, other) for one in chosen for other in chosen if _network(one) != _network(other))
    return [(one, other) for one, other in pairs if one.image_set.data == other.image_set.data]


def _network(member: Measurement) -> str:
    return str(member.run.facts.get("classifier", member.run.label))


def agreement_table(
    measurements: Sequence[Measurement], level: float = 0.95, method: Method = "clopper_pearson"
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
        "Share of equal answers over the images that the single pass classifies correctly; an abstention of "
        f"the vote counts as disagreement.{pairs_left_out(measurements)}",
    )


def prediction_table(
    measurements: Iterable[Measurement], level: float = 0.95, method: Method = "clopper_pearson"
) -> Table:
    """Accuracy and abstention of PREDICT (SmoothAdv, Appendix C.5: over its number of votes)."""
    rows = []
    for item in (measurement for measurement in measurements if measurement.kind == "predict"):
        hits = int((item.rows["correct"] == 1).sum())
        low, high = statistics.interval(hits, len(item.rows), level, method)
        key = "accuracy" if item.attacked_with is None else "attacked"
        rows.append(
            {
                "run": item.run.label,
                **known_facts(item.run),
                "images": len(item.rows),
                "among": str(item.image_set),
                key: hits / len(item.rows),
                f"{key}_low": float(low),
                f"{key}_high": float(high),
                "abstained": float((item.rows["predict"] == ABSTAIN).mean()),
                "seconds": float(item.rows["time"].mean()) if "time" in item.rows else math.nan,
            }
        )
    columns = [
        RUN,
        Column("sigma", "σ (pixel units)", style="g"),
        Column("n", "n", style="d"),
        Column("images", "Images", style="d"),
        Column("attack", "Attack"),
        Column("epsilon", "ε (pixel units)", style="g"),
        Column("accuracy", "Accuracy (%)", "measurement", "percent", "accuracy_low", "accuracy_high", "max"),
        Column(
            "attacked", "Accuracy under attack (%)", "empirical", "percent", "attacked_low", "attacked_high"
        ),
        Column("abstained", "Abstained (%)", "measurement", "percent"),
        Column("seconds", "Seconds per image", "measurement", ".3g"),
    ]
    return Table(
        "predictions",
        "The smoothed classifier's answers (PREDICT)",
        columns,
        rows,
        "Abstentions are wrong; an answer is the most probable class with probability 1 - α. Where a budget "
        "ε is named the images were attacked, and the accuracy bounds robustness from above.",
    )


def timing_table(measurements: Iterable[Measurement]) -> Table:
    """Inference time of one pass against the vote (HeatSmoothing Table 2)."""
    rows = []
    for item in (measurement for measurement in measurements if measurement.kind == "timing"):
        single, vote = item.rows["single_seconds"].median(), item.rows["vote_seconds"].median()
        rows.append(
            {
                "run": item.run.label,
                **known_facts(item.run),
                "device": str(item.rows["device"].iloc[0]),
                "n": int(item.rows["n"].iloc[0]),
                "images": len(item.rows),
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
        "Median over images, one image at a time; the shortest of several runs.",
    )


def inference_table(measurements: Iterable[Measurement]) -> Table:
    """Accuracy of smoothed inference without and under attacks, mean over seeds (CPNI Tables 3 and 4).

    One row per network, or group of networks with several seeds, voting rule, number of votes, noise level
    and set of images. For large grids only the largest number of votes, without noise and at the best level
    of each attack.
    """
    repeated = list(
        repetitions(measurement for measurement in measurements if measurement.kind == "smoothed_inference")
    )
    names, runs = _attack_names(repeated), _row_names(repeated)
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for networks, run in runs.items():
        chosen = [
            (name, members, inference_accuracy(members))
            for name, members in zip(names, repeated, strict=True)
            if _networks(members) == networks
        ]
        wanted = _shown([accuracy for _, _, accuracy in chosen])
        for name, members, accuracy in chosen:
            for voting, samples, sigma in accuracy.index.intersection(wanted).sort_values():
                mean, std = statistics.mean_and_std(accuracy.loc[voting, samples, sigma].to_numpy())
                images = members[0].image_set
                row = rows.setdefault(
                    (networks, voting, samples, sigma, images),
                    {
                        "run": run,
                        "among": str(images),
                        "data_set": f"{images.data.name}, image set {images.at}",
                        "voting": voting,
                        "samples": int(samples),
                        "sigma": float(sigma),
                        "seeds": len(members),
                        "images": members[0].images,
                    },
                )
                row |= {f"{name} accuracy": mean, f"{name} std": std}
    columns = [
        RUN,
        DATA,
        Column("voting", "Voting"),
        Column("samples", "Votes M", style="d"),
        Column("sigma", "Noise σ (pixel units)", style="g"),
    ]
    for name in dict.fromkeys(names):
        columns.append(Column(f"{name} accuracy", f"{name} (%)", "empirical", "percent", best="max"))
        columns.append(Column(f"{name} std", "± over seeds", "empirical", "percent"))
    columns += [Column("seeds", "Seeds", style="d"), Column("images", "Images", style="d")]
    return Table(
        "smoothed_inference",
        "Smoothed inference",
        columns,
        list(rows.values()),
        "For large grids: with the most votes, without injected noise and at the level with the largest "
        "accuracy. That level was chosen on these images, which favours it slightly.",
    )


def _networks(members: Sequence[Measurement]) -> tuple[str, ...]:
    return tuple(sorted(map(_network, members)))


def _row_names(repeated: Sequence[Sequence[Measurement]]) -> dict[tuple[str, ...], str]:
    """The names of networks, or of their method; with the seeds if other seeds have rows of their own."""
    groups = {_networks(members): members for members in repeated}
    families = Counter(group[0].run.facts.get("family") for group in groups.values() if len(group) > 1)
    names = {}
    for networks, group in groups.items():
        family, seeds = group[0].run.facts.get("family"), [str(one.run.training_seed) for one in group]
        several = f"{family} seed={', '.join(seeds)}" if families[family] > 1 else str(family)
        names[networks] = several if len(group) > 1 else networks[0]
    return names


def _attack_names(repeated: Sequence[Sequence[Measurement]]) -> list[str]:
    """The attack of each, with the settings in which those of one network on the same images differ."""
    attacks = [str(members[0].run.facts.get("attack", "none")) for members in repeated]
    names = ["clean" if attack == "none" else attack for attack in attacks]
    homes = [{(_network(member), member.image_set) for member in members} for members in repeated]
    return distinct_titles(names, repeated, homes, images=False)


def _shown(frames: Sequence[pd.DataFrame]) -> pd.MultiIndex:
    """The rows to show: all of a small grid."""
    index = frames[0].index
    for frame in frames[1:]:
        index = index.union(frame.index)
    counts, levels = (index.get_level_values(name) for name in ("samples", "sigma"))
    if counts.nunique() <= 4 and levels.nunique() <= 8:
        return index
    kept = {(voting, counts.max(), 0.0) for voting in index.get_level_values("voting")}
    for frame in frames:
        most = frame[frame.index.get_level_values("samples") == counts.max()].mean(axis=1)
        kept |= set(most.groupby(level="voting").idxmax())
    return index[index.isin(list(kept))]
