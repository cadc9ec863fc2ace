"""Tables that compare classifiers: pairs on the same images, repetitions under several seeds."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustsmooth import statistics
from robustsmooth.report.comparable import (
    among,
    common_images,
    fair_groups,
    group_name,
    names_of,
    on_the_same_images,
    repetitions,
    usual,
)
from robustsmooth.report.evaluations import Certification
from robustsmooth.report.table import Column, Table
from robustsmooth.report.tables.common import (
    BY,
    DATA,
    P_A,
    over_seeds,
    radius_columns,
    radius_key,
    sure_share,
    with_spread,
)
from robustsmooth.statistics import SURE

SURE_DIFFERENCE = f"Difference at p_A ≥ {SURE:g} (%)"


def unpaired(certifications: Iterable[Certification]) -> list[str]:
    """Messages about classifiers that are not compared in pairs."""
    certified = usual(certifications)
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
    certified = [item for item in usual(certifications) if item.run.facts.get("data") is not None]
    unknown = [item for item in certified if item.run.facts.get("n") is None]
    if len(unknown) < 2:
        return []
    return [
        f"the number of votes n of {unknown[0].run.label} and {len(unknown) - 1} others is not known; they "
        "are compared as if it were the same: give it beside the path, as in runs={path: ..., n: 100000}"
    ]


def comparison_table(
    certifications: Sequence[Certification],
    radii: Sequence[float],
    baseline: str | None = None,
    level: float = 0.95,
) -> Table:
    """One classifier against each other one, on their common images.

    Only classifiers on the same known data set, whose labels agree, certified alike (`fair_groups`).
    Methods that were run under several seeds are left to `seed_comparison_table`.

    Args:
        certifications: What to compare.
        radii: Those of the certified accuracy table; McNemar's test is made at the middle one.
        baseline: Label, row or method of the classifier that the others are compared with; of several, the
            one at the same noise level. If None, the one with the largest ACR on the images that most
            classifiers have is compared with the others.
        level: Confidence level of the intervals.
    """
    radius = middle(radii)
    rows: list[dict[str, Any]] = []
    for fair, members in fair_groups(
        certification for certification in certifications if certification.run.facts.get("data")
    ).items():
        groups = repetitions(members)
        if any(len(group) > 1 for group in groups):
            continue
        for first, second in pairs(groups, baseline):
            row = _pair(first[0], second[0], radius, level)
            rows += [{**fair.facts, **row}] if row else []
    columns = [
        Column("first", "First"),
        Column("second", "Second"),
        DATA,
        BY,
        Column("images", "Common images", style="d"),
        Column("only_first", f"Only first at r={radius:g}", "certificate", "d"),
        Column("only_second", f"Only second at r={radius:g}", "certificate", "d"),
        Column("p_value", "McNemar p", "measurement", ".2g"),
        Column("acr_difference", "ACR difference", "certificate", "+.3f", "acr_low", "acr_high",
               with_interval=True),
        Column("sure_difference", SURE_DIFFERENCE, "certificate", "percent", "sure_low", "sure_high",
               with_interval=True, beside="acr_difference"),
    ]  # fmt: skip
    return Table(
        "comparison", "Paired comparison on the same images", columns, rows,
        "Exact two-sided McNemar test on the images that are certified at the radius by one classifier only; "
        f"{100 * level:g} % t intervals of the mean differences over images.{chosen(baseline)} "
        "p is not corrected for the number of pairs. Only classifiers certified with the same procedure, "
        "n and α on the same images are paired.",
    )  # fmt: skip


def pairs(
    groups: Sequence[list[Certification]],
    baseline: str | None,
    acr: Callable[[Certification], float] = lambda item: item.acr,
) -> list[tuple[list[Certification], list[Certification]]]:
    """The best method and each other one; or each other one and its baseline."""
    ranked = _ranked(groups, acr)
    if baseline is None:
        return [(ranked[0], other) for other in ranked[1:]]
    named = _named(groups, baseline)
    others = [group for group in ranked if group not in named]
    return [(other, found[0]) for other in others if len(found := _at_its_level(named, other)) == 1]


def _ranked(
    groups: Sequence[list[Certification]], acr: Callable[[Certification], float]
) -> list[list[Certification]]:
    """The largest ACR first; but runs on other images than most, such as unfinished ones, come last."""
    place = places_of_images(groups)
    return sorted(
        groups,
        key=lambda group: (place[group[0].image_set], -float(np.mean(list(map(acr, group))))),
    )


def places_of_images(groups: Sequence[list[Certification]]) -> dict[str, int]:
    """The rank of each set of images: first that of most methods."""
    sets = on_the_same_images(group[0] for group in groups)
    return {same[0].image_set: at for at, same in enumerate(sets)}


def _named(groups: Sequence[list[Certification]], baseline: str) -> list[list[Certification]]:
    """Those with this label; if there are none, those with this row or method."""
    named = [group for group in groups if baseline in names_of(group[0])]
    return [group for group in named if names_of(group[0])[0] == baseline] or named


def _at_its_level(
    named: Sequence[list[Certification]], other: list[Certification]
) -> list[list[Certification]]:
    """Of several baselines, those at the noise level of the other classifier."""
    level = other[0].run.facts.get("sigma")
    return (
        [group for group in named if group[0].run.facts.get("sigma") == level]
        if len(named) > 1
        else list(named)
    )


def without_baseline(certifications: Iterable[Certification], baseline: str) -> list[str]:
    """Messages about classifiers that are not compared, since their baseline is missing or not unique."""
    messages = []
    known = (certification for certification in certifications if certification.run.facts.get("data"))
    for fair, members in fair_groups(known).items():
        if lonely := not_paired(repetitions(members), baseline):
            where = f"{fair.data} at n={fair.n}, alpha={fair.alpha}"
            messages.append(f"not compared with {baseline!r} on {where}: {lonely}")
    return messages


def not_paired(groups: Sequence[list[Certification]], baseline: str) -> str:
    """Which methods have no baseline, or more than one, and why; empty if each has one."""
    named = _named(groups, baseline)
    lonely = [
        group_name(group) for group in groups if group not in named and len(_at_its_level(named, group)) != 1
    ]
    if not lonely:
        return ""
    names = [group_name(group) for group in named]
    reason = f"it may be {', '.join(names)}: give a label" if names else "it is not among them"
    more = f" and {len(lonely) - 6} more" if len(lonely) > 6 else ""
    return f"{', '.join(lonely[:6])}{more}; {reason}"


def chosen(baseline: str | None) -> str:
    """A sentence about the choice of the first method of the pairs; empty if there is a baseline."""
    said = " The first was chosen for its ACR, among those on the images that most runs have."
    return "" if baseline else said


def _pair(first: Certification, second: Certification, radius: float, level: float) -> dict[str, Any] | None:
    common = common_images(first, second)
    if common is None or len(common[0]) < 2:
        return None
    at_first, at_second = common
    test = statistics.mcnemar(
        (first.correct & (first.radius >= radius))[at_first],
        (second.correct & (second.radius >= radius))[at_second],
    )
    mean, low, high = statistics.paired_acr(first.counted[at_first], second.counted[at_second], level)
    row = {
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
    if first.p_a_counted is not None and second.p_a_counted is not None:
        one, other = first.p_a_counted[at_first] >= SURE, second.p_a_counted[at_second] >= SURE
        difference = statistics.paired_acr(one, other, level)
        row |= dict(zip(("sure_difference", "sure_low", "sure_high"), difference, strict=True))
    return row


def seed_table(certifications: Sequence[Certification], radii: Sequence[float]) -> Table:
    """Mean and standard deviation over runs that differ only in the seed."""
    rows = []
    for fair, members in fair_groups(certifications).items():
        for group in (group for group in repetitions(members) if len(group) > 1):
            row = {"group": group[0].run.facts["family"], **fair.facts, "seeds": len(group)}
            row |= {"images": group[0].images, "among": among(group[0], fair)}
            rows.append(row | over_seeds([_values(member, radii) for member in group]))
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
        "The standard deviation is that of single runs, trained and certified with different seeds.",
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
        radii: Those of the certified accuracy table; accuracies are compared at the middle one.
        baseline: See `comparison_table`; labels are without the seed.
        level: Confidence level of the intervals.
    """
    radius = middle(radii)
    rows: list[dict[str, Any]] = []
    known = (certification for certification in certifications if certification.run.facts.get("data"))
    for fair, members in fair_groups(known).items():
        groups = repetitions(members)
        for first, second in pairs(groups, baseline) if any(len(group) > 1 for group in groups) else ():
            row = difference(first, second, lambda item: per_image(item, radius), level)
            rows += [{**fair.facts, **row}] if row else []
    return Table(
        "seed_comparison",
        "Differences between methods, over images and seeds",
        difference_columns(radius),
        rows,
        f"Paired on the images. {OVER_SEEDS}{chosen(baseline)}",
        f"Small print: {100 * level:g} % intervals.",
    )


