"""Certifications with different numbers of votes, made comparable."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustsmooth import statistics
from robustsmooth.report.comparable import (
    fair,
    fair_groups,
    group_name,
    line_name,
    of_one_method,
    on_the_same_images,
    repetitions,
    smoothed_classifier,
)
from robustsmooth.report.evaluations import Certification
from robustsmooth.report.pairing import (
    PerImage,
    corrected,
    difference,
    named,
    not_paired,
    pairs,
    per_image,
    places_of_images,
)
from robustsmooth.report.table import Column, Table
from robustsmooth.report.tables.common import (
    DATA,
    P_A,
    RUN,
    few,
    known_facts,
    middle,
    over_seeds,
    radius_columns,
    radius_key,
    with_spread,
)
from robustsmooth.report.tables.compared import CORRECTED, DIFFERENCE, OVER_SEEDS, chosen
from robustsmooth.statistics import SURE


class _Restated(NamedTuple):
    """A certification with another number of votes, and whether its counts are exact."""

    counts: str
    acr: float
    per_image: PerImage
    shares: NDArray[np.float64]

    def cells(self, radii: Sequence[float]) -> dict[str, Any]:
        """Its numbers, for a row of the table."""
        sure = self.per_image.sure
        known = {"counts": self.counts, "acr": self.acr, "sure": None if sure is None else float(sure.mean())}
        return {**known, **dict(zip(map(radius_key, radii), self.shares.tolist(), strict=True))}


def restated_tables(
    certifications: Iterable[Certification],
    radii: Sequence[float],
    votes: int | None = None,
    baseline: str | None = None,
    level: float = 0.95,
) -> tuple[Table, Table]:
    """The expected result of each certification with the same, smaller number of votes, and the differences.

    Args:
        certifications: Of all data sets and guarantees.
        radii: In pixel units; accuracies are compared at the middle one.
        votes: The number to restate at; if None, the smallest one on the images that most certifications
            have, if any certification has more.
        baseline: See `comparison_table`; the best is the one with the largest restated ACR.
        level: Confidence level of the intervals.
    """
    rows: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    left_out: list[str] = []
    lonely: list[str] = []
    radius = middle(radii)
    for (data, alpha), members in _groups(certifications).items():
        by_images = on_the_same_images(filter(_is_fixed, members))
        known_votes = [{int(item.run.facts["n"]) for item in same} for same in by_images]
        if not known_votes:
            continue
        m = votes if votes is not None else min(known_votes[0])
        if votes is None and m == max(set.union(*known_votes)):
            continue
        said = {item: found for item in members if (found := _at(item, m, radii, radius))}
        groups = repetitions(members)
        known = [group for group in groups if all(item in said for item in group)]
        left_out += [_with_votes(one) for one in groups if one not in known]
        known = repetitions((item for group in known for item in group), votes=False)
        for group in known:
            facts = {"run": group_name(group), "data_set": data, "seeds": len(group), "restated": m}
            facts |= {"images": group[0].images, "among": f"{data} {alpha} {group[0].image_set}"}
            cells = over_seeds([said[item].cells(radii) for item in group])
            rows.append({**known_facts(group[0].run), **facts, **cells, **_cast(group, said)})
        compared = _once_each([group for group in known if group[0].run.facts.get("data")], baseline)
        paired = corrected(list(_differences(compared, said, baseline, level)))
        differences += [{"data_set": data, "restated": m, "radius": radius, **row} for row in paired]
        if names := not_paired(compared, baseline):
            lonely.append(f" Not compared with {baseline!r} on {data} at α={alpha:g}: {names}.")
    columns = [
        RUN,
        DATA,
        Column("n", "Votes cast n", style="d"),
        Column("restated", "Restated at", style="d"),
        Column("counts", "Counts"),
        Column("images", "Images", style="d"),
        *([Column("seeds", "Seeds", style="d")] if any(row["seeds"] > 1 for row in rows) else []),
        *with_spread([Column("acr", "ACR", "certificate", ".3f", best="max"), P_A]),
        *with_spread(
            replace(column, only_files=radius not in few(radii))
            for radius, column in zip(radii, radius_columns(radii, "certificate"), strict=True)
        ),
    ]
    note = (
        "The exact expected result of a random subset of the votes (hypergeometric); an image that abstains "
        "with all of them counts as abstaining. Counts from rounded radii are approximate. The CSV file has "
        "every radius."
    )
    if left_out:
        more = f" and {len(left_out) - 6} more" if len(left_out) > 6 else ""
        note += f" Not restated, for lack of votes or counts: {', '.join(left_out[:6])}{more}."
    restated = Table("restated", "With the same number of votes", columns, rows, note + "".join(lonely))
    comparison = Table(
        "restated_comparison",
        "Differences with the same number of votes",
        [*DIFFERENCE, Column("restated", "Restated at", style="d")],
        differences,
        f"Of the restated results, paired on the images.{chosen(baseline)} {OVER_SEEDS} {CORRECTED}",
        f"Small print: {100 * level:g} % intervals.",
    )
    return restated, comparison


def too_few_votes(certifications: Iterable[Certification]) -> list[str]:
    """Messages about methods that are compared with nothing, since they have too few votes to be restated."""
    messages = []
    for members in _groups(certifications).values():
        fixed = [item for item in members if _is_fixed(item) and item.run.facts.get("data")]
        most = on_the_same_images(fixed)[0] if fixed else []
        least = min((item.run.facts["n"] for item in most), default=0)
        groups = repetitions(fixed)
        restated = {smoothed_classifier(item.run) for item in fixed if item.run.facts["n"] >= least}
        for group in groups:
            n = group[0].run.facts["n"]
            if n >= least or not restated.isdisjoint(smoothed_classifier(item.run) for item in group):
                continue
            alike = (other for other in groups if other[0].run.facts["n"] == n)
            more = (other for other in groups if other[0].run.facts["n"] > n)
            if all(of_one_method(group, other) for other in alike) and any(
                _may_be_paired(group, other) for other in more
            ):
                messages.append(
                    f"{_with_votes(group)} is compared with nothing, since the others have at least "
                    f"n={int(least)} votes: restate them with report.restate={int(n)}"
                )
    return messages


def _may_be_paired(first: Sequence[Certification], second: Sequence[Certification]) -> bool:
    """Whether two methods share images, at one number of votes."""
    shared = np.isin(first[0].indices, second[0].indices).sum()
    return shared > 1 and not of_one_method(first, second, votes=False)


def _cast(group: Sequence[Certification], said: Mapping[Certification, _Restated]) -> dict[str, Any]:
    """The numbers of votes of the runs of one method, and how their counts are known."""
    votes = list(dict.fromkeys(item.run.facts["n"] for item in group))
    counts = ", ".join(dict.fromkeys(said[item].counts for item in group))
    return {"n": votes[0] if len(votes) == 1 else ", ".join(str(int(n)) for n in votes), "counts": counts}


def _with_votes(group: Sequence[Certification]) -> str:
    """The name of a method, with its number of votes once, and whether it was certified at given radii."""
    name, votes = line_name(group), f"n={group[0].run.facts['n']}"
    return name if votes in name.split() else f"{name} ({votes})"


def _groups(certifications: Iterable[Certification]) -> dict[tuple[str, Any], list[Certification]]:
    """Certifications of the same images and level whose number of votes is known."""
    groups: dict[tuple[str, Any], list[Certification]] = {}
    for group, members in fair_groups(certifications).items():
        known = [item for item in members if isinstance(item.run.facts.get("sigma"), int | float)]
        if known and isinstance(group.n, int | float) and isinstance(group.alpha, int | float):
            groups.setdefault((group.data, group.alpha), []).extend(known)
    return groups


def _once_each(groups: Sequence[list[Certification]], baseline: str | None) -> list[list[Certification]]:
    """One certification of each smoothed classifier: none is compared with itself.

    The baseline, or that on the images of most methods, under the most seeds, with the most votes.
    """
    place, given = places_of_images(groups), named(groups, baseline)
    kept: list[list[Certification]] = []
    taken: set[tuple[str, Any, str]] = set()

    def rank(group: list[Certification]) -> tuple[bool, int, int, int]:
        return group not in given, place[group[0].image_set], -len(group), -group[0].run.facts["n"]

    for group in sorted(groups, key=rank):
        classifiers = {smoothed_classifier(item.run) for item in group}
        if not classifiers & taken:
            kept.append(group)
            taken |= classifiers
    return kept


def _differences(
    groups: Sequence[list[Certification]],
    said: Mapping[Certification, _Restated],
    baseline: str | None,
    level: float,
) -> Iterator[dict[str, Any]]:
    """The methods in pairs; at one number of votes, another one makes no other method."""
    for first, second in pairs(groups, baseline, lambda item: said[item].acr):
        if of_one_method(first, second, votes=False):
            continue
        row = difference(first, second, lambda item: said[item].per_image, level)
        if row:
            yield row


def _is_fixed(certification: Certification) -> bool:
    """Whether every image got the same number of votes and the plain bound, which can be restated."""
    return fair(certification, "").procedure == "Cohen"


def _at(certification: Certification, m: int, radii: Sequence[float], radius: float) -> _Restated | None:
    """The certification at m votes; None if that cannot be known."""
    facts, n = certification.run.facts, int(certification.run.facts["n"])
    if not _is_fixed(certification):
        return None
    if n == m:
        values = per_image(certification, radius)
        return _Restated("as certified", certification.acr, values, certification.accuracy(radii))
    bounds = certification.p_a_counted
    if m > n or bounds is None or np.isnan(bounds[certification.correct]).any() or not 0 < facts["alpha"] < 1:
        return None
    counts = statistics.successes_of(bounds, n, facts["alpha"])
    said = statistics.restate(counts, n, m, facts["alpha"], facts["sigma"], [*radii, radius], SURE)
    right = certification.correct.astype(float)
    certified = said.certified * right
    exact = "exact" if certification.exact_bounds else "from rounded radii"
    counted = said.radius * right
    values = PerImage(counted, certified[-1], said.sure * right)
    return _Restated(exact, float(counted.mean()), values, certified[:-1].mean(axis=1))
