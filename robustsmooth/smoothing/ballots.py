"""How the logits of one noisy image become a vote.

A ballot maps logits ``(B, K)`` to whole numbers ``(B, K)`` that are summed per image. Sums of integers
do not depend on the order of summation, so the counts are the same for every batch size. Logits without a
unique largest value are no answer, and vote for no class (see `answers`).
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

SCORE_UNIT = 2**30
"""A soft vote counts scores in units of 1 / SCORE_UNIT."""


class Ballot(Protocol):
    """Maps logits to integers that are added up."""

    def __call__(self, logits: Tensor) -> Tensor:
        """Map logits ``(B, K)`` to int64 ``(B, K)``."""
        ...


@dataclass(frozen=True)
class HardVote:
    """One vote for the largest logit."""

    def __call__(self, logits: Tensor) -> Tensor:
        """See `Ballot`."""
        return _one_each(logits, logits.argmax(dim=1, keepdim=True))


@dataclass(frozen=True)
class TopVote:
    """One vote for each of the k largest logits.

    Args:
        k: How many, at least 1; all classes if there are fewer.
    """

    k: int

    def __call__(self, logits: Tensor) -> Tensor:
        """See `Ballot`."""
        return _one_each(logits, logits.topk(min(self.k, logits.shape[1]), dim=1).indices)


@dataclass(frozen=True)
class SoftVote:
    """Softmax scores in units of 2^-30, rounded down: a soft classifier with values in [0, 1]."""

    def __call__(self, logits: Tensor) -> Tensor:
        """See `Ballot`."""
        infinite = logits == torch.inf  # the softmax of one infinite logit is one, in the limit
        finite = torch.where(infinite.any(dim=1, keepdim=True), infinite.float().log(), logits.float())
        scores = torch.where(answers(logits)[:, None], finite.softmax(dim=1), 0.0)
        return (scores * SCORE_UNIT).floor().to(torch.int64)


@dataclass(frozen=True)
class RankVote:
    """Each class gets 2^(1-k) for its rank k = 1, 2, ... (Nemcovsky et al., eq. 11), in units of 2^-30."""

    def __call__(self, logits: Tensor) -> Tensor:
        """Map logits ``(B, K)`` to whole numbers ``(B, K)``; ranks after the 31st get 0."""
        halvings = torch.arange(logits.shape[1], device=logits.device).clamp(max=62)
        return _by_rank(logits, SCORE_UNIT >> halvings)


@dataclass(frozen=True)
class RunnerUpVote:
    """The top class gets 1, the second one c, the others 0 (Nemcovsky et al., eq. 12), in units of 2^-30.

    Args:
        share: c, in [0, 1].

    Raises:
        ValueError: If `share` is not in [0, 1].
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"`share` must be in [0, 1], got {self.share}")

    def __call__(self, logits: Tensor) -> Tensor:
        """Map logits ``(B, K)`` to whole numbers ``(B, K)``."""
        weights = torch.zeros(logits.shape[1], dtype=torch.int64, device=logits.device)
        weights[0] = SCORE_UNIT
        weights[1:2] = round(self.share * SCORE_UNIT)
        return _by_rank(logits, weights)


def _by_rank(logits: Tensor, weights: Tensor) -> Tensor:
    """Give ``weights[k]`` to the class with the k-th largest logit."""
    order = logits.argsort(dim=1, descending=True, stable=True)  # ties go to the lower class
    return torch.zeros_like(order).scatter_(1, order, weights * answers(logits)[:, None])


def answers(logits: Tensor) -> Tensor:
    """Which rows of logits are an answer.

    These rows are no answer: a row with a NaN, a row of -inf only, and a row with more than one +inf, since
    the computation has overflowed. Equal finite logits are a tie, which the lowest class wins.

    Args:
        logits: ``(B, K)``.

    Returns:
        ``(B,)`` bool.
    """
    largest = logits.amax(dim=1)  # NaN where there is one
    return (largest > -torch.inf) & ((logits == torch.inf).sum(dim=1) < 2)


def contains_label(logits: Tensor, labels: Tensor, k: int = 1) -> Tensor:
    """Whether the label is the answer, or among the k largest logits; false where there is no answer.

    Args:
        logits: ``(B, K)``.
        labels: ``(B,)`` int64.
        k: At least 1; above 1 a label that ties with the k-th largest logit counts.

    Returns:
        ``(B,)`` bool.
    """
    if k == 1:
        return answers(logits) & (logits.argmax(dim=1) == labels)
    return answers(logits) & ((logits > logits.gather(1, labels[:, None])).sum(dim=1) < k)


def _one_each(logits: Tensor, classes: Tensor) -> Tensor:
    """A vote for each of `classes` ``(B, k)``, in the rows that are an answer."""
    votes = torch.zeros(logits.shape, dtype=torch.int64, device=logits.device)
    return votes.scatter_(1, classes, answers(logits)[:, None].to(torch.int64).expand_as(classes))
