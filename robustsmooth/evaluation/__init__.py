"""Callbacks that certify, attack and measure inside ``trainer.test``, and the logs that they write.

A name is imported from its module when it is used: the metrics need no Lightning, the callbacks do.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustsmooth.evaluation.agreement import Agreement
    from robustsmooth.evaluation.attack.evaluation import AttackEvaluation
    from robustsmooth.evaluation.attack.images import ImageStore
    from robustsmooth.evaluation.attack.summary import beneath_certified, read_certified
    from robustsmooth.evaluation.attack.target import SinglePass, SmoothedVote, Target
    from robustsmooth.evaluation.base import Evaluation
    from robustsmooth.evaluation.certification import Certification, ValidationCertification, default_radii
    from robustsmooth.evaluation.context import data_settings, fingerprint_in
    from robustsmooth.evaluation.metrics import (
        AbstentionRate,
        AverageCertifiedRadius,
        CertifiedAccuracy,
        SureShare,
    )
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
    "SureShare",
    "Target",
    "ValidationCertification",
    "VotingCallback",
    "beneath_certified",
    "data_settings",
    "fingerprint_in",
    "default_radii",
    "read_certified",
]

_MODULES = (
    "metrics", "agreement", "attack.evaluation", "attack.images", "attack.summary", "attack.target", "base",
    "certification", "context", "module", "prediction", "records", "smoothed_inference", "timing", "voting",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    """A name of `__all__`, from the first module that has it."""
    if name in __all__:
        for module in (import_module(f"{__name__}.{part}") for part in _MODULES):
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
