"""The functions of `functional` as metrics, which add up over batches and processes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from robustsmooth.evaluation.functional import abstention_rate, average_certified_radius, certified_accuracy

__all__ = ["AbstentionRate", "AverageCertifiedRadius", "CertifiedAccuracy"]


class _Mean(Metric):
    """A mean over images whose sum a function of (prediction, radius, label) gives per batch."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    total: Tensor
    images: Tensor

    def __init__(self, entries: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros(entries, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def _add(self, mean: Tensor, images: int) -> None:
        if images:
            self.total += mean.to(self.total.device) * images
            self.images += images

    def compute(self) -> Tensor:
        """The mean over all images so far, float64."""
        return (self.total / self.images).squeeze()


class CertifiedAccuracy(_Mean):
    """Share of all images correct with at least a certified radius; see `certified_accuracy`.

    Args:
        radii: The radii in question.
        **kwargs: See `torchmetrics.Metric`.
    """

    def __init__(self, radii: Sequence[float], **kwargs: Any) -> None:
        super().__init__(len(radii), **kwargs)
        self.radii = [float(radius) for radius in radii]

    def update(self, prediction: Tensor, radius: Tensor, label: Tensor) -> None:
        """Add images, ``(N,)`` each."""
        self._add(certified_accuracy(prediction, radius, label, self.radii), len(prediction))


class AverageCertifiedRadius(_Mean):
    """ACR; see `average_certified_radius`.

    Args:
        **kwargs: See `torchmetrics.Metric`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(1, **kwargs)

    def update(self, prediction: Tensor, radius: Tensor, label: Tensor) -> None:
        """Add images, ``(N,)`` each."""
        self._add(average_certified_radius(prediction, radius, label), len(prediction))


class AbstentionRate(_Mean):
    """Share of images without an answer; see `abstention_rate`.

    Args:
        **kwargs: See `torchmetrics.Metric`.
    """

    higher_is_better = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(1, **kwargs)

    def update(self, prediction: Tensor) -> None:
        """Add images, ``(N,)``."""
        self._add(abstention_rate(prediction), len(prediction))
