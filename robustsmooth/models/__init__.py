"""Networks, normalisation inside the network, noise layers, checkpoint import."""

from robustsmooth.models.classifier import Classifier, Normalize, SmallCNN

__all__ = ["Classifier", "Normalize", "SmallCNN"]
