"""Train, certify, attack and compare image classifiers proved robust by randomized smoothing."""

from robustsmooth import _torchvision

__all__ = ["__version__"]

__version__ = "0.1.0"

_torchvision.install()
