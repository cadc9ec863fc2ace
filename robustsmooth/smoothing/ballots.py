"""How the logits of one noisy image become a vote.

A ballot maps logits ``(B, K)`` to whole numbers ``(B, K)`` that are summed per image. Sums of integers
do not depend on the order of summation, so a tally is the same however the votes were batched. Logits
with a NaN are no answer, and vote for no class.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["SCORE_UNIT", "Ballot", "HardVote", "SoftVote", "TopVote", "answers"]

SCORE_UNIT = 2**30
"""A soft vote counts scores in units of 1 / SCORE_UNIT."""


class Ballot(Protocol):
    """Logits in, whole numbers to be added up out."""

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
        k: How many, at least 1; all classes where there are fewer.
    """

    k: int

    def __call__(self, logits: Tensor) -> Tensor:
        """See `Ballot`."""
        return _one_each(logits, logits.topk(min(self.k, logits.shape[1]), dim=1).indices)


@dataclass(frozen=True)
class SoftVote:
    """Softmax scores in units of 2^-30, rounded down: a classifier with values in [0, 1] of its own."""

    def __call__(self, logits: Tensor) -> Tensor:
        """See `Ballot`."""
        return (logits.float().softmax(dim=1).nan_to_num() * SCORE_UNIT).floor().to(torch.int64)


def answers(logits: Tensor) -> Tensor:
    """Which rows of logits ``(B, K)`` are an answer, ``(B,)`` bool: those without a NaN."""
    return ~logits.isnan().any(dim=1)


def _one_each(logits: Tensor, classes: Tensor) -> Tensor:
    """A vote for each of `classes` ``(B, k)``, in the rows that are an answer."""
    votes = torch.zeros(logits.shape, dtype=torch.int64, device=logits.device)
    return votes.scatter_(1, classes, answers(logits)[:, None].to(torch.int64).expand_as(classes))