OVER_SEEDS = (
    "The variance adds that over images and that over each method's seeds (two-way clusters, Cameron, "
    "Gelbach and Miller 2011; conservative), with Satterthwaite's degrees of freedom."
)


def middle(radii: Sequence[float]) -> float:
    """The radius at which accuracies are compared."""
    return radii[len(radii) // 2] if radii else 0.0


def difference_columns(radius: float) -> list[Column]:
    """The columns for the rows of `difference`."""
    compared = (
        ("acr_difference", "ACR difference", "+.3f", ""),
        ("sure_difference", SURE_DIFFERENCE, "percent", "acr_difference"),
        ("at_difference", f"Difference at r={radius:g} (%)", "percent", ""),
    )
    return [
        Column("first", "First"),
        Column("second", "Second"),
        *(Column(k, title, "certificate", style, f"{k}_low", f"{k}_high", with_interval=True, beside=beside)
          for k, title, style, beside in compared),
        Column("seeds", "Seeds"),
        DATA,
        BY,
        Column("images", "Common images", style="d"),
        Column("over", "Interval over"),
    ]  # fmt: skip


class PerImage(NamedTuple):
    """The values of a run on each image whose means are compared: ``(N,)`` each.

    Attributes:
        acr: Radius times correct.
        at: Whether it is certified at a radius, or with which probability.
        sure: Whether it is correct with a lower bound of p_A of at least `SURE`; None if unknown.
    """

    acr: NDArray[Any]
    at: NDArray[Any]
    sure: NDArray[Any] | None


def per_image(item: Certification, radius: float) -> PerImage:
    """The values of a certification, as it is."""
    sure = None if item.p_a_counted is None else item.p_a_counted >= SURE
    return PerImage(item.counted, item.correct & (item.radius >= radius), sure)


def difference(
    first: Sequence[Certification],
    second: Sequence[Certification],
    values_of: Callable[[Certification], PerImage],
    level: float,
) -> dict[str, Any] | None:
    """Two methods, each a run per seed, on the images that all these runs share; None if too few."""
    every = [item.indices for item in (*first, *second)]
    found, counts = np.unique(np.concatenate(every), return_counts=True)
    shared = found[counts == len(every)]
    if len(shared) < 2:
        return None
    row = {"first": group_name(first), "second": group_name(second), "images": len(shared)}
    values = [[(values_of(item), _places(item, shared)) for item in group] for group in (first, second)]
    for name in PerImage._fields:
        both = [[(getattr(each, name), at) for each, at in group] for group in values]
        if all(each is not None for group in both for each, _ in group):
            one, other = (np.array([each[at] for each, at in group], float) for group in both)
            ends, key = statistics.difference_over_seeds(one, other, level), f"{name}_difference"
            row |= {key: ends.mean, f"{key}_low": ends.low, f"{key}_high": ends.high}
            row["over"] = "images and seeds" if ends.over_seeds else "images alone"
    return {**row, "seeds": f"{len(first)} and {len(second)}"}


def _places(certification: Certification, images: np.ndarray) -> np.ndarray:
    """The positions of these images, sorted, in a certification."""
    order = np.argsort(certification.indices)
    return order[np.searchsorted(certification.indices, images, sorter=order)]


def _values(certification: Certification, radii: Sequence[float]) -> dict[str, float | None]:
    """The numbers of a run, by the keys of their columns."""
    shares = zip(map(radius_key, radii), certification.accuracy(radii).tolist(), strict=True)
    return {"acr": float(certification.acr), "sure": sure_share(certification), **dict(shares)}
