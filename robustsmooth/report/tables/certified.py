"""Tables of what was proved."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from robustsmooth import statistics
from robustsmooth.report.evaluations import FIELD_GUARANTEE, Certification
from robustsmooth.report.table import Column, Table
from robustsmooth.report.tables.common import (
    RUN,
    apart_from_seed,
    by_method,
    differ_in_seed,
    known_facts,
    radius_key,
)
from robustsmooth.statistics import Method

__all__ = [
    "certified_accuracy_table",
    "comparison_table",
    "envelope_table",
    "linf_table",
    "radius_table",
    "seed_table",
]

DIMENSIONS = {
    "digits": 64, "mnist": 784, "fashion_mnist": 784, "cifar10": 3072, "cifar100": 3072,
    "imagenet": 150528, "mini_imagenet50": 150528,
}  # fmt: skip
"""Number of pixel values of an image (ImageNet's at 224 x 224), for l_inf by conversion."""


def _name(name: str, guarantee: str) -> str:
    """A file name; the usual guarantee goes without saying."""
    return name if guarantee == FIELD_GUARANTEE else f"{name}_{guarantee.replace('-', '_')}"


def _named(title: str, guarantee: str) -> str:
    return title if guarantee == FIELD_GUARANTEE else f"{title} ({guarantee})"


def certified_accuracy_table(
    certifications: Sequence[Certification],
    radii: Sequence[float],
    level: float = 0.95,
    method: Method = "clopper_pearson",
) -> Table:
    """Certified accuracy at radii, with a band over images (SmoothAdv Tables 1 and 2, SODM Tables 1-3).

    Args:
        certifications: Of one guarantee, at least one.
        radii: In pixel units.
        level: Confidence level of the intervals over images.
        method: Kind of the intervals.
    """
    kind, norm, guarantee = certifications[0].kind, certifications[0].norm, certifications[0].guarantee
    rows = []
    for each in certifications:
        row: dict[str, Any] = {"run": each.run.label, **known_facts(each.run), "images": each.images}
        counts = statistics.certified_counts(each.correct, each.radius, radii)
        lows, highs = statistics.interval(counts, each.images, level, method)
        for radius, count, low, high in zip(radii, counts, lows, highs, strict=True):
            key = radius_key(radius)
            row |= {key: count / each.images, f"{key}_low": float(low), f"{key}_high": float(high)}
        if not each.one_radius:
            row["acr"] = statistics.acr(each.correct, each.radius)
        rows.append(row)
    columns = [
        RUN,
        Column("images", "Images", style="d"),
        Column("acr", "ACR (pixel units)", kind, ".3f", best="max"),
        *(
            Column(radius_key(radius), f"r={radius:g} (%)", kind, "percent", f"{radius_key(radius)}_low",
                   f"{radius_key(radius)}_high", "max")
            for radius in radii
        ),
    ]  # fmt: skip
    return Table(
        _name("certified_accuracy", guarantee),
        _named(f"Certified accuracy at {norm} radius r", guarantee),
        columns,
        rows,
        "Share of all images that are correct with a radius of at least r, in pixel units of images in "
        f"[0, 1]; {100 * level:g} % {statistics.METHOD_TITLES[method]} interval over images. "
        "Abstentions are wrong.",
    )


def envelope_table(certifications: Sequence[Certification], radii: Sequence[float]) -> Table:
    """The best certified accuracy of each method's runs at each radius (SmoothAdv Tables 1 and 2).

    Args:
        certifications: What to compare.
        radii: In pixel units.
    """
    families = by_method(each for each in certifications if each.guarantee == FIELD_GUARANTEE)
    rows = []
    if any(len(members) > 1 for members in families.values()):
        for name, members in families.items():
            shares = [statistics.certified_accuracy(each.correct, each.radius, radii) for each in members]
            best = statistics.envelope(shares)
            keys = [radius_key(radius) for radius in radii]
            rows.append(
                {"method": name, "runs": len(members), **dict(zip(keys, map(float, best), strict=True))}
            )
    columns = [
        Column("method", "Method"),
        Column("runs", "Runs", style="d"),
        *(Column(radius_key(r), f"r={r:g} (%)", "certificate", "percent", best="max") for r in radii),
    ]
    return Table(
        "envelope", "Best certified accuracy of a method's runs at each radius", columns, rows,
        "No single classifier has these accuracies: at each radius another run may be the best. It was "
        "chosen on these very images, which flatters a method that has many runs.",
    )  # fmt: skip


def radius_table(certifications: Sequence[Certification]) -> Table:
    """ACR beside what it depends on, and median, mean and maximum radius (HeatSmoothing Table 4).

    Args:
        certifications: Of one guarantee, at least one.
    """
    kind, norm, guarantee = certifications[0].kind, certifications[0].norm, certifications[0].guarantee
    rows = []
    for each in certifications:
        median, mean, largest = statistics.radius_statistics(each.correct, each.radius)
        if each.one_radius:
            median = mean = math.nan
        facts = known_facts(each.run)
        reachable = math.nan
        if guarantee == FIELD_GUARANTEE and all(
            isinstance(facts.get(name), int | float) for name in ("sigma", "n", "alpha")
        ):
            reachable = statistics.reachable_radius(int(facts["n"]), facts["alpha"], facts["sigma"])
        rows.append(
            {
                "run": each.run.label,
                **facts,
                "images": each.images,
                "clean": float(each.correct.mean()),
                "abstained": each.abstained / each.images,
                "acr": mean,
                "median_radius": median,
                "max_radius": largest,
                "reachable_radius": reachable,
                "votes": each.votes,
                "seconds": each.seconds,
            }
        )
    columns = [
        RUN,
        Column("certificate", "Certificate"),
        Column("sigma", "σ (pixel units)", style="g"),
        Column("n", "n", style="d"),
        Column("alpha", "α", style="g"),
        Column("images", "Images", style="d"),
        Column("clean", "Accuracy at r=0 (%)", kind, "percent", best="max"),
        Column("abstained", "Abstained (%)", "measurement", "percent"),
        Column("acr", "ACR = mean radius", kind, ".3f", best="max"),
        Column("median_radius", "Median radius", kind, ".3f", best="max"),
        Column("max_radius", "Largest radius", kind, ".3f"),
        Column("reachable_radius", "Reachable with n", "fact", ".3f"),
        Column("votes", "Votes per image", "measurement", ".0f"),
        Column("seconds", "Seconds per image", "measurement", ".3g"),
    ]
    return Table(
        _name("radii", guarantee),
        _named(f"Certified {norm} radii", guarantee),
        columns,
        rows,
        "Radii in pixel units of images in [0, 1], over all images, 0 where the answer is wrong or abstains. "
        "ACR alone rewards certainty on a few easy images: read it with the curve and the distribution of "
        "the lower bounds.",
    )


def linf_table(certifications: Sequence[Certification], budgets: Sequence[int] = (1, 2)) -> Table:
    """Certified l_inf accuracy by conversion from l2 (SmoothAdv Table 3), where the images' size is known."""
    rows = []
    for each in (each for each in certifications if each.guarantee == FIELD_GUARANTEE):
        dimension = each.run.facts.get("dimension", DIMENSIONS.get(str(each.run.facts.get("data"))))
        if dimension is None:
            continue
        radii = [statistics.l2_radius(budget / 255, int(dimension)) for budget in budgets]
        shares = statistics.certified_accuracy(each.correct, each.radius, radii)
        row: dict[str, Any] = {"run": each.run.label, **known_facts(each.run), "dimension": int(dimension)}
        row |= {f"linf@{budget}/255": float(share) for budget, share in zip(budgets, shares, strict=True)}
        rows.append(row | {"clean": float(each.correct.mean())})
    columns = [
        RUN,
        Column("dimension", "Values per image", style="d"),
        *(Column(f"linf@{b}/255", f"l∞ {b}/255 (%)", "certificate", "percent", best="max") for b in budgets),
        Column("clean", "Accuracy at r=0 (%)", "certificate", "percent", best="max"),
    ]
    return Table(
        "linf", "Certified l∞ accuracy by conversion", columns, rows,
        "An l2 radius r implies an l∞ radius r/√d, with d values per image.",
    )  # fmt: skip


def comparison_table(certifications: Sequence[Certification], radii: Sequence[float]) -> Table:
    """The classifier with the largest ACR against each other one, on the images that both were certified on.

    Args:
        certifications: What to compare.
        radii: Those of the certified accuracy table; McNemar's test is made at the middle one.
    """
    radius = radii[len(radii) // 2] if radii else 0.0
    chosen = [each for each in certifications if each.guarantee == FIELD_GUARANTEE]
    chosen = sorted(chosen, key=lambda each: -statistics.acr(each.correct, each.radius))
    rows = []
    for first, second in zip(chosen[:1] * len(chosen), chosen[1:], strict=False):
        _, at_first, at_second = np.intersect1d(first.indices, second.indices, return_indices=True)
        if first.run.facts.get("data") != second.run.facts.get("data") or len(at_first) < 2:
            continue
        outcomes = [
            (each.correct & (each.radius >= radius))[at]
            for each, at in ((first, at_first), (second, at_second))
        ]
        test = statistics.mcnemar(*outcomes)
        mean, low, high = statistics.paired_acr(first.counted[at_first], second.counted[at_second])
        rows.append(
            {
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
        )
    columns = [
        Column("first", "First"),
        Column("second", "Second"),
        Column("images", "Common images", style="d"),
        Column("only_first", f"Only first at r={radius:g}", "certificate", "d"),
        Column("only_second", f"Only second at r={radius:g}", "certificate", "d"),
        Column("p_value", "McNemar p", "measurement", ".2g"),
        Column("acr_difference", "ACR difference", "certificate", "+.3f", "acr_low", "acr_high"),
    ]
    return Table(
        "comparison", "Paired comparison on the same images", columns, rows,
        "Exact two-sided McNemar test on the images that are certified at the radius by one classifier only; "
        "95 % t interval of the mean difference of the radii. The first was chosen for its ACR and p is not "
        "corrected for the number of pairs.",
    )  # fmt: skip


def seed_table(certifications: Sequence[Certification], radii: Sequence[float]) -> Table:
    """Mean and standard deviation over seeds of runs that differ in nothing else."""
    groups: dict[tuple[tuple[str, str], ...], list[Certification]] = {}
    for each in (each for each in certifications if each.guarantee == FIELD_GUARANTEE):
        groups.setdefault(apart_from_seed(each.run.facts), []).append(each)
    rows = []
    for facts, members in groups.items():
        if not differ_in_seed([each.run.facts for each in members]):
            continue
        values = {"acr": [statistics.acr(each.correct, each.radius) for each in members]}
        for radius in radii:
            shares = [
                float(statistics.certified_accuracy(each.correct, each.radius, [radius])[0])
                for each in members
            ]
            values[radius_key(radius)] = shares
        row: dict[str, Any] = {"group": " ".join(text for _, text in facts) or "all", "seeds": len(members)}
        for key, numbers in values.items():
            mean, std = statistics.mean_and_std(numbers)
            scale, digits = (1, 3) if key == "acr" else (100, 1)
            row |= {f"{key}_mean": mean, f"{key}_std": std}
            row[f"{key} mean±std"] = f"{scale * mean:.{digits}f} ± {scale * std:.{digits}f}"
        rows.append(row)
    columns = [
        Column("group", "Runs"),
        Column("seeds", "Seeds", style="d"),
        Column("acr mean±std", "ACR", "certificate"),
    ]
    columns += [Column(f"{radius_key(r)} mean±std", f"r={r:g} (%)", "certificate") for r in radii]
    return Table("seeds", "Mean ± standard deviation over seeds", columns, rows)
