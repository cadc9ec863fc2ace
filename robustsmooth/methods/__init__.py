"""Training methods: one LightningModule each."""

from robustsmooth.methods.base import ClassificationModule
from robustsmooth.methods.gaussian import GaussianModule
from robustsmooth.methods.natural import NaturalModule

__all__ = ["ClassificationModule", "GaussianModule", "NaturalModule"]
