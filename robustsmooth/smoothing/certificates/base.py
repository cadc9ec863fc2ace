"""The base of all certificates: small procedures that request votes and return a record.

A procedure is written as a generator. It yields a `Request` for fresh votes of one image, receives the
counts, may make further requests, and returns a frozen record:

    selected = yield Request("select", self.n0)
    candidate = int(selected.argmax())
    counts = yield Request("estimate", self.n)
    return ...

The caller decides where the votes come from: the engine runs thousands of these generators in full device
batches, and `drive` runs one with any source of counts, such as a simulation. Statistics are computed on the
host in float64.
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
        purpose: What they are for. Votes of two purposes are independent; a second request of the same
            purpose gets the next votes.
        votes: How many, at least 1.
        noisy: False for the network's answer to the clean image.
    """

    purpose: str
    votes: int
    noisy: bool = True


@dataclass(frozen=True)
class Begun:
    """Estimation votes of an earlier run, for a certificate that can continue from them.

    Attributes:
        candidate: The class that was selected.
        counts: ``((class, votes), ...)`` of the estimate.
        votes: How many were drawn; also the number of the next vote.
    """

    candidate: int
    counts: tuple[tuple[int, int], ...]
    votes: int


@dataclass(frozen=True)
class Case:
    """What a procedure knows about its image.

    Attributes:
        noise: The smoothing noise.
        num_classes: K.
        label: The true class; -1 if unknown.
        index: The image's index in its data set.
        seed: The run's seed, for random numbers that are not noise.
        begun: Votes of an earlier run from which the estimate continues; None to start.
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
    """Requests votes and returns a record.

    Args:
        batch_size: The device batch in which votes are computed; ``"auto"`` searches for a fast one. It
            changes a vote only if the two largest logits are equal up to rounding.
    """

    may_change: ClassVar[frozenset[str]] = frozenset({"batch_size"})
    """Arguments that a run may change when it continues a log: records keep their meaning."""

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
        """What one noisy copy adds to the counts."""
        return HardVote()

    @abstractmethod
    def steps(self, case: Case) -> Steps[Any]:
        """The procedure for one image."""


@dataclass(frozen=True)
class Certified:
    """The certificate of one image.

    Attributes:
        prediction: The class; `ABSTAIN` if nothing could be certified.
        radius: Certified radius in pixel units, unrounded; 0.0 on abstention, and where only the majority
            itself was proved (`RadiusGrid`).
        p_a_lower: Lower confidence bound on the candidate's probability under noise; nan if the certificate
            does not use one.
        votes: Votes used, including the selection.
        guarantee: The kind of statement. Different kinds are never compared or averaged.
        outcome: ``certified``; ``abstained`` (not enough evidence); ``refuted`` (evidence against it);
            ``estimated`` (a number without a guarantee).
        alpha: Probability, at most, that the statement is wrong; 0 if it does not depend on random votes.
        sigma: The noise level.
        candidate: The class that was tested.
        counts: ``((class, votes), ...)`` of the estimate, most votes first, classes without votes left out.
        p_b_upper: Upper confidence bound on the runner-up's probability, if one was used.
        uniform: The random number of a randomised bound, if one was used.
        origin: A hash of what the votes depend on: image, index, noise, seed, certificate. Empty if unknown;
            `SmoothedClassifier.certify` continues only records with the same one.
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
    origin: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class Certificate(Procedure):
    """A procedure that returns a `Certified`.

    Args:
        alpha: Probability that one image's statement is wrong, in (0, 1).
        candidate: How the class that is tested is chosen. ``votes``: the class with most of n0 votes, which
            are never used again. ``clean``: the network's answer to the clean image (HeatSmoothing, section
            4.1). ``label``: the true class; for evaluation only, since it is unknown in use.
        n0: Votes that select the candidate; 0 if it is chosen otherwise.
        batch_size: See `Procedure`.
    """

    n0: int = 100
    alpha: float = 0.001
    candidate: Candidate = "votes"

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        require_share("alpha", self.alpha)
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
        """The kind of statement that the radius is."""
        return Guarantee(noise.norm)

    def only_radii(self, noise: Noise) -> tuple[float, ...] | None:
        """The only radii that this certificate can return, ascending; None if it can return any.

        The mean of radii from such a grid is not the average certified radius.
        """
        return None

    def begun(self, record: "Certified") -> Begun:
        """The votes of an earlier record of the same image, noise and seed."""
        return Begun(record.candidate, record.counts, record.votes - self.selection_votes)

    def goes_on(self, begun: Begun, noise: Noise) -> bool:
        """Whether the estimate of an earlier run is to be extended; most certificates do not allow it."""
        return False

    @property
    def is_estimate(self) -> bool:
        """Whether the radius is a number without a guarantee, which must not be called certified."""
        return False

    @property
    def selection_votes(self) -> int:
        """Votes (passes) that select the candidate."""
        return 1 if self.candidate == "clean" else self.n0

    def select(self, case: Case) -> Steps[tuple[int, Counts]]:
        """The candidate, chosen as `candidate` says, and the counts that chose it (zeros if none did)."""
        if self.candidate == "label":
            if not 0 <= case.label < case.num_classes:
                raise ValueError(
                    f"candidate=label needs the images' labels, in [0, {case.num_classes}), got {case.label}"
                    "; choose candidate=votes"
                )
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
        """The record: certified if the radius is positive (or as given), otherwise an abstention."""
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


