"""Certificates whose number of votes adapts to the image."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from robustsmooth.smoothing.certificates.base import (
    Case,
    Certified,
    Estimating,
    Request,
    Sequential,
    Steps,
    require_share,
)
from robustsmooth.smoothing.noise import Noise
from robustsmooth.statistics import Guarantee
from robustsmooth.statistics.bounds import clopper_pearson_lower
from robustsmooth.statistics.sequential import looks, sequential_plan


@dataclass(frozen=True, kw_only=True)
class FixedRadius(Sequential):
    """Is the certified radius at least r? An exact group-sequential test with far fewer votes.

    Computes one point of the certified-accuracy curve. Votes come in growing groups, and an image stops as
    soon as its count decides. The record's radius is r where that is proved and 0.0 elsewhere, so the average
    of these radii is not an ACR.

    Args:
        radius: The radius r, in the norm of the noise; positive.
        n: The most votes for one image; images that are undecided then abstain.
        beta: Probability that the test of the selected class refutes although its radius is at least r. An
            image whose n0 votes select another class is refuted too, whatever beta; with a small n0 this
            happens more often (5.6 % of images in one example with beta = 5 % and n0 = 20).
        first_look: Votes at the first interim analysis.
        growth: Ratio of the votes at one interim analysis to those at the one before.
        n0: Votes that select the candidate.
        alpha: Probability that an image is certified although its radius is below r.
        candidate: Where the candidate comes from, see `Certificate`.
        batch_size: See `Procedure`.
    """

    radius: float
    beta: float = 0.001

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        if not self.radius > 0:
            raise ValueError(f"`radius` must be positive, got {self.radius}")
        require_share("beta", self.beta)

    def guarantee(self, noise: Noise) -> Guarantee:
        """See `Certificate.guarantee`."""
        return Guarantee(noise.norm, statement="at-radius")

    def only_radii(self, noise: Noise) -> tuple[float, ...]:
        """The one radius."""
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
            # The stopping rule proves only that the probability is above p0.
            p_a_lower=p0 if certified else 0.0,
            refuted=bool(refuted),
        )


@dataclass(frozen=True, kw_only=True)
class TwoStage(Estimating):
    """CERTIFY with a number of votes that is chosen per image after a pilot sample.

    The n0 pilot votes give the candidate and an estimate of its probability. From it follows the number of
    fresh votes: the one that maximises the expected radius minus cost * sigma for each vote. The pilot votes
    are never used again, so the Clopper-Pearson bound of the fresh votes holds at the full alpha. (The
    published ISC code reuses them, and fails more often than alpha.)

    Args:
        n0: Pilot votes, a few hundred.
        n: The most votes for one image.
        cost: Cost of a vote, in units of sigma: a thousand votes must gain a radius of 1000 cost sigma.
        alpha: Probability that the statement is wrong.
        candidate: ``votes``: the pilot selects.
        batch_size: See `Procedure`.
    """

    n0: int = 500
    cost: float = 5e-6

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        if self.candidate != "votes":
            raise ValueError(f"`candidate` must be votes: the pilot selects it, got {self.candidate!r}")
        if not self.cost > 0:
            raise ValueError(f"`cost` must be positive, got {self.cost}")

    def plan(self, successes: int) -> int:
        """How many fresh votes are worth their cost after `successes` of the n0 pilot votes."""
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
