"""The common parts of the tables."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from robustsmooth import statistics
from robustsmooth.report.comparable import among, by_data, fair
from robustsmooth.report.evaluations import Certification
from robustsmooth.report.facts import mapping
from robustsmooth.report.runs import Run
from robustsmooth.report.table import Column
from robustsmooth.statistics import SURE, table_radii

RUN = Column("run", "Run")
RADIUS = Column("radius", "Radius r", style="g")
DATA = Column("data_set", "Data", if_several=True)
BY = Column("procedure", "Certified by", if_several=True)
P_A = Column(
    "sure", f"p_A ≥ {SURE:g} (%)", "certificate", "percent", beside="acr",
    unknown="p_A is not known, since the log has neither bounds nor l2 radii with a known σ",
)  # fmt: skip
"""Shown with every ACR, which alone rewards certainty on a few easy images."""
IMAGES = Column("images", "Images", style="d", if_several=True)

MANY = 40
"""More rows than this are sorted, the best first."""


def default_radii(certifications: Iterable[Certification]) -> list[float]:
    """Up to ten round radii that cover the certified radii, and those of certificates at given radii."""
    every = list(certifications)
    given = asked_radii(item for item in every if item.guarantee.at_some_radii)
    largest = [float(item.counted.max(initial=0)) for item in every if not item.guarantee.at_some_radii]
    return sorted({*given, *(_round_radii(max(largest)) if largest else ())})


def _round_radii(largest: float) -> list[float]:
    """Up to ten, from 0 to the largest."""
    steps = [0.05, *(base * 10.0**power for power in range(-1, 308) for base in (1.0, 2.5, 5.0))]
    step = next(step for step in steps if largest / step <= 9.5)
    return [round(step * count, 10) for count in range(int(largest / step) + 1)]


def asked_radii(certifications: Iterable[Certification]) -> list[float]:
    """The radii that certificates at given radii test, in ascending order; see `_asked`."""
    asked = (_asked(item, float(item.radius.max(initial=0))) for item in certifications)
    return sorted({radius for radii in asked for radius in radii})


def was_tested(certification: Certification, radius: float) -> bool:
    """Whether a radius has a result: always, unless the certificate tests one radius or a few, and others."""
    return not certification.guarantee.at_some_radii or radius in _asked(certification, radius)


def _asked(certification: Certification, largest: float) -> list[float]:
    """The radii that a certificate tests, as its config says; of the usual ones those up to the largest.

    Without a config, those that any image has. A correct answer with radius 0 is one whose majority was
    proved: an abstention is not correct.
    """
    asked = mapping(certification.run.config.get("certificate"))
    if "radii" in asked:
        return list(map(float, table_radii(largest) if asked["radii"] is None else asked["radii"]))
    if "radius" in asked:
        return [float(asked["radius"])]
    stated = (certification.radius > 0) | certification.correct
    return np.unique(certification.radius[stated]).tolist()


def tested(certifications: Sequence[Certification], radii: Sequence[float]) -> list[float]:
    """Those of the radii at which all of the certifications have results."""
    return [radius for radius in radii if all(was_tested(item, radius) for item in certifications)]


def tested_or_own(certifications: Sequence[Certification], radii: Sequence[float]) -> list[float]:
    """As `tested`, of comparable certifications; of those at given radii that tested none, their own ones."""
    given = asked_radii(certifications) if certifications[0].guarantee.at_some_radii else []
    return tested(certifications, radii) or tested(certifications, given)


def few(radii: Sequence[float], most: int = 4) -> list[float]:
    """At most four of the radii, evenly spread, with the first one."""
    stride = -(-len(radii) // most) or 1
    return list(radii[::stride])


def middle(radii: Sequence[float]) -> float:
    """The radius at which accuracies are compared."""
    return radii[len(radii) // 2] if radii else 0.0


def middle_tested(certifications: Sequence[Certification], radii: Sequence[float]) -> float | None:
    """The radius at which comparable certifications are compared; None if there is none that all tested."""
    radius = middle(tested_or_own(certifications, radii))
    return radius if tested(certifications, [radius]) else None


def radius_key(radius: float) -> str:
    """The name of certified accuracy at a radius in a table's files, such as ``certified_acc@0.5``."""
    return f"certified_acc@{radius:g}"


def radius_columns(radii: Sequence[float], kind: Any, interval: bool = False) -> list[Column]:
    """One column for each radius, the best value marked."""
    keys = [radius_key(radius) for radius in radii]
    ends = [(f"{key}_low", f"{key}_high") if interval else (None, None) for key in keys]
    return [
        Column(key, f"r={radius:g} (%)", kind, "percent", low, high, "max", head="Accuracy at radius")
        for radius, key, (low, high) in zip(radii, keys, ends, strict=True)
    ]


def sure_share(certification: Certification) -> float | None:
    """See `robustsmooth.statistics.sure_share`; None if not known."""
    if certification.p_a_lower is None:
        return None
    return statistics.sure_share(certification.correct, certification.p_a_lower)


def certified_cells(certification: Certification, radii: Sequence[float]) -> dict[str, float | None]:
    """ACR, p_A and certified accuracies, by the keys of their columns; without those that are not known."""
    shares = zip(radii, certification.accuracy(radii).tolist(), strict=True)
    cells = {radius_key(radius): share for radius, share in shares if was_tested(certification, radius)}
    if certification.guarantee.at_some_radii:
        return cells
    return {"acr": float(certification.acr), "sure": sure_share(certification), **cells}


def without_acr(certifications: Iterable[Certification]) -> str:
    """A sentence about rows without an ACR; empty if there are none."""
    some = any(certification.guarantee.at_some_radii for certification in certifications)
    return " Certifications at given radii have no ACR." if some else ""


def known_facts(run: Run) -> dict[str, Any]:
    """The plain facts of a run, for the rows of a table."""
    return {name: fact for name, fact in run.facts.items() if isinstance(fact, str | int | float | bool)}


def over_seeds(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One row for runs that differ only in the seed: means, with standard deviations for `Column.spread`.

    A number that some lack is left out. Whole numbers, such as n and the images, and texts are those of the
    first row. Equal numbers, such as the noise level, stay as they are: their computed mean may differ in the
    last digit.
    """
    merged = dict(rows[0])
    for key in [key for key, value in merged.items() if isinstance(value, float)] if len(rows) > 1 else ():
        values: list[Any] = [row.get(key) for row in rows]
        if len({*values}) == 1:
            merged[f"{key}_std"] = 0.0
        elif all(isinstance(value, float) for value in values):
            merged[key], merged[f"{key}_std"] = statistics.mean_and_std(values)
        else:
            del merged[key]
    return merged


def with_spread(columns: Iterable[Column]) -> list[Column]:
    """The columns, with the standard deviations that `over_seeds` gives."""
    return [replace(column, spread=f"{column.key}_std") for column in columns]


def certified_rows(
    certifications: Iterable[Certification], row: Callable[[Certification], Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """One row for each certification, grouped by data set; if there are many, the best first."""
    rows = []
    for name, members in by_data(certifications).items():
        if len(members) > MANY:
            members = sorted(members, key=lambda member: -member.counted.mean())
        for member in members:
            group = fair(member, name)
            facts = {**known_facts(member.run), **group.facts, "among": among(member, group)}
            rows.append({"run": member.run.label, **facts, **row(member)})
    return rows
