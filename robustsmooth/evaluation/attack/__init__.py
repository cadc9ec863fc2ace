"""Attacks inside ``trainer.test``: the evaluation, what it asks, who decides, and what its rows say."""

from robustsmooth.evaluation.attack.evaluation import AttackEvaluation
from robustsmooth.evaluation.attack.images import ImageStore
from robustsmooth.evaluation.attack.summary import (
    CertifiedLog,
    beneath_certified,
    read_certified,
)
from robustsmooth.evaluation.attack.target import SinglePass, SmoothedVote, Target

__all__ = [
    "AttackEvaluation",
    "CertifiedLog",
    "ImageStore",
    "SinglePass",
    "SmoothedVote",
    "Target",
    "beneath_certified",
    "read_certified",
]
