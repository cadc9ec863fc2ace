"""MACER: training that maximises the certified radius (Zhai et al. 2020)."""

from typing import Any

from torch import Tensor

from robustsmooth.data import Batch
from robustsmooth.losses import MACERLoss
from robustsmooth.methods.base import ClassificationModule
from robustsmooth.methods.noisy import noisy_logits, require_copies, require_noise

__all__ = ["MACERModule"]


class MACERModule(ClassificationModule):
    """Cross-entropy of the smoothed soft classifier and a hinge on its radius, without an attack.

    Args:
        *args: As in `ClassificationModule`.
        sigma: Noise level in pixel units; positive.
        loss: The objective.
        copies: Noisy copies per image, the paper's k.
        **kwargs: As in `ClassificationModule`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(self, *args: Any, sigma: float, loss: MACERLoss, copies: int = 16, **kwargs: Any) -> None:
        super().__init__(*args, sigma=sigma, **kwargs)
        require_noise(sigma)
        require_copies("copies", copies)
        self.loss = loss
        self.copies = copies

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        """The loss over the noisy copies of the batch."""
        noises = self.sigma * self.randomness("noise").normal(batch.images, self.copies)
        logits = noisy_logits(self.network, batch.images, noises)
        return {**self.loss(logits, batch.labels, sigma=self.sigma), "logits": logits[0]}
