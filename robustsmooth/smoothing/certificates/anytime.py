"""A certificate that may be inspected, stopped and extended at any time."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from robustsmooth.smoothing.certificates.base import (
    Begun,
    Case,
    Certified,
    Counts,
    Request,
    Sequential,
    Steps,
)
from robustsmooth.smoothing.noise import Noise
from robustsmooth.statistics.bounds import confidence_sequence


@dataclass(frozen=True, kw_only=True)
class Anytime(Sequential):
    """CERTIFY with a confidence sequence instead of Clopper-Pearson: stop early, or extend later.

    The bound on the candidate's probability holds for all numbers of votes simultaneously
    (`robustsmooth.statistics.confidence_sequence`). So an image may stop as soon as its radius is large
    enough or known precisely enough, and a finished run may be extended: with a larger n the estimate
    continues from the existing votes, and the new statement is as valid as if n had been chosen at the start.
    (Two Clopper-Pearson bounds computed one after the other are not: `certificate=cohen` has to start again.)
    At equal n the radius is a few per cent smaller.

    Args:
        n: The most votes for one image; may be raised later, in a run's folder not lowered.
        radius: Stop when this radius is certified or excluded; None to ignore.
        width: Stop when the certified radius and the largest radius that is not excluded differ by at most
            this much; None to ignore.
        first_look: Votes at the first interim analysis, if `radius` or `width` is given.
        growth: Ratio of the votes at one interim analysis to those at the one before.
        n0: Votes that select the candidate; must not be changed later.
        alpha: Probability that any of the statements about an image, early or late, is wrong.
        candidate: Where the candidate comes from, see `Certificate`.
        batch_size: See `Procedure`.
    """

    may_change: ClassVar[frozenset[str]] = Sequential.may_change | {
        "n",
        "radius",
        "width",
        "first_look",
        "growth",
    }

    radius: float | None = None
    width: float | None = None

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        for name, wanted in (("radius", self.radius), ("width", self.width)):
            if wanted is not None and not 0 < wanted < float("inf"):
                raise ValueError(f"`{name}` must be a positive number or null, got {wanted}")

    @property
    def stops_early(self) -> bool:
        """Whether a radius or a width was given to stop at."""
        return self.radius is not None or self.width is not None

    def goes_on(self, begun: Begun, noise: Noise) -> bool:
        """Whether n allows more votes and the stopping rule is not met yet."""
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
        if not self.stops_early:
            return self.n
        look = float(self.first_look)
        while round(look) <= drawn:
            look *= self.growth
        return min(round(look), self.n)

    def _suffices(self, successes: int, votes: int, noise: Noise) -> bool:
        """Whether `radius` is decided or the interval of radii is at most `width`."""
        if not votes or not self.stops_early:
            return False
        lower, upper = confidence_sequence(successes, votes, self.alpha)
        low, high = noise.radius(float(lower)), noise.radius(float(upper))
        decided = self.radius is not None and not low < self.radius <= high
        return decided or (self.width is not None and high - low <= self.width)
