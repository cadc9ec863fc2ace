"""Tables of certificates."""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from robustsmooth import statistics
from robustsmooth.report.comparable import (
    Fair,
    among,
    by_method,
    fair,
    fair_groups,
    group_name,
    on_the_same_images,
    repetitions,
    usual,
)
from robustsmooth.report.evaluations import Certification
from robustsmooth.report.table import Column, Table, file_name
from robustsmooth.report.tables.common import (
    BY,
    DATA,
    IMAGES,
    P_A,
    RADIUS,
    RUN,
    certified_rows,
    radius_columns,
    radius_key,
    sure_share,
    tested,
    tested_or_own,
    was_tested,
)
from robustsmooth.statistics import Guarantee, Method

UNCERTIFIED = {"assumption": "under an assumption", "estimate": "estimated"}
"""The words for "certified" in titles, for other guarantees."""

DIMENSIONS = {
    "digits": 64, "mnist": 784, "fashion_mnist": 784, "cifar10": 3072, "cifar100": 3072,
    "imagenet": 150528, "imagenet32": 3072, "mini_imagenet50": 150528,
}  # fmt: skip
"""Number of pixel values of an image (ImageNet's at 224 x 224), for linf by conversion."""


def _name(name: str, guarantee: Guarantee) -> str:
    """A file name; the usual guarantee is not named."""
    return file_name(name, "" if guarantee.usual else str(guarantee))


@lru_cache(maxsize=100_000)
def _ends(hits: int, images: int, level: float, method: Method) -> tuple[float, float]:
    """The interval of a share; cached, since a report on many logs needs the same ones repeatedly."""
    low, high = statistics.interval(hits, images, level, method)
    return float(low), float(high)


def _accuracy(guarantee: Guarantee) -> str:
    """The name of a share of images with a radius: certified only if the radii are certified."""
    if guarantee.caveat:
        return f"Accuracy at {guarantee.norm} radius r, {UNCERTIFIED[guarantee.kind]} ({guarantee})"
    return f"Certified accuracy at {guarantee.norm} radius r" + ("" if guarantee.usual else f" ({guarantee})")


def _with_caveat(note: str, guarantee: Guarantee) -> str:
    return f"{note} {guarantee.caveat}".strip()


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
    guarantee = certifications[0].guarantee
    kind = guarantee.kind

    def row(certification: Certification) -> dict[str, Any]:
        cells: dict[str, Any] = {
            "images": certification.images,
            "acr": certification.acr,
            "sure": sure_share(certification),
        }
        counts = statistics.certified_counts(certification.correct, certification.radius, radii)
        for radius, count in zip(radii, counts.tolist(), strict=True):
            if was_tested(certification, radius):
                key, (low, high) = radius_key(radius), _ends(count, certification.images, level, method)
                cells |= {key: count / certification.images, f"{key}_low": low, f"{key}_high": high}
        return cells

    columns = [
        RUN,
        DATA,
        Column("images", "Images", style="d"),
        Column("acr", "ACR (pixel units)", kind, ".3f", best="max"),
        P_A,
        *radius_columns(radii, kind, interval=True),
    ]
    note = (
        "Share of all images that are correct with a radius of at least r, in pixel units of images in "
        "[0, 1]. Abstentions are wrong. p_A: lower bound of the top class's probability."
    )
    return Table(
        _name("certified_accuracy", guarantee),
        _accuracy(guarantee),
        columns,
        certified_rows(certifications, row),
        _with_caveat(note, guarantee),
        f"Small print: {100 * level:g} % {statistics.METHOD_TITLES[method]} intervals over images.",
    )


