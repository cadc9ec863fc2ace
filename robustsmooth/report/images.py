"""Which logs are about the same images: those of one data set whose labels and pixels agree."""

import hashlib
import re
from collections.abc import Mapping, Sequence
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
        at: Counts the image sets of a report, from 1, once all logs are known.
    """

    data: Data
    numbers: str
    at: int = 0


class KnownImages:
    """The images of all logs, which are joined when all are known: the order of the logs does not matter.

    Two logs are of the same data if it has the same name, and if images with the same number have the same
    label and the same hash of their pixels, as far as both logs have these.
    """

    def __init__(self) -> None:
        self._claims: dict[str, dict[str, _Claim]] = {}

    def note(self, facts: Mapping[str, Any], rows: pd.DataFrame) -> ImageSet:
        """The images of a log, as long as no other log is known to have the same data.

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
        hashed = hashlib.sha256(numbers.tobytes()).hexdigest()
        claims = self._claims.setdefault(name, {})
        claim = claims.setdefault(
            hashed + hashlib.sha256(said.tobytes()).hexdigest(), _Claim(len(claims), numbers, said)
        )
        return ImageSet(Data(name, claim.at), hashed)

    def joined(self) -> tuple[dict[Data, Data], set[Data]]:
        """Which of the data noted are the same.

        Logs that say more of their images come first. Each joins the data with which it has most hashes in
        common, or else the only data that it does not contradict. A log that could be of several data, since
        it has no hashes, is joined with others of this kind only.

        Returns:
            The data that each of those noted is part of; and those of logs that could be of several data.
        """
        found: dict[Data, Data] = {}
        undecided: set[Data] = set()
        for name, claims in self._claims.items():
            parts: list[_Part] = []
            doubtful: list[_Part] = []
            homes: dict[int, _Part] = {}
            for _, claim in sorted(claims.items(), key=lambda item: (item[1].known, item[0]), reverse=True):
                among, possible = parts, _possible(claim, parts)
                if len(possible) > 1:
                    undecided.add(Data(name, claim.at))
                    among, possible = doubtful, _possible(claim, doubtful)
                if possible:
                    possible[0].add(claim)
                else:
                    possible = [_Part(claim)]
                    among += possible
                homes[claim.at] = possible[0]
            order = list(dict.fromkeys(homes[at] for at in range(len(claims))))
            found |= {Data(name, at): Data(name, order.index(part)) for at, part in homes.items()}
        return found, undecided


class _Claim(NamedTuple):
    """What a log says of its images.

    Attributes:
        at: Counts those with one name.
        numbers: ``(N,)``, sorted.
        said: ``(2, N)``: their labels and their hashes.
    """

    at: int
    numbers: NDArray[np.int64]
    said: NDArray[np.int64]

    @property
    def known(self) -> tuple[int, int, int]:
        """How many hashes, labels and numbers it has."""
        labels, hashes = (self.said != UNKNOWN).sum(axis=1).tolist()
        return hashes, labels, len(self.numbers)


class _Part:
    """What is known of images that do not contradict each other; see `_Claim`."""

    def __init__(self, claim: _Claim) -> None:
        self._numbers, self._said = claim.numbers, claim.said

    def shared(self, claim: _Claim) -> tuple[int, int] | None:
        """How many hashes and numbers the claim has in common with these; None if it contradicts them."""
        places, known = self._places(claim.numbers)
        here, there = self._said[:, places[known]], claim.said[:, known]
        if not ((here == there) | (here == UNKNOWN) | (there == UNKNOWN)).all():
            return None
        return int(((here == there) & (here != UNKNOWN))[1].sum()), int(known.sum())

    def add(self, claim: _Claim) -> None:
        """Add what a log says, which contradicts nothing here."""
        places, known = self._places(claim.numbers)
        numbers = np.append(self._numbers, claim.numbers[~known])
        said = np.append(self._said, claim.said[:, ~known], axis=1)
        said[:, places[known]] = np.maximum(said[:, places[known]], claim.said[:, known])
        order = np.argsort(numbers)
        self._numbers, self._said = numbers[order], said[:, order]

    def _places(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Where the numbers are here, and which of them are."""
        places = np.minimum(np.searchsorted(self._numbers, numbers), len(self._numbers) - 1)
        return places, self._numbers[places] == numbers


def _possible(claim: _Claim, parts: Sequence[_Part]) -> list[_Part]:
    """The part with most hashes in common, or else all that a log may be of."""
    shared = [(*common, part) for part in parts if (common := part.shared(claim)) is not None]
    hashes, _, nearest = max(shared, key=lambda item: item[:2], default=(0, 0, None))
    if nearest is not None and hashes:
        return [nearest]
    return [part for _, numbers, part in shared if numbers] or (
        list(parts) if len(parts) == len(shared) == 1 else []
    )


def _labels(rows: pd.DataFrame) -> NDArray[np.int64]:
    return rows["label"].to_numpy() if "label" in rows else np.full(len(rows), UNKNOWN)


def _hashes(rows: pd.DataFrame) -> NDArray[np.int64]:
    """The hashes of `robustsmooth.smoothing.addressing.image_names`, without their last bit: at least 0."""
    if "image" not in rows:
        return np.full(len(rows), UNKNOWN)
    names = map(str, rows["image"])
    return np.array([int(name, 16) >> 1 if _HASH.fullmatch(name) else UNKNOWN for name in names], np.int64)
