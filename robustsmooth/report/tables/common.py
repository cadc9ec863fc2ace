"""What the tables share."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from robustsmooth.report.evaluations import FIELD_GUARANTEE, Attack, Certification
from robustsmooth.report.runs import Run
from robustsmooth.report.table import Column

__all__ = [
    "RUN",
    "apart_from_seed",
    "by_guarantee",
    "by_method",
    "default_radii",
    "differ_in_seed",
    "known_facts",
    "radius_key",
]

RUN = Column("run", "Run")

Each = TypeVar("Each", Certification, Attack)


def default_radii(certifications: Sequence[Certification]) -> list[float]:
    """Up to ten round radii that cover what was certified."""
    largest = max((float(each.counted.max()) for each in certifications if each.images), default=0.0)
    step = next((step for step in (0.05, 0.1, 0.25, 0.5, 1.0) if largest / step <= 9.5), 1.0)
    return [round(step * count, 10) for count in range(int(largest / step) + 1)]


def radius_key(radius: float) -> str:
    """The name of certified accuracy at a radius, as it is logged."""
    return f"certified_acc@{radius:g}"


def known_facts(run: Run) -> dict[str, Any]:
    """The plain facts of a run, for the rows of a table."""
    return {name: fact for name, fact in run.facts.items() if isinstance(fact, str | int | float | bool)}


def by_guarantee(certifications: Iterable[Certification]) -> dict[str, list[Certification]]:
    """Certifications whose radii mean the same, l2 certificates first."""
    groups: dict[str, list[Certification]] = {}
    for each in certifications:
        groups.setdefault(each.guarantee, []).append(each)
    return dict(sorted(groups.items(), key=lambda item: (item[0] != FIELD_GUARANTEE, item[0])))


def by_method(members: Iterable[Each]) -> dict[str, list[Each]]:
    """What was found about the runs of each method, or of each row of an experiment's table."""
    groups: dict[str, list[Each]] = {}
    for each in members:
        groups.setdefault(str(each.run.facts.get("method", "all")), []).append(each)
    return groups


def apart_from_seed(facts: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What a run shares with its repetitions under other seeds."""
    left_out = ("seed", "train_seed", "name", "classifier")
    return tuple(sorted((key, f"{key}={value}") for key, value in facts.items() if key not in left_out))


def differ_in_seed(members: Sequence[Mapping[str, Any]]) -> bool:
    """Whether there are several runs, by their facts, and each has a seed of its own."""
    seeds = {(facts.get("train_seed"), facts.get("seed")) for facts in members}
    return len(seeds) == len(members) > 1
