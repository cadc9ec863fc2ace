"""Callbacks that certify, attack and measure inside ``trainer.test``, and the logs that they write."""

from robustsmooth.evaluation.agreement import Agreement
from robustsmooth.evaluation.attack import (
    AttackEvaluation,
    ImageStore,
    SinglePass,
    SmoothedVote,
    Target,
    beneath_certified,
    read_certified,
)
from robustsmooth.evaluation.base import Evaluation
from robustsmooth.evaluation.certification import Certification, ValidationCertification, default_radii
from robustsmooth.evaluation.context import data_settings, fingerprint
from robustsmooth.evaluation.metrics import AbstentionRate, AverageCertifiedRadius, CertifiedAccuracy
from robustsmooth.evaluation.module import EvaluationModule
from robustsmooth.evaluation.prediction import Prediction
from robustsmooth.evaluation.records import RecordLog
from robustsmooth.evaluation.smoothed_inference import InferenceSweep
from robustsmooth.evaluation.timing import InferenceTime
from robustsmooth.evaluation.voting import VotingCallback

__all__ = [
    "AbstentionRate",
    "Agreement",
    "AttackEvaluation",
    "AverageCertifiedRadius",
    "Certification",
    "CertifiedAccuracy",
    "Evaluation",
    "EvaluationModule",
    "ImageStore",
    "InferenceSweep",
    "InferenceTime",
    "Prediction",
    "RecordLog",
    "SinglePass",
    "SmoothedVote",
    "Target",
    "ValidationCertification",
    "VotingCallback",
    "beneath_certified",
    "data_settings",
    "fingerprint",
    "default_radii",
    "read_certified",
]
