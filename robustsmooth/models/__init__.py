"""Networks, normalisation inside the network, noise layers, checkpoint import."""

from robustsmooth.models.build import NORMALIZATIONS, build_classifier
from robustsmooth.models.classifier import Classifier, Normalize, SmallCNN
from robustsmooth.models.noise import ParametricNoise
from robustsmooth.models.noise_layers import NoiseLayers, is_random, silenced
from robustsmooth.models.resnet import CifarResNet

__all__ = [
    "NORMALIZATIONS",
    "CifarResNet",
    "Classifier",
    "NoiseLayers",
    "Normalize",
    "ParametricNoise",
    "SmallCNN",
    "build_classifier",
    "is_random",
    "silenced",
]