@dataclass(frozen=True, kw_only=True)
class Estimating(Certificate):
    """A certificate that estimates the candidate's probability with at most n votes.

    Args:
        n: The most votes for the estimate of one image; fresh, never those that selected the candidate.
        n0: See `Certificate`.
        alpha: See `Certificate`.
        candidate: See `Certificate`.
        batch_size: See `Procedure`.
    """

    n: int = 100_000

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        require_count("n", self.n)

    @property
    def max_votes(self) -> int:
        """Votes of an image that takes all n."""
        return self.selection_votes + self.n


@dataclass(frozen=True, kw_only=True)
class Sequential(Estimating):
    """A certificate that looks at the counts before all n votes are cast, and may stop.

    Args:
        first_look: Votes at the first interim analysis.
        growth: Ratio of the votes at one interim analysis to those at the one before.
        n: See `Estimating`.
        n0: See `Certificate`.
        alpha: See `Certificate`.
        candidate: See `Certificate`.
        batch_size: See `Procedure`.
    """

    first_look: int = 100
    growth: float = 1.2

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        require_count("first_look", self.first_look)
        if self.stops_early and self.first_look > self.n:
            raise ValueError(
                f"`first_look` must be at most n = {self.n}, got {self.first_look}; lower it or raise n"
            )
        if not 1 < self.growth < math.inf:
            raise ValueError(f"`growth` must be above 1, got {self.growth}")

    @property
    def stops_early(self) -> bool:
        """Whether an image may stop before n votes."""
        return True


def tabulate(records: Sequence[Any]) -> "pd.DataFrame":
    """Records as a table, one row per record and one column per attribute.

    Args:
        records: `Certified` or other records of one type.

    Returns:
        A DataFrame; ``tabulate(records).radius.to_numpy()`` is an array.
    """
    import pandas as pd

    return pd.DataFrame(
        [{one.name: getattr(record, one.name) for one in fields(record)} for record in records]
    )


def ranked(counts: Counts) -> tuple[tuple[int, int], ...]:
    """Counts as ``((class, votes), ...)``: most votes first, ties by class, without zeros."""
    order = np.argsort(-counts, kind="stable")
    return tuple((int(label), int(counts[label])) for label in order if counts[label] > 0)


def require_count(name: str, value: Any) -> None:
    """Raise unless `value` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{name}` must be a whole number of at least 1, got {value!r}")


def require_share(name: str, value: float) -> None:
    """Raise unless `value` is in (0, 1)."""
    if not 0 < value < 1:
        raise ValueError(f"`{name}` must be in (0, 1), got {value}")


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
    """The result when every vote is for one class: the best possible one."""
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
    """Average votes per image of the procedure, for images as difficult as those of published experiments.

    The candidates' probabilities are roughly those of CIFAR-10 networks trained with noise: radius / sigma is
    normal with mean and standard deviation 1.6. The number differs for easier or harder images.
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
