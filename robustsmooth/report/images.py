"""Which logs are about the same images: those of one data set whose labels and pixels agree."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

UNKNOWN = -1
"""In place of a label or a hash that a log does not have; it agrees with each."""
_HASH = re.compile("[0-9a-f]{16}")


class Data(NamedTuple):
    """Images that are the same where they have the same number.

    Attributes:
        name: The data set and its split, as far as they are known.
        part: Tells apart those with one name that contradict each other, such as two folders of images.
    """

    name: str
    part: int


class ImageSet(NamedTuple):
    """The images of a log; equal for the same images.

    Attributes:
        data: Where they are from.
        numbers: A hash of their numbers.
    """

    data: Data
    numbers: str


class KnownImages:
    """The images of all logs that were identified so far.

    Two logs are of the same data if it has the same name, and if images with the same number have the same
    label and the same hash of their pixels, as far as both logs have these.
    """

    def __init__(self) -> None:
        self._parts: dict[str, list[_Part]] = {}

    def identify(self, facts: Mapping[str, Any], rows: pd.DataFrame) -> ImageSet:
        """The images of a log.

        Args:
            facts: Of its run.
            rows: With ``idx``, and ``label`` and ``image`` if the log has them; an image may have several.
        """
        name = str(facts.get("data") or "unknown data")
        name = name if facts.get("split") is None else f"{name} ({facts['split']})"
        numbers, said = rows["idx"].to_numpy(), np.stack([_labels(rows), _hashes(rows)])
        if not (np.diff(numbers) > 0).all():
            numbers, first = np.unique(numbers, return_index=True)
            said = said[:, first]
        parts = self._parts.setdefault(name, [])
        at = next((at for at, part in enumerate(parts) if part.joined_by(numbers, said)), len(parts))
        if at == len(parts):
            parts.append(_Part(numbers, said))
        return ImageSet(Data(name, at), hashlib.sha256(numbers.tobytes()).hexdigest())


class _Part:
    """What is known of images that do not contradict each other.

    Args:
        numbers: ``(N,)``, sorted.
        said: ``(2, N)``: their labels and their hashes.
    """

    def __init__(self, numbers: NDArray[np.int64], said: NDArray[np.int64]) -> None:
        self._numbers, self._said = numbers, said

    def joined_by(self, numbers: NDArray[np.int64], said: NDArray[np.int64]) -> bool:
        """Add what a log says, unless it contradicts what is known."""
        places = np.minimum(np.searchsorted(self._numbers, numbers), len(self._numbers) - 1)
        known = self._numbers[places] == numbers
        here, there = self._said[:, places[known]], said[:, known]
        if not ((here == there) | (here == UNKNOWN) | (there == UNKNOWN)).all():
            return False
        self._said[:, places[known]] = np.maximum(here, there)
        if not known.all():
            every = np.append(self._numbers, numbers[~known])
            order = np.argsort(every)
            self._numbers = every[order]
            self._said = np.append(self._said, said[:, ~known], axis=1)[:, order]
        return True


def _labels(rows: pd.DataFrame) -> NDArray[np.int64]:
    return rows["label"].to_numpy() if "label" in rows else np.full(len(rows), UNKNOWN)


def _hashes(rows: pd.DataFrame) -> NDArray[np.int64]:
    """The hashes of `robustsmooth.smoothing.addressing.image_names`, without their last bit: at least 0."""
    if "image" not in rows:
        return np.full(len(rows), UNKNOWN)
    names = map(str, rows["image"])
    return np.array([int(name, 16) >> 1 if _HASH.fullmatch(name) else UNKNOWN for name in names], np.int64)
