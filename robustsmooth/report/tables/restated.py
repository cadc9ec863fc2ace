"""Certifications with different numbers of votes, made comparable."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from robustsmooth import statistics
from robustsmooth.report.comparable import fair, fair_groups, group_name, repetitions
from robustsmooth.report.evaluations import Certification
from robustsmooth.report.table import Column, Table
from robustsmooth.report.tables.common import (
    DATA,
    P_A,
    RUN,
    known_facts,
    over_seeds,
    radius_columns,
    radius_key,
    sure_share,
    with_spread,
)


def restated_table(
    certifications: Iterable[Certification], radii: Sequence[float], votes: int | None = None
) -> Table:
    """The expected result of each certification with the same, smaller number of votes.

    Args:
        certifications: Of all data sets and guarantees.
        radii: In pixel units.
        votes: The number to restate at; if None, the smallest one on the same images, if they differ.
    """
    rows: list[dict[str, Any]] = []
    left_out: list[str] = []
    for (data, alpha), members in _groups(certifications).items():
        possible = {int(member.run.facts["n"]) for member in members if _is_fixed(member)}
        if not possible or (votes is None and len({member.run.facts["n"] for member in members}) < 2):
            continue
        m = votes if votes is not None else min(possible)
        for group in repetitions(members):
            first, said = group[0], [row for member in group if (row := _row(member, m, radii))]
            if len(said) < len(group):
                left_out.append(f"{group_name(group)} (n={first.run.facts['n']})")
            else:
                facts = {"run": group_name(group), "data_set": data, "seeds": len(group)}
                facts["among"] = f"{data} {alpha} {first.image_set}"
                rows.append({**known_facts(first.run), **facts, **over_seeds(said)})
    columns = [
        RUN,
        DATA,
        Column("n", "Votes cast n", style="d"),
        Column("restated", "Restated at", style="d"),
        Column("counts", "Counts"),
        Column("images", "Images", style="d"),
        *([Column("seeds", "Seeds", style="d")] if any(row["seeds"] > 1 for row in rows) else []),
        *with_spread([Column("acr", "ACR", "certificate", ".3f", best="max"), P_A]),
        *with_spread(radius_columns(radii, "certificate")),
    ]
    note = (
        "The exact expected result of a random subset of the votes (hypergeometric); an image that abstains "
        "with all of them counts as abstaining. Counts from rounded radii are approximate."
    )
    if left_out:
        more = f" and {len(left_out) - 6} more" if len(left_out) > 6 else ""
        note += f" Not restated, for lack of votes or counts: {', '.join(left_out[:6])}{more}."
    return Table("restated", "With the same number of votes", columns, rows, note)


def _groups(certifications: Iterable[Certification]) -> dict[tuple[str, Any], list[Certification]]:
    """Certifications of the same images and level whose number of votes is known."""
    groups: dict[tuple[str, Any], list[Certification]] = {}
    for group, members in fair_groups(certifications).items():
        known = [item for item in members if isinstance(item.run.facts.get("sigma"), int | float)]
        if known and isinstance(group.n, int | float) and isinstance(group.alpha, int | float):
            groups.setdefault((group.data, group.alpha), []).extend(known)
    return groups


def _is_fixed(certification: Certification) -> bool:
    """Whether every image got the same number of votes and the plain bound, which can be restated."""
    return fair(certification, "").procedure == "Cohen"


def _row(certification: Certification, m: int, radii: Sequence[float]) -> dict[str, Any] | None:
    """The numbers at m votes; None if they cannot be known."""
    facts, keys = certification.run.facts, [radius_key(radius) for radius in radii]
    n = int(facts["n"])
    if not _is_fixed(certification):
        return None
    if n == m:
        shares = certification.accuracy(radii)
        cells = {
            "acr": certification.acr,
            "sure": sure_share(certification),
            **dict(zip(keys, map(float, shares), strict=True)),
        }
        return {"restated": m, "counts": "as certified", "images": certification.images, **cells}
    bounds = certification.p_a_counted
    if m > n or bounds is None or np.isnan(bounds[certification.correct]).any() or not 0 < facts["alpha"] < 1:
        return None
    counts = statistics.successes_of(np.nan_to_num(bounds), n, facts["alpha"])
    said = statistics.restate(counts, n, m, facts["alpha"], facts["sigma"], radii, statistics.SURE)
    right = certification.correct.astype(float)
    shares = (said.certified * right).mean(axis=1)
    return {
        "restated": m,
        "counts": "exact" if certification.exact_bounds else "from rounded radii",
        "images": certification.images,
        "acr": float((said.radius * right).mean()),
        "sure": float((said.sure * right).mean()),
        **dict(zip(keys, map(float, shares), strict=True)),
    }
