"""Tables that compare classifiers: pairs on the same images, repetitions under several seeds."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from robustsmooth import statistics
from robustsmooth.report.comparable import (
    among,
    fair_groups,
    group_name,
    has_method,
    l2_certified,
    repetitions,
)
from robustsmooth.report.evaluations import Attack, Certification
from robustsmooth.report.pairing import corrected, difference, not_paired, pairs, per_image
from robustsmooth.report.table import Column, Table
from robustsmooth.report.tables.common import (
    BY,
    DATA,
    P_A,
    RADIUS,
    asked_radii,
    certified_cells,
    middle_tested,
    over_seeds,
    radius_columns,
    with_spread,
    without_acr,
)
from robustsmooth.statistics import SURE

SURE_DIFFERENCE = f"Difference at p_A ≥ {SURE:g} (%)"
UNKNOWN_DIFFERENCE = "p_A of one of the two is not known"


def unpaired(certifications: Iterable[Certification]) -> list[str]:
    """Messages about classifiers that are not compared in pairs."""
    certified = l2_certified(certifications)
    unknown = [item for item in certified if item.run.facts.get("data") is None]
    if len(certified) < 2 or not unknown:
        return []
    return [
        f"no paired comparison of {unknown[0].run.label}"
        + (f" and {len(unknown) - 1} others" if len(unknown) > 1 else "")
        + ": their data set is not known; give it beside the path, as in runs={path: ..., data: cifar10}"
    ]


def unknown_votes(certifications: Iterable[Certification]) -> list[str]:
    """A message about classifiers that are compared although their number of votes is not known."""
    certified = [item for item in l2_certified(certifications) if item.run.facts.get("data") is not None]
    unknown = [item for item in certified if item.run.facts.get("n") is None]
    if len(unknown) < 2:
        return []
    return [
        f"the number of votes n of {unknown[0].run.label} and {len(unknown) - 1} others is not known; they "
        "are compared as if it were the same: give it beside the path, as in runs={path: ..., n: 100000}"
    ]


def unknown_methods(evaluations: Iterable[Certification | Attack]) -> list[str]:
    """A message about foreign logs under seeds of which nothing says whether they are of one method."""
    foreign = dict.fromkeys(item.run for item in evaluations if not item.run.config)
    unknown = [run for run in foreign if run.training_seed is not None and not has_method(run)]
    if len(unknown) < 2:
        return []
    return [
        f"{unknown[0].label} and {len(unknown) - 1} others have a seed, but neither a name nor a method; "
        "they are compared as methods with the names of their files: give one of them beside the path, as in "
        "runs={path: ..., method: cohen}"
    ]


def unknown_radii(certifications: Iterable[Certification]) -> list[str]:
    """Messages about logs at given radii that do not say which ones, since no image is certified at any."""
    given = [item for item in l2_certified(certifications) if item.guarantee.at_some_radii]
    return [
        f"{item.run.label} certifies no image, and no config says which radii it tested: neither it nor a "
        "mean over its seeds has accuracies"
        for item in given
        if not asked_radii([item])
    ]


def comparison_table(
    certifications: Sequence[Certification],
    radii: Sequence[float],
    baseline: str | None = None,
    level: float = 0.95,
) -> Table:
    """One classifier against each other one, on their common images.

    Only classifiers on the same known data set, whose images agree, certified alike (`fair_groups`).
    Methods that were run under several seeds are left to `seed_comparison_table`.

    Args:
        certifications: What to compare.
        radii: Those of the certified accuracy table; McNemar's test is made at the middle one with results.
        baseline: Label, row or method of the classifier that the others are compared with; of several, the
            one at the same noise level. If None, the one with the largest ACR on the images that most
            classifiers have is compared with the others; if ``all``, each with each other one.
        level: Confidence level of the intervals.
    """
    rows: list[dict[str, Any]] = []
    for fair, members in fair_groups(
        certification for certification in certifications if certification.run.facts.get("data")
    ).items():
        groups, radius = repetitions(members), middle_tested(members, radii)
        if radius is None or any(len(group) > 1 for group in groups):
            continue
        found = (_pair(first[0], second[0], radius, level) for first, second in pairs(groups, baseline))
        rows += [{**fair.facts, "radius": radius, **row} for row in corrected([row for row in found if row])]
    columns = [
        Column("first", "First"),
        Column("second", "Second"),
        DATA,
        BY,
        Column("images", "Common images", style="d"),
        RADIUS,
        Column("only_first", "Only first at r", "certificate", "d"),
        Column("only_second", "Only second at r", "certificate", "d"),
        Column("p_value", "McNemar p", "measurement", ".2g"),
        Column("p_value_holm", "McNemar p, corrected", "measurement", ".2g"),
        Column("acr_difference", "ACR difference", "certificate", "+.3f", "acr_low", "acr_high",
               with_interval=True),
        Column("sure_difference", SURE_DIFFERENCE, "certificate", "percent", "sure_low", "sure_high",
               with_interval=True, beside="acr_difference", unknown=UNKNOWN_DIFFERENCE),
        ACR_P,
    ]  # fmt: skip
    return Table(
        "comparison", "Paired comparison on the same images", columns, rows,
        "Exact two-sided McNemar test on the images that are certified at the radius by one classifier only; "
        f"{100 * level:g} % t intervals of the mean differences over images.{chosen(baseline)} "
        f"{CORRECTED} Only classifiers certified with the same procedure, "
        "n and α on the same images are paired.",
    )  # fmt: skip


def without_baseline(certifications: Iterable[Certification], baseline: str | None) -> list[str]:
    """Messages about classifiers that are not compared, since their baseline is missing or not unique."""
    messages = []
    known = (certification for certification in certifications if certification.run.facts.get("data"))
    for fair, members in fair_groups(known).items():
        if lonely := not_paired(repetitions(members), baseline):
            where = f"{fair.data} at n={fair.n}, alpha={fair.alpha}"
            messages.append(f"not compared with {baseline!r} on {where}: {lonely}")
    return messages


def chosen(baseline: str | None) -> str:
    """A sentence about the choice of the first method of the pairs; empty if there is a baseline."""
    said = " The first was chosen for its mean radius, among those on the images that most runs have."
    return "" if baseline else said


def _pair(first: Certification, second: Certification, radius: float, level: float) -> dict[str, Any] | None:
    if np.array_equal(first.indices, second.indices):  # of thousands of logs the most
        at_first = at_second = np.arange(first.images)
    else:
        _, at_first, at_second = np.intersect1d(first.indices, second.indices, return_indices=True)
    if len(at_first) < 2:
        return None
    one, other = per_image(first, radius), per_image(second, radius)
    test = statistics.mcnemar(one.at[at_first], other.at[at_second])
    row = {
        "first": first.run.label,
        "second": second.run.label,
        "images": test.images,
        "only_first": test.only_first,
        "only_second": test.only_second,
        "p_value": test.p_value,
    }
    for name, a, b in (("acr", one.acr, other.acr), ("sure", one.sure, other.sure)):
        if a is not None and b is not None:
            found = statistics.difference_over_seeds(a[at_first], b[at_second], level)
            row |= {
                f"{name}_difference": found.mean,
                f"{name}_low": found.low,
                f"{name}_high": found.high,
                f"{name}_p": found.p_value,
            }
    return row


def seed_table(certifications: Sequence[Certification], radii: Sequence[float]) -> Table:
    """Mean and standard deviation over runs that differ only in the seed."""
    rows = []
    for fair, members in fair_groups(certifications).items():
        for group in (group for group in repetitions(members) if len(group) > 1):
            means = over_seeds([certified_cells(member, radii) for member in group])
            row = {"group": group_name(group), **fair.facts, "seeds": len(group)}
            row |= {"images": group[0].images, "among": among(group[0], fair)}
            rows += [row | means] if means else []
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
            BY,
            Column("seeds", "Seeds", style="d"),
            Column("images", "Images", style="d"),
            *with_spread(columns),
        ],
        rows,
        "The standard deviation is that of single runs, trained with different seeds."
        + without_acr(certifications),
    )


def seed_comparison_table(
    certifications: Sequence[Certification],
    radii: Sequence[float],
    baseline: str | None = None,
    level: float = 0.95,
) -> Table:
    """Differences between methods that were run under several seeds, over images and seeds.

    No rows if no method has several seeds.

    Args:
        certifications: What to compare.
        radii: Those of the certified accuracy table; accuracies are compared at the middle one with results.
        baseline: See `comparison_table`; labels are without the seed.
        level: Confidence level of the intervals.
    """
    rows: list[dict[str, Any]] = []
    known = (certification for certification in certifications if certification.run.facts.get("data"))
    for fair, members in fair_groups(known).items():
        groups, radius = repetitions(members), middle_tested(members, radii)
        if radius is None or all(len(group) == 1 for group in groups):
            continue
        values_of = partial(per_image, radius=radius)
        found = (difference(first, second, values_of, level) for first, second in pairs(groups, baseline))
        rows += [{**fair.facts, "radius": radius, **row} for row in corrected([row for row in found if row])]
    return Table(
        "seed_comparison",
        "Differences between methods, over images and seeds",
        DIFFERENCE,
        rows,
        f"Paired on the images. {OVER_SEEDS}{chosen(baseline)} {CORRECTED}",
        f"Small print: {100 * level:g} % intervals.",
    )


OVER_SEEDS = (
    "The variance adds that over images and that over each method's seeds (two-way clusters, Cameron, "
    "Gelbach and Miller 2011; conservative), with Satterthwaite's degrees of freedom."
)


CORRECTED = "Corrected p-values are those of all pairs that are compared alike, after Holm (1979)."

ACR_P = Column("acr_p_holm", "p of the ACR difference, corrected", "measurement", ".2g")


DIFFERENCE = [
    Column("first", "First"),
    Column("second", "Second"),
    *(Column(key, title, "certificate", style, f"{key}_low", f"{key}_high", with_interval=True, beside=beside,
             unknown=UNKNOWN_DIFFERENCE)
      for key, title, style, beside in (
          ("acr_difference", "ACR difference", "+.3f", ""),
          ("sure_difference", SURE_DIFFERENCE, "percent", "acr_difference"),
          ("at_difference", "Difference at r (%)", "percent", ""),
      )),
    RADIUS,
    ACR_P,
    Column("seeds", "Seeds"),
    DATA,
    BY,
    Column("images", "Common images", style="d"),
    Column("over", "Interval over"),
]  # fmt: skip
"""The columns for the rows of `difference`."""
