"""The L-bound: robustness of soft scores from the Lipschitz constant of a Gaussian average."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from robustsmooth.smoothing.ballots import SCORE_UNIT, Ballot, SoftVote
from robustsmooth.smoothing.certificates.base import (
    Case,
    Certificate,
    Certified,
    Request,
    Steps,
    require_count,
)
from robustsmooth.smoothing.noise import Noise
from robustsmooth.statistics import Guarantee
from robustsmooth.statistics.bounds import chernoff_interval


def l_bound(gap: float, sigma: float) -> float:
    """Sigma sqrt(pi/2) (f_(k) - f_(k+1)) (HeatSmoothing, Theorem 3).

    Args:
        gap: Difference of two scores in [0, 1] of a Gaussian average.
        sigma: Its standard deviation.

    Returns:
        Radius within which their order does not change; 0.0 if the gap is not positive.
    """
    return max(0.0, sigma * math.sqrt(math.pi / 2) * gap)


@dataclass(frozen=True, kw_only=True)
class LBound(Certificate):
    """HeatSmoothing's L-bound (Theorem 3) on the gap between the k-th and the next largest softmax score.

    What it guarantees depends on the scores; the record says which:

    * ``exact``: one pass of a network that *is* a Gaussian average of scores in [0, 1], such as one with a
      closed form. The bound is then a theorem.
    * ``assumed``: one pass of a network that was trained to be such an average, as in the paper. The bound
      holds under that assumption, which is not checked.
    * ``monte_carlo``: the average of n noisy softmax scores, each class with a confidence interval
      at alpha / K. Holds for any network with probability 1 - alpha.
    * ``estimate``: the same average, used as if it were exact, as in the paper's tables for stochastic
      models. This is an estimate, above the true value as often as below, and not a certificate.

    For k > 1 the statement is about the set of the k largest scores. The prediction is the label if it is in
    the set, otherwise the class with the largest score.

    Args:
        scores: One of these four.
        k: Size of the set of classes.
        n: Noisy votes for ``monte_carlo`` and ``estimate``; 0 otherwise.
        alpha: Probability that the ``monte_carlo`` statement is wrong.
        n0: 0, since no votes are needed for a selection.
        candidate: ``clean``, since the scores determine the class.
        batch_size: See `Procedure`.
    """

    scores: Literal["exact", "assumed", "monte_carlo", "estimate"] = "assumed"
    k: int = 1
    n: int = 0
    n0: int = 0
    candidate: Literal["votes", "clean", "label"] = "clean"

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        require_count("k", self.k)
        if self.scores not in ("exact", "assumed", "monte_carlo", "estimate"):
            raise ValueError(f"`scores` must be exact, assumed, monte_carlo or estimate, got {self.scores!r}")
        if self.candidate != "clean":
            raise ValueError(f"`candidate` must be clean for an L-bound, got {self.candidate!r}")
        if self.averages:
            require_count("n", self.n)
        elif self.n != 0:
            raise ValueError(f"`n` must be 0 for scores={self.scores} (a single pass), got {self.n}")

    @property
    def averages(self) -> bool:
        """Whether the scores are averages over noise."""
        return self.scores in ("monte_carlo", "estimate")

    @property
    def is_estimate(self) -> bool:
        """See `Certificate.is_estimate`."""
        return self.scores == "estimate"

    @property
    def max_votes(self) -> int:
        """The n noisy votes, or one pass."""
        return max(self.n, 1)

    @property
    def ballot(self) -> Ballot:
        """Softmax scores."""
        return SoftVote()

    def guarantee(self, noise: Noise) -> Guarantee:
        """See `Certificate.guarantee`."""
        return Guarantee("l2", "certificate" if self.scores == "monte_carlo" else self.scores, "lbound")

    def steps(self, case: Case) -> Steps[Certified]:
        """See `Procedure.steps`."""
        if case.noise.norm != "l2":
            raise ValueError("the L-bound needs Gaussian noise with its sigma; choose smoothing=gaussian")
        if self.k >= case.num_classes:
            raise ValueError(f"`k` must be below the number of classes ({case.num_classes}), got {self.k}")
        if self.averages:
            total = yield Request("estimate", self.n)
            # The rounded scores are the certified function: values in [0, 1] like any other.
            mean = total / (self.n * SCORE_UNIT)
            lower = upper = mean
            if self.scores == "monte_carlo":
                lower, upper = chernoff_interval(np.minimum(mean, 1.0), self.n, self.alpha / case.num_classes)
        else:
            total = yield Request("clean", 1, noisy=False)
            mean = total / SCORE_UNIT
            lower, upper = mean, mean + 1 / SCORE_UNIT
        gap = float(np.sort(lower)[-self.k] - np.sort(upper)[-self.k - 1])
        ranking = np.argsort(-mean, kind="stable")
        chosen = case.label if case.label in ranking[: self.k] else int(ranking[0])
        return self.conclude(
            case, chosen, np.zeros_like(total), self.max_votes, l_bound(gap, case.noise.sigma)
        )