def envelope_table(certifications: Sequence[Certification], radii: Sequence[float]) -> Table:
    """The best certified accuracy of each method's runs at each radius (SmoothAdv Tables 1 and 2).

    Only comparable runs share a row: those of one of the `fair_groups`, on the same images.

    Args:
        certifications: What to compare.
        radii: In pixel units.
    """
    rows: list[dict[str, Any]] = []
    several = False
    for group, members in _comparable(certifications):
        for name, runs in by_method(members).items():
            groups, at = repetitions(runs), tested(runs, radii)
            if not at:
                continue
            best = map(float, statistics.envelope([_mean_accuracy(group, at) for group in groups]))
            cells = dict(zip(map(radius_key, at), best, strict=True))
            facts = {**group.facts, "images": runs[0].images, "among": among(runs[0], group)}
            rows.append({"method": name, **facts, "runs": len(groups), **cells})
            several |= len(groups) > 1
    columns = [
        Column("method", "Method"),
        DATA,
        Column("n", "n", style="d"),
        Column("alpha", "α", style="g"),
        BY,
        IMAGES,
        Column("runs", "Runs", style="d"),
        *radius_columns(radii, "certificate"),
    ]
    return Table(
        "envelope", "Best certified accuracy of a method's runs at each radius", columns,
        rows if several else [],
        "No single classifier has these accuracies: at each radius another run may be the best. It was "
        f"chosen on these images, which favours a method with many runs. {_SEEDS}",
    )  # fmt: skip


_SEEDS = "Runs that differ only in the seed count as one, with their mean."


def _mean_accuracy(group: Sequence[Certification], radii: Sequence[float]) -> np.ndarray:
    """Certified accuracy, the mean over runs that differ only in the seed."""
    return np.mean([member.accuracy(radii) for member in group], axis=0)


def _comparable(certifications: Sequence[Certification]) -> Iterator[tuple[Fair, list[Certification]]]:
    """The `fair_groups`, each image set for itself."""
    for group, members in fair_groups(certifications).items():
        for same in on_the_same_images(members):
            yield group, same


def best_table(certifications: Sequence[Certification], radii: Sequence[float]) -> Table:
    """The run with the largest certified accuracy at each radius.

    Args:
        certifications: What to compare.
        radii: In pixel units.
    """
    rows = []
    for group, members in _comparable(certifications):
        runs, known = repetitions(members), tested_or_own(members, radii)
        shares = np.array([_mean_accuracy(run, known) for run in runs])
        means = [float(np.mean([member.counted.mean() for member in run])) for run in runs]
        for at, radius in enumerate(known if len(runs) > 2 else ()):
            if (largest := shares[:, at].max()) > 0:
                equal = np.flatnonzero(np.isclose(shares[:, at], largest, rtol=0)).tolist()
                first = max(equal, key=means.__getitem__)
                best, more = runs[first], f" and {len(equal) - 1} more" if len(equal) > 1 else ""
                sure = [sure_share(member) for member in best]
                rows.append(
                    {
                        "radius": radius,
                        "run": f"{group_name(best)}{more}",
                        "accuracy": float(largest),
                        "acr": float(np.mean([member.acr for member in best])),
                        "sure": None if None in sure else float(np.mean(np.array(sure, float))),
                        "runs": len(runs),
                        "images": best[0].images,
                        **group.facts,
                    }
                )
    columns = [
        RADIUS,
        DATA,
        Column("n", "n", style="d"),
        Column("alpha", "α", style="g"),
        BY,
        IMAGES,
        Column("run", "Best run"),
        Column("accuracy", "Accuracy at r (%)", "certificate", "percent"),
        Column("acr", "Its ACR", "certificate", ".3f"),
        P_A,
        Column("runs", "Runs compared", style="d"),
    ]
    return Table(
        "best", "The best run at each radius", columns, rows,
        "Chosen on these very images, which flatters the best of many runs. Of several equal ones that with "
        f"the largest ACR is named. {_SEEDS} p_A: lower bound of the top class's probability.",
    )  # fmt: skip


