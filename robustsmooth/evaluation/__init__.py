"""Callbacks that certify, attack and measure inside ``trainer.test``, and the logs that they write."""

from robustsmooth.evaluation.module import EvaluationModule
from robustsmooth.evaluation.records import RecordLog
from robustsmooth.evaluation.smoothed_inference import InferenceSweep

__all__ = ["EvaluationModule", "InferenceSweep", "RecordLog"]
