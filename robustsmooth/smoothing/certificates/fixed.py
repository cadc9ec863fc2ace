"""Certificates with a fixed number of votes, the same for every image."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from robustsmooth.smoothing.addressing import address
from robustsmooth.smoothing.ballots import Ballot, TopVote
from robustsmooth.smoothing.certificates.base import (
    Case,
    Certified,
    Estimating,
    Request,
    Steps,
    require_count,
)
from robustsmooth.smoothing.noise import Noise
from robustsmooth.statistics import Guarantee
from robustsmooth.statistics.bounds import (
    clopper_pearson_lower,
    clopper_pearson_upper,
    randomized_clopper_pearson_lower,
)


@dataclass(frozen=True, kw_only=True)
class Cohen(Estimating):
    """CERTIFY (Cohen et al. 2019): one-sided Clopper-Pearson, abstain below one half.

    With ``candidate="clean"`` this is HeatSmoothing's variant, whose candidate comes from a single forward
    pass; the certificate still holds for the smoothed network, not for the single pass.

    Args:
        n: Votes for the estimate.
        n0: Votes for the selection.
        alpha: Probability that the statement is wrong.
        candidate: How the candidate is chosen, see `Certificate`.
        randomized: Use the randomised Clopper-Pearson bound: slightly larger radii, exact coverage;
            its random number is in the record.
        batch_size: See `Procedure`.
    """

    randomized: bool = False

    def steps(self, case: Case) -> Steps[Certified]:
        """See `Procedure.steps`."""
        candidate, _ = yield from self.select(case)
        counts = yield Request("estimate", self.n)
        uniform = math.nan
        if self.randomized:
            uniform = address(case.seed, "certificate/uniform", case.index) / 2**63
            lower = randomized_clopper_pearson_lower(counts[candidate], self.n, self.alpha, uniform)
        else:
            lower = clopper_pearson_lower(counts[candidate], self.n, self.alpha)
        radius = case.noise.radius(float(lower))
        return self.conclude(
            case, candidate, counts, self.max_votes, radius, p_a_lower=float(lower), uniform=uniform
        )


@dataclass(frozen=True, kw_only=True)
class TwoSided(Estimating):
    """CERTIFY with a bound on the runner-up as well (Cohen et al. 2019, Theorem 1 with both bounds).

    The candidate's lower bound gets alpha/2, and so does the upper bound of the other class with most votes.
    That class is chosen by the same counts that bound it, but this needs no further division of alpha
    (Voracek 2024, Appendix B). It can certify even if the candidate has no majority.
    """

    def steps(self, case: Case) -> Steps[Certified]:
        """See `Procedure.steps`."""
        candidate, _ = yield from self.select(case)
        counts = yield Request("estimate", self.n)
        others = np.delete(counts, candidate)
        lower = float(clopper_pearson_lower(counts[candidate], self.n, self.alpha / 2))
        upper = float(clopper_pearson_upper(others.max(initial=0), self.n, self.alpha / 2))
        upper = min(upper, 1 - lower)
        radius = case.noise.radius(lower, upper)
        return self.conclude(
            case, candidate, counts, self.max_votes, radius, p_a_lower=lower, p_b_upper=upper
        )


@dataclass(frozen=True, kw_only=True)
class TopKCertificate(Estimating):
    """The candidate stays among the k most probable classes (Jia et al. 2020); Gaussian noise.

    Args:
        k: Size of the set of classes.
        n: Votes that estimate.
        n0: Votes that select.
        alpha: Probability that the statement is wrong, shared equally by all classes' bounds.
        candidate: Which class is certified to stay in the set, see `Certificate`.
        batch_size: See `Procedure`.
    """

    k: int = 5

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        require_count("k", self.k)

    def steps(self, case: Case) -> Steps[Certified]:
        """See `Procedure.steps`."""
        if case.noise.norm != "l2":
            raise ValueError(
                "the top-k certificate needs Gaussian noise; choose smoothing=gaussian or another one"
            )
        if self.k >= case.num_classes:
            raise ValueError(f"`k` must be below the number of classes ({case.num_classes}), got {self.k}")
        candidate, _ = yield from self.select(case)
        counts = yield Request("estimate", self.n)
        level = self.alpha / case.num_classes
        lower = float(clopper_pearson_lower(counts[candidate], self.n, level))
        uppers = clopper_pearson_upper(np.delete(counts, candidate), self.n, level)
        radius = top_k_radius(lower, uppers, self.k, case.noise.sigma)
        return self.conclude(case, candidate, counts, self.max_votes, radius, p_a_lower=lower)

    def guarantee(self, noise: Noise) -> Guarantee:
        """See `Certificate.guarantee`."""
        return Guarantee("l2", statement=f"top{self.k}")


def top_k_radius(p_lower: float, other_uppers: np.ndarray, k: int, sigma: float) -> float:
    """Radius within which a class stays among the k most probable ones (Jia et al. 2020, Theorem 1).

    The largest over t = 1..k of the R_t with Phi(Phi^-1(p_lower) - R_t/sigma) = Phi(Phi^-1(pbar_t) +
    R_t/sigma) / t, where pbar_t is the sum of the t smallest upper bounds among the k largest, at most 1 -
    p_lower.

    Args:
        p_lower: Lower bound on the class's probability.
        other_uppers: ``(K - 1,)`` upper bounds on the others'.
        k: Size of the set, below K.
        sigma: Noise level.

    Returns:
        The radius in pixel units, rounded down by the bisection; 0.0 if there is none.
    """
    largest = np.sort(other_uppers)[::-1][:k]
    best = 0.0
    for t in range(1, k + 1):
        p_bar = min(float(largest[-t:].sum()), 1 - p_lower)
        if t * p_lower <= p_bar:
            continue
        stay, rival = ndtri(p_lower), ndtri(p_bar)
        low, high = 0.0, 80.0  # Phi^-1 of a float64 is below 40
        for _ in range(100):
            middle = (low + high) / 2
            if t * ndtr(stay - middle) >= ndtr(rival + middle):
                low = middle
            else:
                high = middle
        best = max(best, low * sigma)
    return best


@dataclass(frozen=True, kw_only=True)
class TopVotes(Cohen):
    """Certifies how often the candidate is among the k largest logits (HeatSmoothing, Figure 1b).

    Within the radius, the candidate is among the k largest logits under noise more often than not. This is
    not the statement of `TopKCertificate`, that the class is among the k most probable ones of the smoothed
    classifier; the two are never mixed in a table.

    Args:
        k: Size of the set of classes.
        n: Votes that estimate.
        n0: Votes that select.
        alpha: Probability that the statement is wrong.
        candidate: Where the candidate comes from, see `Certificate`.
        randomized: See `Cohen`.
        batch_size: See `Procedure`.
    """

    k: int = 5

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        require_count("k", self.k)

    @property
    def ballot(self) -> Ballot:
        """One vote for each of the k largest logits."""
        return TopVote(self.k)

    def guarantee(self, noise: Noise) -> Guarantee:
        """See `Certificate.guarantee`."""
        return Guarantee(noise.norm, statement=f"top{self.k}-votes")
