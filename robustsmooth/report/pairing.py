"""Methods in pairs: which ones are compared, and their difference on the images that they share."""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustsmooth import statistics
from robustsmooth.report.comparable import by_data, group_name, names_of, of_one_method, on_the_same_images
from robustsmooth.report.evaluations import Certification
from robustsmooth.report.images import ImageSet
from robustsmooth.statistics import SURE

EVERY = "all"
"""As a baseline: each method is compared with each other one."""
MOST = 40
"""Methods of which every pair is compared; of more there would be too many rows."""


def pairs(
    groups: Sequence[list[Certification]],
    baseline: str | None,
    acr: Callable[[Certification], float] = lambda item: float(item.counted.mean()),
) -> list[tuple[list[Certification], list[Certification]]]:
    """The best method and each other one; or each other one and its baseline; or every pair.

    No method is compared with itself: with its runs on other images, or with a seed that is there twice.
    """
    order = ranked(groups, acr)
    if baseline == EVERY:
        found = list(combinations(order, 2))
    elif baseline is None:
        found = [(order[0], other) for other in order[1:]]
    else:
        given = named(groups, baseline)
        found = [(other, one[0]) for other in order if len(one := _at_its_level(given, other)) == 1]
    return [pair for pair in found if not of_one_method(*pair)]


def ranked(
    groups: Sequence[list[Certification]],
    acr: Callable[[Certification], float] = lambda item: float(item.counted.mean()),
) -> list[list[Certification]]:
    """The largest ACR first; but runs on other images than most, such as unfinished ones, come last."""
    place = places_of_images(groups)
    return sorted(
        groups,
        key=lambda group: (place[group[0].image_set], -float(np.mean(list(map(acr, group))))),
    )


def places_of_images(groups: Sequence[list[Certification]]) -> dict[ImageSet, int]:
    """The rank of each set of images: of each data set, first that of most methods."""
    data = by_data(group[0] for group in groups).values()
    return {same[0].image_set: at for members in data for at, same in enumerate(on_the_same_images(members))}


def not_paired(groups: Sequence[list[Certification]], baseline: str | None) -> str:
    """Which methods have no baseline, or more than one, and why; empty if each has one or needs none."""
    if baseline in (None, EVERY):
        return ""
    found = named(groups, baseline)
    others = [group for group in groups if group not in found]
    lonely = [group_name(group) for group in others or groups if len(_at_its_level(found, group)) != 1]
    if not lonely:
        return ""
    names = "any of them" if not others else ", ".join(map(group_name, found))
    reason = f"it may be {names}: give a label" if names else "it is not among them"
    more = f" and {len(lonely) - 6} more" if len(lonely) > 6 else ""
    return f"{', '.join(lonely[:6])}{more}; {reason}"


class PerImage(NamedTuple):
    """The values of a run on each image whose means are compared: ``(N,)`` each.

    Attributes:
        acr: Radius times correct; None if only some radii were tested.
        at: Whether it is certified at a radius, or with which probability.
        sure: Whether it is correct with a lower bound of p_A of at least `SURE`; None if unknown.
    """

    acr: NDArray[Any] | None
    at: NDArray[Any]
    sure: NDArray[Any] | None


def per_image(item: Certification, radius: float) -> PerImage:
    """The values of a certification, as it is."""
    sure = None if item.p_a_counted is None else item.p_a_counted >= SURE
    acr = None if item.guarantee.at_some_radii else item.counted
    return PerImage(acr, item.correct & (item.radius >= radius), sure)


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
            row |= {
                key: ends.mean,
                f"{key}_low": ends.low,
                f"{key}_high": ends.high,
                f"{name}_p": ends.p_value,
            }
            row["over"] = "images and seeds" if ends.over_seeds else "images alone"
    return {**row, "seeds": f"{len(first)} and {len(second)}"}


def corrected(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the pairs that are compared alike, with p-values corrected for the number of pairs."""
    for key in ("acr_p", "p_value"):
        known = [row for row in rows if key in row]
        for row, value in zip(known, statistics.holm([row[key] for row in known]).tolist(), strict=True):
            row[f"{key}_holm"] = value
    return list(rows)


def named(groups: Sequence[list[Certification]], baseline: str | None) -> list[list[Certification]]:
    """Those with this label; if there are none, those with this label without the seed, row or method."""
    found: dict[int, list[list[Certification]]] = {}
    for group in groups:
        names = names_of(group)
        if baseline in names:
            found.setdefault(names.index(baseline), []).append(group)
    return found[min(found)] if found else []


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


def _places(certification: Certification, images: np.ndarray) -> np.ndarray:
    """The positions of these images, sorted, in a certification."""
    order = np.argsort(certification.indices)
    return order[np.searchsorted(certification.indices, images, sorter=order)]
