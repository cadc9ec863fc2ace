"""Which runs may stand beside each other: those about the same images, and repetitions under other seeds."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np

from robustsmooth.report.evaluations import Attack, Certification, Measurement, Withstood
from robustsmooth.report.facts import signature
from robustsmooth.statistics import Guarantee

__all__ = ["by_data", "by_guarantee", "by_method", "common_images", "data_name", "repetitions"]

Each = TypeVar("Each", Certification, Withstood)
Repeated = TypeVar("Repeated", Certification, Attack, Measurement)


def data_name(each: Certification | Withstood) -> str:
    """The data set and its split, as far as they are known."""
    data, split = each.run.facts.get("data"), each.run.facts.get("split")
    name = "unknown data" if data is None else str(data)
    return name if split is None else f"{name} ({split})"


def common_images(first: Certification, second: Certification) -> tuple[np.ndarray, np.ndarray] | None:
    """Where the images that two certifications share stand in each; None if their labels contradict."""
    _, at_first, at_second = np.intersect1d(
        first.indices, second.indices, assume_unique=True, return_indices=True
    )
    return (at_first, at_second) if np.array_equal(first.labels[at_first], second.labels[at_second]) else None


def by_data(certifications: Iterable[Certification]) -> dict[str, list[Certification]]:
    """Certifications of the same images: of one data set and split, whose labels agree where they overlap.

    Logs whose data set has one name but whose labels contradict each other (training and test images, say)
    become groups of their own, numbered.
    """
    return {name: list(members) for name, members in _by_data(tuple(certifications)).items()}


@lru_cache(maxsize=32)
def _by_data(certifications: tuple[Certification, ...]) -> dict[str, list[Certification]]:
    groups: dict[str, list[_Images]] = {}
    for each in certifications:
        parts = groups.setdefault(data_name(each), [])
        home = next((part for part in parts if part.agrees(each)), None)
        if home is None:
            parts.append(home := _Images(each.indices, each.labels))
        home.add(each)
    return {
        name if len(parts) == 1 else f"{name}, images {position + 1}": part.members
        for name, parts in groups.items()
        for position, part in enumerate(parts)
    }


class _Images:
    """Certifications whose labels do not contradict each other, and the labels that they know."""

    def __init__(self, indices: np.ndarray, labels: np.ndarray) -> None:
        self.indices, self.labels = _sorted(indices, labels)
        self.members: list[Certification] = []

    def agrees(self, each: Certification) -> bool:
        places, known = self._find(each)
        return np.array_equal(self.labels[places[known]], each.labels[known])

    def add(self, each: Certification) -> None:
        self.members.append(each)
        _, known = self._find(each)
        if not known.all():
            indices = np.append(self.indices, each.indices[~known])
            self.indices, self.labels = _sorted(indices, np.append(self.labels, each.labels[~known]))

    def _find(self, each: Certification) -> tuple[np.ndarray, np.ndarray]:
        """Where each image of a certification stands here, and whether it does."""
        places = np.minimum(np.searchsorted(self.indices, each.indices), len(self.indices) - 1)
        return places, self.indices[places] == each.indices


def _sorted(indices: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(indices, kind="stable")
    return indices[order], labels[order]


def by_guarantee(certifications: Iterable[Certification]) -> dict[Guarantee, list[Certification]]:
    """Certifications whose radii mean the same, l2 certificates first."""
    groups: dict[Guarantee, list[Certification]] = {}
    for each in certifications:
        groups.setdefault(each.guarantee, []).append(each)
    return dict(sorted(groups.items(), key=lambda item: (not item[0].usual, item[0])))


def by_method(members: Iterable[Each]) -> dict[str, list[Each]]:
    """What was found about the runs of each method, or of each row of an experiment's table."""
    groups: dict[str, list[Each]] = {}
    for each in members:
        groups.setdefault(str(each.run.facts.get("method", "all")), []).append(each)
    return groups


def repetitions(members: Iterable[Repeated]) -> list[list[Repeated]]:
    """Groups of what differs in nothing but the seed, in the order of their first members.

    Each member of a group has a seed of its own. Runs of ours are compared by all their settings, foreign
    logs by their facts.
    """
    groups: dict[tuple[str, ...], list[Repeated]] = {}
    for each in members:
        groups.setdefault(_settings(each), []).append(each)
    apart = []
    for group in groups.values():
        seeds = {str([each.run.facts.get(name) for name in ("train_seed", "seed")]) for each in group}
        apart += [group] if len(seeds) == len(group) else [[each] for each in group]
    return apart


def _settings(each: Certification | Attack | Measurement) -> tuple[str, ...]:
    facts = each.run.facts
    left_out = ("seed", "train_seed", "name", "classifier", "family", "source")
    told = [f"{key}={value}" for key, value in sorted(facts.items()) if key not in left_out]
    told += [f"{key}={value}" for key, value in getattr(each, "settings", {}).items()]
    return (*told, signature(each.run.path) if each.run.config else "")


def alike(certifications: Sequence[Certification]) -> bool:
    """Whether all were certified with the same number of votes and level."""
    return len({(each.run.facts.get("n"), each.run.facts.get("alpha")) for each in certifications}) < 2
