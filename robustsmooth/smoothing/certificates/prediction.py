"""PREDICT, and counting votes."""

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


@dataclass(frozen=True)
class Predicted:
    """The smoothed classifier's answer for one image.

    Attributes:
        prediction: The class; `ABSTAIN` if the votes do not decide.
        p_value: Of the hypothesis that the two top classes are equally probable.
        votes: Votes used.
        alpha: Probability, at most, of an answer that is not the most probable class; 1 for a plurality vote,
            which has no guarantee.
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
class _Counting(Procedure):
    """A procedure that makes one request.

    Args:
        n: Votes.
        purpose: Names the stream of noise.
        batch_size: See `Procedure`.
    """

    n: int
    purpose: str

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        require_count("n", self.n)

    @property
    def max_votes(self) -> int:
        """Votes of every image."""
        return self.n


@dataclass(frozen=True, kw_only=True)
class Predict(_Counting):
    """PREDICT (Cohen et al. 2019, section 3.2.1): the class with most votes, or an abstention.

    Abstains unless a two-sided binomial test of the two top counts rejects a tie at level alpha. Without
    alpha it is the plain plurality vote (prediction smoothing of Nemcovsky et al., eq. 8): it never abstains,
    ties go to the lower class, and there is no guarantee.

    Args:
        n: Votes.
        alpha: Probability that the answer is not the most probable class, in (0, 1); None for the plurality.
        purpose: Names the stream of noise: another purpose draws independent noise for the same image.
        batch_size: See `Procedure`.
    """

    n: int = 1000
    alpha: float | None = 0.001
    purpose: str = "predict"

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        if self.alpha is not None and not 0 < self.alpha < 1:
            raise ValueError(f"`alpha` must be in (0, 1), or null for a plurality vote, got {self.alpha}")

    def steps(self, case: Case) -> Steps[Predicted]:
        """See `Procedure.steps`."""
        counts = yield Request(self.purpose, self.n)
        return self.decide(counts, case.noise.sigma)

    def decide(self, counts: Counts, sigma: float) -> Predicted:
        """The answer that `counts` ``(K,)`` give."""
        second, first = np.sort(counts)[-2:] if len(counts) > 1 else (0, counts[0])
        p_value = float(majority_test(first, first + second))
        undecided = first == 0 or (self.alpha is not None and p_value > self.alpha)
        return Predicted(
            prediction=ABSTAIN if undecided else int(counts.argmax()),
            p_value=p_value,
            votes=self.n,
            alpha=1.0 if self.alpha is None else self.alpha,
            sigma=sigma,
            counts=ranked(counts),
        )


@dataclass(frozen=True, kw_only=True)
class Tally(_Counting):
    """Counts n votes.

    Args:
        n: Votes.
        purpose: Names the stream of noise.
        vote: What one noisy copy adds to the counts.
        batch_size: See `Procedure`.
    """

    purpose: str = "tally"
    vote: Ballot = field(default_factory=HardVote)

    @property
    def ballot(self) -> Ballot:
        """See `Procedure.ballot`."""
        return self.vote

    def steps(self, case: Case) -> Steps[Counts]:
        """See `Procedure.steps`."""
        return (yield Request(self.purpose, self.n))
