"""Certificates that spend votes where they matter."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from robustsmooth.smoothing.certificates.base import (
    Case,
    Certificate,
    Certified,
    Request,
    Steps,
    require_count,
    require_first_look,
)
from robustsmooth.smoothing.noise import Noise
from robustsmooth.statistics import Guarantee
from robustsmooth.statistics.bounds import clopper_pearson_lower
from robustsmooth.statistics.sequential import looks, sequential_plan

__all__ = ["FixedRadius", "TwoStage"]


@dataclass(frozen=True, kw_only=True)
class FixedRadius(Certificate):
    """Is the certified radius at least r? An exact group-sequential test, many times cheaper.

    Answers the question behind one point of the certified-accuracy curve. Votes come in growing groups,
    and an image stops as soon as its own count decides. The record's radius is r where that is proved
    and 0.0 elsewhere, so an average of these radii means nothing.

    Args:
        radius: The radius r in question, in the noise's norm; positive.
        n: The most votes for one image; undecided images abstain there.
        beta: Probability that the test of the selected class refutes although its radius is at least r. An
            image whose n0 votes select another class is refuted too, whatever beta: with few of them
            this happens more often (5.6 % of images in one example with beta = 5 % and n0 = 20).
        first_look: Votes before the first look.
        growth: Ratio of the votes at one look to those at the look before.
        n0: Votes that select the candidate.
        alpha: Probability that an image is certified although its radius is below r.
        candidate: Where the candidate comes from, see `Certificate`.
        batch_size: See `Procedure`.
    """

    radius: float
    n: int = 100_000
    beta: float = 0.001
    first_look: int = 100
    growth: float = 1.2

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        require_count("n", self.n)
        require_first_look(self.first_look, self.n)
        if not self.radius > 0:
            raise ValueError(f"`radius` must be positive, got {self.radius}")
        if not 0 < self.beta < 1:
            raise ValueError(f"`beta` must be in (0, 1), got {self.beta}")
        if not self.growth > 1:
            raise ValueError(f"`growth` must be above 1, got {self.growth}")

    @property
    def max_votes(self) -> int:
        """Votes of an image that is never decided."""
        return self.selection_votes + self.n

    def guarantee(self, noise: Noise) -> Guarantee:
        """See `Certificate.guarantee`."""
        return Guarantee(noise.norm, statement="at-radius")

    def only_radii(self, noise: Noise) -> tuple[float, ...]:
        """The radius in question."""
        return (self.radius,)

    def steps(self, case: Case) -> Steps[Certified]:
        """See `Procedure.steps`."""
        p0 = case.noise.probability(self.radius)
        if not p0 < 1:
            raise ValueError(
                f"radius={self.radius} cannot be certified with sigma={case.noise.sigma}, whatever the "
                "classifier; ask for a smaller radius"
            )
        plan = sequential_plan(p0, self.n, self.alpha, self.beta, self.first_look, self.growth)
        candidate, _ = yield from self.select(case)
        counts = np.zeros(case.num_classes, dtype=np.int64)
        drawn, certified, refuted = 0, False, False
        for look, accept, refute in zip(plan.looks, plan.accept, plan.refute, strict=True):
            counts = counts + (yield Request("estimate", look - drawn))
            drawn = look
            certified, refuted = counts[candidate] >= accept, counts[candidate] <= refute
            if certified or refuted:
                break
        return self.conclude(
            case,
            candidate,
            counts,
            self.selection_votes + drawn,
            self.radius if certified else 0.0,
            # All that the stopping rule proves: the probability is above p0.
            p_a_lower=p0 if certified else 0.0,
            refuted=bool(refuted),
        )


@dataclass(frozen=True, kw_only=True)
class TwoStage(Certificate):
    """CERTIFY with a number of votes chosen per image by a pilot.

    The n0 pilot votes give the candidate and a guess of its probability, and with it the number of
    fresh votes that is worth its price: the one that maximises the radius to be expected less
    cost * sigma for each vote. The pilot votes are never used again, so the plain Clopper-Pearson
    bound of the fresh votes holds at the full alpha. (The published ISC code reuses them, and errs
    more often than alpha.)

    Args:
        n0: Pilot votes, a few hundred.
        n: The most votes for one image.
        cost: Price of a vote, in units of sigma: a thousand votes must gain a radius of 1000 cost sigma.
        alpha: Probability that the statement is wrong.
        candidate: ``votes``: the pilot selects.
        batch_size: See `Procedure`.
    """

    n0: int = 500
    n: int = 100_000
    cost: float = 5e-6

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        require_count("n", self.n)
        if self.candidate != "votes":
            raise ValueError(f"`candidate` must be votes: the pilot selects it, got {self.candidate!r}")
        if not self.cost > 0:
            raise ValueError(f"`cost` must be positive, got {self.cost}")

    @property
    def max_votes(self) -> int:
        """Votes of an image that gets as many as there are."""
        return self.n0 + self.n

    def plan(self, successes: int) -> int:
        """How many fresh votes are worth their price after `successes` of the n0 pilot votes."""
        guess = (successes + 0.5) / (self.n0 + 1)
        grid = np.asarray(looks(self.n))
        bound = clopper_pearson_lower(np.floor(grid * guess), grid, self.alpha)
        worth = np.maximum(0.0, ndtri(np.maximum(bound, 0.5))) - self.cost * grid
        return int(grid[np.argmax(worth)])

    def steps(self, case: Case) -> Steps[Certified]:
        """See `Procedure.steps`."""
        candidate, pilot = yield from self.select(case)
        votes = self.plan(int(pilot[candidate]))
        counts = yield Request("estimate", votes)
        lower = float(clopper_pearson_lower(counts[candidate], votes, self.alpha))
        radius = case.noise.radius(lower)
        return self.conclude(case, candidate, counts, self.n0 + votes, radius, p_a_lower=lower)
