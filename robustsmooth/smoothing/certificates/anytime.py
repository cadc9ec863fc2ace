"""A certificate that may be looked at, stopped and extended at any time."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from robustsmooth.smoothing.certificates.base import (
    Begun,
    Case,
    Certificate,
    Certified,
    Counts,
    Request,
    Steps,
    require_count,
    require_first_look,
)
from robustsmooth.smoothing.noise import Noise
from robustsmooth.statistics.bounds import confidence_sequence

__all__ = ["Anytime"]


@dataclass(frozen=True, kw_only=True)
class Anytime(Certificate):
    """CERTIFY with a confidence sequence in place of Clopper-Pearson: one may stop, or go on later.

    The bound on the candidate's probability holds for all numbers of votes at once
    (`robustsmooth.statistics.confidence_sequence`). So an image may stop as soon as its radius suffices or is
    known well enough, and a finished run may be extended: with a larger n the estimate goes on from the
    votes that are there, and the new statement is as valid as if n had been chosen at the start. (Clopper-
    Pearson bounds of two looks are not: `certificate=cohen` must begin anew.) At equal n the radius is a few
    per cent smaller.

    Args:
        n: The most votes for one image; may be raised later.
        radius: Stop where this radius is certified or excluded; None to ignore.
        width: Stop where radius and the largest radius that is not excluded differ by at most this much;
            None to ignore.
        first_look: Votes at the first look, where `radius` or `width` is given.
        growth: Ratio of the votes at one look to those at the look before.
        n0: Votes that select the candidate; part of the statement, not to be changed later.
        alpha: Probability that any of the statements about an image is wrong, early or late.
        candidate: Where the candidate comes from, see `Certificate`.
        batch_size: See `Procedure`.
    """

    may_change: ClassVar[frozenset[str]] = Certificate.may_change | {
        "n",
        "radius",
        "width",
        "first_look",
        "growth",
    }

    n: int = 100_000
    radius: float | None = None
    width: float | None = None
    first_look: int = 100
    growth: float = 1.2

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        require_count("n", self.n)
        if self.radius is None and self.width is None:
            require_count("first_look", self.first_look)
        else:
            require_first_look(self.first_look, self.n)
        for name, wanted in (("radius", self.radius), ("width", self.width)):
            if wanted is not None and not 0 < wanted < float("inf"):
                raise ValueError(f"`{name}` must be a positive number or null, got {wanted}")
        if not 1 < self.growth < float("inf"):
            raise ValueError(f"`growth` must be above 1, got {self.growth}")

    @property
    def max_votes(self) -> int:
        """Votes of an image that does not stop early."""
        return self.selection_votes + self.n

    def goes_on(self, begun: Begun, noise: Noise) -> bool:
        """Whether n allows for more votes and they have not shown what was asked for."""
        successes = dict(begun.counts).get(begun.candidate, 0)
        return begun.votes < self.n and not self._suffices(successes, begun.votes, noise)

    def steps(self, case: Case) -> Steps[Certified]:
        """See `Procedure.steps`."""
        counts = np.zeros(case.num_classes, dtype=np.int64)
        if case.begun is None:
            candidate, _ = yield from self.select(case)
            drawn = 0
        else:
            candidate, drawn = case.begun.candidate, case.begun.votes
            for label, votes in case.begun.counts:
                counts[label] = votes
        while drawn < self.n and not self._suffices(counts[candidate], drawn, case.noise):
            look = self._next_look(drawn)
            more: Counts = yield Request("estimate", look - drawn)
            counts, drawn = counts + more, look
        lower = float(confidence_sequence(counts[candidate], drawn, self.alpha)[0])
        radius = case.noise.radius(lower)
        votes = self.selection_votes + drawn
        return self.conclude(case, candidate, counts, votes, radius, p_a_lower=lower)

    def _next_look(self, drawn: int) -> int:
        if self.radius is None and self.width is None:
            return self.n
        look = float(self.first_look)
        while round(look) <= drawn:
            look *= self.growth
        return min(round(look), self.n)

    def _suffices(self, successes: int, votes: int, noise: Noise) -> bool:
        """Whether `radius` is decided or the interval of radii is at most `width`."""
        if not votes or (self.radius is None and self.width is None):
            return False
        lower, upper = confidence_sequence(successes, votes, self.alpha)
        low, high = noise.radius(float(lower)), noise.radius(float(upper))
        decided = self.radius is not None and not low < self.radius <= high
        return decided or (self.width is not None and high - low <= self.width)
