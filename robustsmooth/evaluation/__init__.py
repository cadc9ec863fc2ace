"""Callbacks that certify, attack and measure inside ``trainer.test``, and the logs that they write."""

from robustsmooth.evaluation.agreement import Agreement
from robustsmooth.evaluation.certification import Certification, ValidationCertification, default_radii
from robustsmooth.evaluation.functional import (
    abstention_rate,
    accuracy_band,
    average_certified_radius,
    certified_accuracy,
)
from robustsmooth.evaluation.metrics import AbstentionRate, AverageCertifiedRadius, CertifiedAccuracy
from robustsmooth.evaluation.module import EvaluationModule
from robustsmooth.evaluation.prediction import Prediction
from robustsmooth.evaluation.records import RecordLog
from robustsmooth.evaluation.smoothed_inference import InferenceSweep
from robustsmooth.evaluation.timing import InferenceTime
from robustsmooth.evaluation.voting import VotingCallback, data_settings

__all__ = [
    "AbstentionRate",
    "Agreement",
    "AverageCertifiedRadius",
    "Certification",
    "CertifiedAccuracy",
    "EvaluationModule",
    "InferenceSweep",
    "InferenceTime",
    "Prediction",
    "RecordLog",
    "ValidationCertification",
    "VotingCallback",
    "abstention_rate",
    "accuracy_band",
    "average_certified_radius",
    "certified_accuracy",
    "data_settings",
    "default_radii",
]
