"""What is said about a set of certified images, as functions of (prediction, radius, label)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from robustsmooth.smoothing import ABSTAIN, clopper_pearson_lower, clopper_pearson_upper

__all__ = ["abstention_rate", "accuracy_band", "average_certified_radius", "certified_accuracy"]


def certified_accuracy(prediction: Tensor, radius: Tensor, label: Tensor, radii: Sequence[float]) -> Tensor:
    """Share of *all* images that are classified correctly with at least a certified radius.

    Args:
        prediction: ``(N,)`` int64, `ABSTAIN` where the classifier abstains.
        radius: ``(N,)`` float, certified radii.
        label: ``(N,)`` int64.
        radii: The radii r in question; at r = 0 it is the accuracy of the classifier that may abstain.

    Returns:
        ``(len(radii),)`` float64 in [0, 1].

    >>> p, r, y = torch.tensor([3, -1, 5, 1]), torch.tensor([0.5, 0.0, 0.9, 0.2]), torch.tensor([3, 2, 4, 1])
    >>> certified_accuracy(p, r, y, [0.0, 0.25, 1.0]).tolist()
    [0.5, 0.25, 0.0]
    """
    _check(prediction, radius, label)
    correct = (prediction == label) & (prediction != ABSTAIN)
    thresholds = torch.as_tensor(list(radii), dtype=torch.float64, device=radius.device)
    return (correct & (radius.double() >= thresholds[:, None])).double().mean(dim=1)


def average_certified_radius(prediction: Tensor, radius: Tensor, label: Tensor) -> Tensor:
    """ACR: the mean over *all* images of the radius, zero where the prediction is wrong (Zhai et al. 2020).

    Rewards a classifier that is very sure of a few easy images; read it beside the whole curve.

    Args:
        prediction: ``(N,)`` int64, `ABSTAIN` where the classifier abstains.
        radius: ``(N,)`` float, certified radii.
        label: ``(N,)`` int64.

    Returns:
        Scalar float64 in pixel units.
    """
    _check(prediction, radius, label)
    correct = (prediction == label) & (prediction != ABSTAIN)
    return torch.where(correct, radius.double(), 0.0).mean()


def abstention_rate(prediction: Tensor) -> Tensor:
    """Share of images without an answer.

    Args:
        prediction: ``(N,)`` int64.

    Returns:
        Scalar float64 in [0, 1].
    """
    return (prediction == ABSTAIN).double().mean()


def accuracy_band(accuracy: float, images: int, level: float = 0.95) -> tuple[float, float]:
    """Confidence interval of an accuracy over images drawn at random (Clopper-Pearson).

    Args:
        accuracy: Share of the images that count.
        images: How many there are.
        level: Confidence in (0, 1).

    Returns:
        Lower and upper end.
    """
    hits = int(np.rint(accuracy * images))
    tail = (1 - level) / 2
    return float(clopper_pearson_lower(hits, images, tail)), float(clopper_pearson_upper(hits, images, tail))


def _check(prediction: Tensor, radius: Tensor, label: Tensor) -> None:
    if not prediction.shape == radius.shape == label.shape or prediction.ndim != 1:
        raise ValueError(
            "`prediction`, `radius` and `label` must have one entry per image, got shapes "
            f"{tuple(prediction.shape)}, {tuple(radius.shape)} and {tuple(label.shape)}"
        )
