"""Tables that compare classifiers: pairs on the same images, repetitions under several seeds."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from robustsmooth import statistics
from robustsmooth.report.comparable import common_images, repetitions
from robustsmooth.report.evaluations import Certification
from robustsmooth.report.table import Column, Table
from robustsmooth.report.tables.certified import fair_groups
from robustsmooth.report.tables.common import DATA, P_A, radius_columns, radius_key, sure_share

__all__ = ["comparison_table", "seed_table", "unpaired"]


def unpaired(certifications: Iterable[Certification]) -> list[str]:
    """Why classifiers are not compared in pairs, in a sentence each."""
    usual = [each for each in certifications if each.guarantee.usual]
    unknown = [each for each in usual if each.run.facts.get("data") is None]
    if len(usual) < 2 or not unknown:
        return []
    return [
        f"no paired comparison of {unknown[0].run.label}"
        + (f" and {len(unknown) - 1} others" if len(unknown) > 1 else "")
        + ": their data set is not known; give it beside the path, as in runs={path: ..., data: cifar10}"
    ]


def comparison_table(certifications: Sequence[Certification], radii: Sequence[float]) -> Table:
    """The classifier with the largest ACR against each other one, on the images that both were certified on.

    Only classifiers on the same known data set, whose labels agree, with the same number of votes and level.

    Args:
        certifications: What to compare.
        radii: Those of the certified accuracy table; McNemar's test is made at the middle one.
    """
    radius = radii[len(radii) // 2] if radii else 0.0
    rows: list[dict[str, Any]] = []
    for (data, _, _), members in fair_groups(
        each for each in certifications if each.run.facts.get("data")
    ).items():
        ranked = sorted(members, key=lambda each: -each.acr)
        rows += [
            {"data_set": data, **row} for second in ranked[1:] if (row := _pair(ranked[0], second, radius))
        ]
    columns = [
        Column("first", "First"),
        Column("second", "Second"),
        DATA,
        Column("images", "Common images", style="d"),
        Column("only_first", f"Only first at r={radius:g}", "certificate", "d"),
        Column("only_second", f"Only second at r={radius:g}", "certificate", "d"),
        Column("p_value", "McNemar p", "measurement", ".2g"),
        Column("acr_difference", "ACR difference", "certificate", "+.3f", "acr_low", "acr_high"),
    ]
    return Table(
        "comparison", "Paired comparison on the same images", columns, rows,
        "Exact two-sided McNemar test on the images that are certified at the radius by one classifier only; "
        "95 % t interval of the mean difference of the radii over images. The first was chosen for its ACR "
        "and p is not corrected for the number of pairs. Only classifiers certified with the same n and α "
        "on the same images are paired.",
    )  # fmt: skip


def _pair(first: Certification, second: Certification, radius: float) -> dict[str, Any] | None:
    common = common_images(first, second)
    if common is None or len(common[0]) < 2:
        return None
    at_first, at_second = common
    test = statistics.mcnemar(
        (first.correct & (first.radius >= radius))[at_first],
        (second.correct & (second.radius >= radius))[at_second],
    )
    mean, low, high = statistics.paired_acr(first.counted[at_first], second.counted[at_second])
    return {
        "first": first.run.label,
        "second": second.run.label,
        "images": test.images,
        "only_first": test.only_first,
        "only_second": test.only_second,
        "p_value": test.p_value,
        "acr_difference": mean,
        "acr_low": low,
        "acr_high": high,
    }


def seed_table(certifications: Sequence[Certification], radii: Sequence[float]) -> Table:
    """Mean and standard deviation over seeds of runs that differ in nothing else."""
    rows = []
    for (data, n, alpha), members in fair_groups(certifications).items():
        for group in (group for group in repetitions(members) if len(group) > 1):
            row: dict[str, Any] = {
                "group": group[0].run.facts["family"],
                "data_set": data,
                "n": n,
                "alpha": alpha,
            }
            for key, values in _values(group, radii).items():
                row[key], row[f"{key}_std"] = statistics.mean_and_std(values)
            rows.append({**row, "seeds": len(group), "images": group[0].images})
    columns = [
        Column("acr", "ACR", "certificate", ".3f", best="max"),
        P_A,
        *radius_columns(radii, "certificate"),
    ]
    return Table(
        "seeds",
        "Mean ± standard deviation over seeds",
        [
            Column("group", "Runs"),
            DATA,
            Column("n", "n", style="d"),
            Column("seeds", "Seeds", style="d"),
            Column("images", "Images", style="d"),
            *(replace(column, spread=f"{column.key}_std") for column in columns),
        ],
        rows,
        "The standard deviation is that of single runs, each trained and certified under a seed of its own.",
    )


def _values(group: Sequence[Certification], radii: Sequence[float]) -> dict[str, list[float]]:
    """The numbers of each run, by the keys of their columns."""
    shares = np.array([statistics.certified_accuracy(each.correct, each.radius, radii) for each in group])
    values = {"acr": [each.acr for each in group]}
    sure = [share for each in group if (share := sure_share(each)) is not None]
    values |= {"sure": sure} if len(sure) == len(group) else {}
    return values | {radius_key(radius): shares[:, at].tolist() for at, radius in enumerate(radii)}
