"""PREDICT, and plain counting."""

from dataclasses import dataclass, field

import numpy as np

from robustsmooth.smoothing.ballots import Ballot, HardVote
from robustsmooth.smoothing.certificates.base import (
    ABSTAIN,
    Case,
    Counts,
    Procedure,
    Request,
    Steps,
    ranked,
    require_count,
)
from robustsmooth.statistics.bounds import majority_test

__all__ = ["Predict", "Predicted", "Tally"]


@dataclass(frozen=True)
class Predicted:
    """The smoothed classifier's answer for one image.

    Attributes:
        prediction: The class, `ABSTAIN` where the votes do not decide.
        p_value: Of the test that the two top classes are equally probable.
        votes: Votes used.
        alpha: An answer that is not the most probable class has at most this probability.
        sigma: The noise level.
        counts: ``((class, votes), ...)``, most votes first, classes without votes left out.
    """

    prediction: int
    p_value: float
    votes: int
    alpha: float
    sigma: float
    counts: tuple[tuple[int, int], ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Predict(Procedure):
    """PREDICT (Cohen et al. 2019, section 3.2.1): the class with most votes, or an abstention.

    Abstains unless a two-sided binomial test of the two top counts rejects a tie at level alpha.

    Args:
        n: Votes.
        alpha: Probability that the answer is not the most probable class, in (0, 1).
        purpose: Names the stream of noise, so that it is fresh where others are drawn for the same image.
        batch_size: See `Procedure`.
    """

    n: int = 1000
    alpha: float = 0.001
    purpose: str = "predict"

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        require_count("n", self.n)
        if not 0 < self.alpha < 1:
            raise ValueError(f"`alpha` must be in (0, 1), got {self.alpha}")

    @property
    def max_votes(self) -> int:
        """Votes of every image."""
        return self.n

    def steps(self, case: Case) -> Steps[Predicted]:
        """See `Procedure.steps`."""
        counts = yield Request(self.purpose, self.n)
        return self.decide(counts, case.noise.sigma)

    def decide(self, counts: Counts, sigma: float) -> Predicted:
        """The answer that `counts` ``(K,)`` give."""
        second, first = np.sort(counts)[-2:] if len(counts) > 1 else (0, counts[0])
        p_value = float(majority_test(first, first + second))
        return Predicted(
            prediction=int(counts.argmax()) if p_value <= self.alpha else ABSTAIN,
            p_value=p_value,
            votes=self.n,
            alpha=self.alpha,
            sigma=sigma,
            counts=ranked(counts),
        )


@dataclass(frozen=True, kw_only=True)
class Tally(Procedure):
    """Counts n votes and concludes nothing.

    Args:
        n: Votes.
        purpose: Names the stream of noise.
        vote: What one noisy image adds to the counts.
        batch_size: See `Procedure`.
    """

    n: int
    purpose: str = "tally"
    vote: Ballot = field(default_factory=HardVote)

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        require_count("n", self.n)

    @property
    def max_votes(self) -> int:
        """Votes of every image."""
        return self.n

    @property
    def ballot(self) -> Ballot:
        """The vote that was asked for."""
        return self.vote

    def steps(self, case: Case) -> Steps[Counts]:
        """See `Procedure.steps`."""
        return (yield Request(self.purpose, self.n))