def radius_table(certifications: Sequence[Certification]) -> Table:
    """ACR with what it depends on, and median, mean and maximum radius (HeatSmoothing Table 4).

    Args:
        certifications: Of one guarantee, at least one.
    """
    guarantee = certifications[0].guarantee
    kind = guarantee.kind

    def row(certification: Certification) -> dict[str, Any]:
        radii = statistics.radius_statistics(certification.correct, certification.radius)
        return {
            "images": certification.images,
            "clean": math.nan if guarantee.at_some_radii else float(certification.correct.mean()),
            "abstained": certification.abstained / certification.images,
            "acr": certification.acr,
            "sure": sure_share(certification),
            "median_radius": math.nan if guarantee.at_some_radii else radii.median,
            "max_radius": radii.largest,
            "reachable_radius": _reachable(certification),
            "votes": certification.votes,
            "seconds": certification.seconds,
        }

    columns = [
        RUN,
        DATA,
        Column("certificate", "Certificate"),
        Column("sigma", "σ (pixel units)", style="g"),
        Column("n", "n", style="d"),
        Column("alpha", "α", style="g"),
        Column("images", "Images", style="d"),
        Column("clean", "Accuracy at r=0 (%)", kind, "percent", best="max"),
        Column("abstained", "Abstained (%)", "measurement", "percent"),
        Column("acr", "ACR = mean radius", kind, ".3f", best="max"),
        P_A,
        Column("median_radius", "Median radius", kind, ".3f", best="max"),
        Column("max_radius", "Largest radius", kind, ".3f"),
        Column("reachable_radius", "Largest possible with n", "fact", ".3f"),
        Column("votes", "Votes per image", "measurement", ".0f"),
        Column("seconds", "Seconds per image", "measurement", ".3g"),
    ]
    title = f"Certified {guarantee.norm} radii"
    if guarantee.caveat:
        title = f"Radii, {UNCERTIFIED[guarantee.kind]}"
    return Table(
        _name("radii", guarantee),
        title if guarantee.usual else f"{title} ({guarantee})",
        columns,
        certified_rows(certifications, row),
        _with_caveat(
            "Radii in pixel units of images in [0, 1], over all images, 0 where the answer is wrong "
            "or abstains. ACR, the average certified radius, rewards certainty on a few easy images: read it "
            "with the curve and the distribution of p_A, the lower bound of the top class's probability.",
            guarantee,
        ),
    )


def without_bounds(certifications: Sequence[Certification]) -> list[str]:
    """A message about certifications whose ACR cannot be read with p_A."""
    lacking = [item.run.label for item in usual(certifications) if item.p_a_lower is None]
    more = f" and {len(lacking) - 1} others" if len(lacking) > 1 else ""
    return [
        f"p_A of {lacking[0]}{more} is not known, without which an ACR says little: the log has no "
        "bounds, and sigma is not known; give it beside the path, as in runs={path: ..., sigma: 0.25}"
    ] if lacking else []  # fmt: skip


def _reachable(certification: Certification) -> float:
    """The largest radius that unanimous votes certify: as the run stated it, or for the plain bound."""
    said = certification.run.summary.get("largest_radius")
    if not certification.guarantee.usual:
        return math.nan
    if isinstance(said, int | float):
        return float(said)
    facts = {name: certification.run.facts.get(name) for name in ("sigma", "n", "alpha")}
    numbers = [float(value) for value in facts.values() if isinstance(value, int | float)]
    if len(numbers) < len(facts) or fair(certification, "").procedure != "Cohen":
        return math.nan
    sigma, n, alpha = numbers
    return statistics.reachable_radius(int(n), alpha, sigma) if n >= 1 and 0 < alpha < 1 else math.nan


def linf_table(certifications: Sequence[Certification], budgets: Sequence[int] = (1, 2)) -> Table:
    """Certified linf accuracy by conversion from l2 (SmoothAdv Table 3), if the images' size is known."""

    def dimension(certification: Certification) -> Any:
        return certification.run.facts.get(
            "dimension", DIMENSIONS.get(str(certification.run.facts.get("data")))
        )

    def row(certification: Certification) -> dict[str, Any]:
        radii = [statistics.l2_radius(budget / 255, int(dimension(certification))) for budget in budgets]
        shares = certification.accuracy(radii)
        cells = {f"linf@{budget}/255": float(share) for budget, share in zip(budgets, shares, strict=True)}
        return {
            "dimension": int(dimension(certification)),
            **cells,
            "clean": float(certification.correct.mean()),
        }

    columns = [
        RUN,
        DATA,
        Column("dimension", "Values per image", style="d"),
        *(Column(f"linf@{b}/255", f"l∞ {b}/255 (%)", "certificate", "percent", best="max") for b in budgets),
        Column("clean", "Accuracy at r=0 (%)", "certificate", "percent", best="max"),
    ]
    known = [item for item in usual(certifications) if dimension(item) is not None]
    return Table(
        "linf", "Certified l∞ accuracy by conversion", columns, certified_rows(known, row),
        "An l2 radius r implies an l∞ radius r/√d, with d values per image.",
    )  # fmt: skip
