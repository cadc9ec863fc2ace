"""A whole table of certified accuracies from one sequence of votes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from robustsmooth.smoothing.certificates.base import (
    Case,
    Certified,
    Request,
    Sequential,
    Steps,
    require_share,
)
from robustsmooth.smoothing.noise import Noise
from robustsmooth.statistics import Guarantee
from robustsmooth.statistics.radii import table_radii
from robustsmooth.statistics.sequential import table_plan


@dataclass(frozen=True, kw_only=True)
class RadiusGrid(Sequential):
    """Certifies the largest radius of a grid: a table of certified accuracies with few votes.

    Radius r_j is certified if the candidate's probability p is above p_j = Phi(r_j / sigma). One exact
    group-sequential test of "p is at most p_j" at level alpha belongs to each radius. All tests use the same
    votes, and r_j counts only if the tests of all smaller radii have rejected too. A wrong statement then
    requires a wrong rejection for the smallest radius that cannot be certified, which has probability at most
    alpha: alpha is not divided among the radii (fixed-sequence testing; the proof is in
    docs/certificates.md). An image stops when the next radius is given up, or all radii are certified.

    Args:
        radii: The grid, ascending, in the norm of the noise; at 0 only the majority is tested. By default 0,
            0.25, 0.5... up to the largest radius that n votes can certify.
        n: The most votes for one image.
        beta: Probability, at most, of giving up the next radius although `Cohen` with the same n and alpha
            would certify it with probability 1 - beta. It cannot make a certificate wrong. Selecting the
            wrong candidate is not included, as in `Cohen`.
        first_look: Votes at the first interim analysis.
        growth: Ratio of the votes at one interim analysis to those at the one before.
        n0: Votes that select the candidate.
        alpha: Probability that the image's radius is wrong.
        candidate: Where the candidate comes from, see `Certificate`.
        batch_size: See `Procedure`.
    """

    radii: Sequence[float] | None = None
    beta: float = 0.01
    growth: float = 1.1

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        require_share("beta", self.beta)
        if self.radii is None:
            return
        grid = tuple(float(radius) for radius in self.radii)
        if not grid or not grid[0] >= 0 or not all(a < b for a, b in pairwise(grid)):
            raise ValueError(f"`radii` must ascend from at least 0, got {list(grid)}")
        object.__setattr__(self, "radii", grid)

    def guarantee(self, noise: Noise) -> Guarantee:
        """See `Certificate.guarantee`."""
        return Guarantee(noise.norm, statement="at-radii")

    def only_radii(self, noise: Noise) -> tuple[float, ...]:
        """The grid; empty for a noise that certifies nothing.

        Raises:
            ValueError: If a given radius is out of reach of n votes.
        """
        if not noise.probability(0.0) < 1:
            return ()
        largest = noise.radius(self.alpha ** (1 / self.n))
        if self.radii is None:
            return table_radii(largest)
        if not self.radii[-1] <= largest:
            raise ValueError(
                f"radius={self.radii[-1]:g} cannot be certified with sigma={noise.sigma}, n={self.n} and "
                f"alpha={self.alpha}: the largest possible is {largest:.4g}; leave it out or raise n"
            )
        return tuple(self.radii)

    def steps(self, case: Case) -> Steps[Certified]:
        """See `Procedure.steps`."""
        grid = self.only_radii(case.noise)
        candidate, _ = yield from self.select(case)
        counts = np.zeros(case.num_classes, dtype=np.int64)
        if not grid:
            return self.conclude(case, candidate, counts, self.selection_votes, 0.0, p_a_lower=0.0)
        probabilities = tuple(case.noise.probability(radius) for radius in grid)
        rules = (self.n, self.alpha, self.beta, self.first_look, self.growth)
        looks, accept, give_up = _tests(probabilities, *rules)
        concluded, given_up = np.zeros((2, len(grid)), dtype=bool)
        drawn, passed = 0, 0
        for at, look in enumerate(looks):
            counts = counts + (yield Request("estimate", look - drawn))
            drawn = look
            concluded |= counts[candidate] >= accept[at]
            given_up |= counts[candidate] <= give_up[at]
            while passed < len(grid) and concluded[passed]:
                passed += 1
            if passed == len(grid) or given_up[passed]:
                break
        return self.conclude(
            case,
            candidate,
            counts,
            self.selection_votes + drawn,
            grid[passed - 1] if passed else 0.0,
            p_a_lower=probabilities[passed - 1] if passed else 0.0,
            certified=passed > 0,
        )


@lru_cache(maxsize=16)
def _tests(
    probabilities: tuple[float, ...], n: int, alpha: float, beta: float, first: int, growth: float
) -> tuple[tuple[int, ...], NDArray[np.int64], NDArray[np.int64]]:
    """Votes ``(L,)`` of the analyses; counts ``(L, R)`` at which a radius is certified or given up."""
    plans = [table_plan(p0, n, alpha, beta, first, growth) for p0 in probabilities]
    accept = np.array([plan.accept for plan in plans]).T
    return plans[0].looks, accept, np.array([plan.refute for plan in plans]).T
