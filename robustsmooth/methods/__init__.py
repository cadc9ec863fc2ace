"""Training methods: one LightningModule each."""

from robustsmooth.methods.base import ClassificationModule
from robustsmooth.methods.gaussian import GaussianModule
from robustsmooth.methods.natural import NaturalModule
from robustsmooth.methods.progress import TrainingProgress

__all__ = ["ClassificationModule", "GaussianModule", "NaturalModule", "TrainingProgress"]
