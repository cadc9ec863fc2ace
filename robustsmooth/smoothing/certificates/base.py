"""What every certificate is: a small procedure that asks for votes and ends in a record.

A procedure is written as a generator. It yields a `Request` for fresh votes of one image, is sent
the counts, may ask again, and returns a frozen record:

    selected = yield Request("select", self.n0)
    candidate = int(selected.argmax())
    counts = yield Request("estimate", self.n)
    return ...

Whoever drives it decides where the votes come from: the engine multiplexes thousands of these
state machines into full device batches, `drive` runs one with any source of counts (a simulation,
say). The statistics run on the host in float64.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from robustsmooth.smoothing.ballots import Ballot, HardVote
from robustsmooth.smoothing.noise import Noise
from robustsmooth.statistics import ABSTAIN, Guarantee

__all__ = [
    "ABSTAIN",
    "Begun",
    "Candidate",
    "Case",
    "Certificate",
    "Certified",
    "Counts",
    "Procedure",
    "Request",
    "Steps",
    "drive",
    "largest_radius",
    "tabulate",
    "typical_votes",
    "unanimous",
]

if TYPE_CHECKING:
    import pandas as pd

Counts = NDArray[np.int64]
Record = TypeVar("Record")
Candidate = Literal["votes", "clean", "label"]
_TYPICAL_IMAGES = 40


@dataclass(frozen=True)
class Request:
    """Fresh votes of one image.

    Attributes:
        purpose: What they are for; votes of two purposes are independent, and a purpose's votes go on
            where its last request ended.
        votes: How many, at least 1.
        noisy: Without noise if false: what the network says about the image itself.
    """

    purpose: str
    votes: int
    noisy: bool = True


@dataclass(frozen=True)
class Begun:
    """Votes that an earlier run has estimated with, for a certificate that may go on from them.

    Attributes:
        candidate: The class that was selected.
        counts: ``((class, votes), ...)`` of the estimate.
        votes: How many were drawn; the next one has this number.
    """

    candidate: int
    counts: tuple[tuple[int, int], ...]
    votes: int


@dataclass(frozen=True)
class Case:
    """What a procedure may know about the image at hand.

    Attributes:
        noise: The smoothing noise.
        num_classes: K.
        label: The true class, where evaluation asks about it; -1 if unknown.
        index: The image's index in its data set.
        seed: The run's seed, for random numbers that are not noise.
        begun: Votes of an earlier run that the estimate goes on from; None to begin.
    """

    noise: Noise
    num_classes: int
    label: int = -1
    index: int = 0
    seed: int = 0
    begun: Begun | None = None


Steps = Generator[Request, Counts, Record]


@dataclass(frozen=True, kw_only=True)
class Procedure(ABC):
    """Asks for votes and ends in a record.

    Args:
        batch_size: The device batch in which votes are drawn, ``"auto"`` to find a quick one. It sets
            the speed; votes change only where the two largest logits agree to rounding.
    """

    may_change: ClassVar[frozenset[str]] = frozenset({"batch_size"})
    """Arguments on which the meaning of a record does not depend: another run may go on with others."""

    batch_size: int | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.batch_size != "auto":
            require_count("batch_size", self.batch_size)

    @property
    @abstractmethod
    def max_votes(self) -> int:
        """The most votes that one image can take."""

    @property
    def ballot(self) -> Ballot:
        """What one noisy image adds to the counts."""
        return HardVote()

    @abstractmethod
    def steps(self, case: Case) -> Steps[Any]:
        """The procedure for one image."""


@dataclass(frozen=True)
class Certified:
    """What was proved about one image.

    Attributes:
        prediction: The class, `ABSTAIN` where nothing could be certified.
        radius: Certified radius in pixel units, unrounded; 0.0 on abstention, and where nothing but the
            majority was asked for and proved (`RadiusGrid`).
        p_a_lower: Lower confidence bound on the candidate's probability under noise; nan where the
            certificate is not about one.
        votes: Votes used, the selection included.
        guarantee: What kind of statement the radius is. Kinds are never compared or averaged.
        outcome: ``certified``; ``abstained`` (not enough evidence); ``refuted`` (evidence of the
            contrary); ``estimated`` (a number without a guarantee).
        alpha: The statement fails with at most this probability over the votes; 0 if no chance is involved.
        sigma: The noise level.
        candidate: The class that was put to the test.
        counts: ``((class, votes), ...)`` of the estimate, most votes first, classes without votes left out.
        p_b_upper: Upper confidence bound on the runner-up's probability, where one was used.
        uniform: The random number of a randomised bound, where one was used.
    """

    prediction: int
    radius: float
    p_a_lower: float
    votes: int
    guarantee: Guarantee
    outcome: Literal["certified", "abstained", "refuted", "estimated"]
    alpha: float
    sigma: float
    candidate: int
    counts: tuple[tuple[int, int], ...] = field(repr=False)
    p_b_upper: float = math.nan
    uniform: float = math.nan


@dataclass(frozen=True, kw_only=True)
class Certificate(Procedure):
    """A procedure that ends in a `Certified`.

    Args:
        alpha: Probability that one image's statement is wrong, in (0, 1).
        candidate: Where the class that is tested comes from. ``votes``: the class with most of n0
            votes, which are never used again. ``clean``: the network's answer to the image itself
            (HeatSmoothing, section 4.1). ``label``: the true class; only to evaluate, since nobody has
            it in use.
        n0: Votes that select the candidate; 0 where it is given.
        batch_size: See `Procedure`.
    """

    n0: int = 100
    alpha: float = 0.001
    candidate: Candidate = "votes"

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        if not 0 < self.alpha < 1:
            raise ValueError(f"`alpha` must be in (0, 1), got {self.alpha}")
        if self.candidate not in ("votes", "clean", "label"):
            raise ValueError(f"`candidate` must be votes, clean or label, got {self.candidate!r}")
        if self.candidate == "votes":
            require_count("n0", self.n0)
        elif self.n0 != 0:
            raise ValueError(
                f"`n0` must be 0 when the candidate is given (candidate={self.candidate}), got {self.n0}; "
                "no votes are spent on selecting it"
            )

    @abstractmethod
    def steps(self, case: Case) -> Steps[Certified]:
        """The procedure for one image."""

    def guarantee(self, noise: Noise) -> Guarantee:
        """The kind of statement that the radius makes."""
        return Guarantee(noise.norm)

    def only_radii(self, noise: Noise) -> tuple[float, ...] | None:
        """The radii that this certificate can tell apart, ascending; None if any radius can come out.

        The mean of radii from a few given ones is no average certified radius.
        """
        return None

    def begun(self, record: "Certified") -> Begun:
        """Where an earlier record of the same image, noise and seed stopped."""
        return Begun(record.candidate, record.counts, record.votes - self.selection_votes)

    def goes_on(self, begun: Begun, noise: Noise) -> bool:
        """Whether the estimate of an earlier run is to be extended; most statements do not allow it."""
        return False

    @property
    def is_estimate(self) -> bool:
        """Whether the radius is a number without a guarantee, which nothing may call certified."""
        return False

    @property
    def selection_votes(self) -> int:
        """Votes that the candidate costs."""
        return 1 if self.candidate == "clean" else self.n0

    def select(self, case: Case) -> Steps[tuple[int, Counts]]:
        """The candidate, by the rule in `candidate`, and the counts that chose it (zeros if none did)."""
        if self.candidate == "label":
            if case.label < 0:
                raise ValueError("candidate=label needs the images' labels; choose candidate=votes")
            return case.label, np.zeros(case.num_classes, dtype=np.int64)
        if self.candidate == "clean":
            counts = yield Request("clean", 1, noisy=False)
        else:
            counts = yield Request("select", self.n0)
        return int(counts.argmax()), counts

    def conclude(
        self,
        case: Case,
        candidate: int,
        counts: Counts,
        votes: int,
        radius: float,
        *,
        p_a_lower: float = math.nan,
        p_b_upper: float = math.nan,
        uniform: float = math.nan,
        refuted: bool = False,
        certified: bool | None = None,
    ) -> Certified:
        """The record: certified where the radius is positive (or as given), else an abstention."""
        certified = radius > 0 if certified is None else certified
        proved: Literal["certified", "estimated"] = "estimated" if self.is_estimate else "certified"
        return Certified(
            prediction=candidate if certified else ABSTAIN,
            radius=float(radius) if certified else 0.0,
            p_a_lower=float(p_a_lower),
            votes=int(votes),
            guarantee=self.guarantee(case.noise),
            outcome=proved if certified else "refuted" if refuted else "abstained",
            alpha=self.alpha,
            sigma=case.noise.sigma,
            candidate=int(candidate),
            counts=ranked(counts),
            p_b_upper=float(p_b_upper),
            uniform=float(uniform),
        )


def tabulate(records: Sequence[Any]) -> "pd.DataFrame":
    """Records as a table, one row each in their order, one column per attribute.

    Args:
        records: `Certified` or other frozen records of one kind.

    Returns:
        A DataFrame; ``tabulate(records).radius.to_numpy()`` is an array.
    """
    import pandas as pd

    return pd.DataFrame([{one.name: getattr(each, one.name) for one in fields(each)} for each in records])


def ranked(counts: Counts) -> tuple[tuple[int, int], ...]:
    """Counts as ``((class, votes), ...)``: most votes first, ties by class, zeros left out."""
    order = np.argsort(-counts, kind="stable")
    return tuple((int(label), int(counts[label])) for label in order if counts[label] > 0)


def require_count(name: str, value: Any) -> None:
    """Raise unless `value` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{name}` must be a whole number of at least 1, got {value!r}")


def require_first_look(first_look: Any, n: int) -> None:
    """Raise unless the first look of a sequential test is at 1 to n votes."""
    require_count("first_look", first_look)
    if first_look > n:
        raise ValueError(f"`first_look` must be at most n = {n}, got {first_look}; lower it or raise n")


def drive(procedure: Procedure, case: Case, vote: Callable[[Request], Counts]) -> Any:
    """Run one procedure to its record.

    Args:
        procedure: The certificate or prediction.
        case: The image.
        vote: Gives the counts ``(K,)`` that a request asks for.

    Returns:
        What the procedure returns.
    """
    steps = procedure.steps(case)
    try:
        request = next(steps)
        while True:
            request = steps.send(vote(request))
    except StopIteration as stop:
        return stop.value


def unanimous(procedure: Procedure, noise: Noise, num_classes: int = 10) -> Any:
    """What the procedure concludes when every vote is for one class: the best that can come out."""
    clear = np.full((1, num_classes), -np.inf, dtype=np.float32)
    clear[0, 0] = 0.0
    ballot = procedure.ballot(torch.from_numpy(clear))[0].numpy()
    return drive(procedure, Case(noise, num_classes, label=0), lambda request: ballot * request.votes)


def largest_radius(certificate: Certificate, noise: Noise, num_classes: int = 10) -> float:
    """The largest radius that the setting can certify, whatever the classifier; 0.0 if none.

    Examples:
        >>> from robustsmooth.smoothing import Cohen, GaussianNoise
        >>> round(largest_radius(Cohen(n=1000, alpha=0.001), GaussianNoise(1.0)), 2)
        2.46
    """
    return float(unanimous(certificate, noise, num_classes).radius)


def typical_votes(procedure: Procedure, noise: Noise, num_classes: int = 10) -> float:
    """Votes per image that the procedure takes on average for images as published networks find them.

    The candidates' probabilities are those of CIFAR-10 networks trained with noise, roughly: radius / sigma
    is normal with mean and standard deviation 1.6. Where images are easier or harder, so are the votes.
    """
    if not isinstance(procedure.ballot, HardVote):
        return procedure.max_votes
    source = np.random.default_rng(0)
    quantiles = (np.arange(_TYPICAL_IMAGES) + 0.5) / _TYPICAL_IMAGES

    def votes(p: float) -> int:
        def vote(request: Request) -> Counts:
            successes = source.binomial(request.votes, p)
            counts = np.zeros(num_classes, dtype=np.int64)
            counts[0], counts[-1] = successes, request.votes - successes
            return counts

        return int(drive(procedure, Case(noise, num_classes, label=0), vote).votes)

    return float(np.mean([votes(p) for p in ndtr(1.6 + 1.6 * ndtri(quantiles))]))
