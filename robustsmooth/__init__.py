"""Train, certify, attack and compare image classifiers proved robust by randomized smoothing."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from robustsmooth import _torchvision

if TYPE_CHECKING:
    from robustsmooth.runs import load

__all__ = ["__version__", "load"]

__version__ = "0.1.0"

_torchvision.install()


def __getattr__(name: str) -> Any:
    """`load`, which needs torch, is imported when it is used."""
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module("robustsmooth.runs").load
