"""Gaussian augmentation (Cohen et al. 2019, section 3.3)."""

from typing import Any

from torch import Tensor
from torch.nn import functional

from robustsmooth.data import Batch
from robustsmooth.methods.base import ClassificationModule

__all__ = ["GaussianModule"]


class GaussianModule(ClassificationModule):
    """Cross-entropy on images with Gaussian noise, fresh in every step.

    The noisy images are not clamped to [0, 1]: the certificate is for unclamped noise.

    Args:
        *args: As in `ClassificationModule`.
        sigma: Noise level in pixel units; positive.
        copies: Noisy copies of each image in a step (1 in the paper); the loss is their mean.
        **kwargs: As in `ClassificationModule`.

    Raises:
        ValueError: If `sigma` is not positive or `copies` is below 1.
    """

    def __init__(self, *args: Any, sigma: float, copies: int = 1, **kwargs: Any) -> None:
        super().__init__(*args, sigma=sigma, **kwargs)
        if sigma <= 0:
            raise ValueError(f"`method.sigma` must be positive, got {sigma}; method=natural has no noise")
        if copies < 1:
            raise ValueError(f"`method.copies` must be at least 1, got {copies}")
        self.copies = copies

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Mean cross-entropy over the noisy copies of the batch."""
        noise = self.sigma * self.randomness("noise").normal(batch.images, self.copies)
        logits = self.network((batch.images + noise).flatten(0, 1))
        labels = batch.labels.repeat(self.copies)
        return {
            "loss": functional.cross_entropy(logits, labels),
            "logits": logits[: len(batch.images)],
        }
