"""Statistics over images as metrics that are accumulated over batches and processes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torchmetrics import Metric

from robustsmooth.statistics import abstention_rate, acr, certified_accuracy, is_correct, sure_share


def _host(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy()


class _Mean(Metric):
    """A mean over images, accumulated from the means of batches in `robustsmooth.statistics`."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    total: Tensor
    images: Tensor

    def __init__(self, entries: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros(entries, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def _add(self, mean: ArrayLike, images: int) -> None:
        if images:
            self.total += torch.as_tensor(np.asarray(mean) * images, device=self.total.device)
            self.images += images

    def compute(self) -> Tensor:
        """The mean over all images so far, float64."""
        return (self.total / self.images).squeeze()


class CertifiedAccuracy(_Mean):
    """Share of all images correct with at least a certified radius; `statistics.certified_accuracy`.

    Args:
        radii: The radii.
        **kwargs: See `torchmetrics.Metric`.
    """

    def __init__(self, radii: Sequence[float], **kwargs: Any) -> None:
        super().__init__(len(radii), **kwargs)
        self.radii = [float(radius) for radius in radii]

    def update(self, prediction: Tensor, radius: Tensor, label: Tensor) -> None:
        """Add images, ``(N,)`` each."""
        correct = is_correct(_host(prediction), _host(label))
        self._add(certified_accuracy(correct, _host(radius), self.radii), len(prediction))


class AverageCertifiedRadius(_Mean):
    """ACR; see `robustsmooth.statistics.acr`.

    Args:
        **kwargs: See `torchmetrics.Metric`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(1, **kwargs)

    def update(self, prediction: Tensor, radius: Tensor, label: Tensor) -> None:
        """Add images, ``(N,)`` each."""
        self._add(acr(is_correct(_host(prediction), _host(label)), _host(radius)), len(prediction))


class SureShare(_Mean):
    """Share of images that are correct with p_A of at least 0.9; see `robustsmooth.statistics.sure_share`.

    Args:
        **kwargs: See `torchmetrics.Metric`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(1, **kwargs)

    def update(self, prediction: Tensor, p_a_lower: Tensor, label: Tensor) -> None:
        """Add images, ``(N,)`` each."""
        correct = is_correct(_host(prediction), _host(label))
        self._add(sure_share(correct, _host(p_a_lower)), len(prediction))


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
        self._add(abstention_rate(_host(prediction)), len(prediction))
