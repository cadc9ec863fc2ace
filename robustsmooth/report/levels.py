"""The levels of noise of the smaller measurements, which are used only with all images of the log."""

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from robustsmooth.report.comparable import repetitions
from robustsmooth.report.evaluations import Measurement

OVER_LEVELS = ("agreement", "smoothed_inference")
"""Measurements at several levels; their results may be averaged over seeds."""


def whole_levels(member: Measurement) -> pd.DataFrame:
    """The rows at those settings of votes and noise that have all images: of others the images differ."""
    return member.rows[_by_setting(member)["idx"].transform("nunique") == member.images]


def inference_accuracy(members: Sequence[Measurement]) -> pd.DataFrame:
    """Accuracies by (voting, votes, level), one column per seed, if all seeds have them for all images."""
    by_seed = [
        whole_levels(member).groupby(["voting", "samples", "sigma"])["correct"].mean() for member in members
    ]
    return pd.concat(by_seed, axis=1).dropna()


def unfinished(measurements: Iterable[Measurement]) -> list[str]:
    """Messages about measurements that lack images at some levels, which are left out."""
    lacking = [
        (item, _by_setting(item)["idx"].nunique() < item.images)
        for item in measurements
        if item.kind in OVER_LEVELS
    ]
    return [
        f"{item.run.path}: {item.kind.replace('_', ' ')} has not all images at {int(some.sum())} of "
        f"{len(some)} settings of votes and noise, which are left out; start its command again to finish it"
        for item, some in lacking
        if some.any()
    ]


def levels_of_some(measurements: Iterable[Measurement]) -> list[str]:
    """Messages about settings of votes and noise that not all seeds have, at which there is no mean."""
    messages = []
    for group in repetitions(measurements):
        known = [{*_by_setting(item).size().index} for item in group]
        every = set.union(*known)
        if some := every - set.intersection(*known):
            messages.append(
                f"no mean over all seeds of {group[0].run.facts['family']} at {len(some)} of {len(every)} "
                "settings of votes and noise, which some of the seeds lack"
            )
    return messages


def _by_setting(member: Measurement) -> Any:
    return member.rows.groupby([key for key in ("voting", "samples", "sigma") if key in member.rows])
