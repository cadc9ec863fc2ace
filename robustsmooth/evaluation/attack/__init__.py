"""Attacks inside ``trainer.test``: the evaluation, its plan, its target, and the summary of its rows."""

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
