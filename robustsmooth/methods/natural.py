"""Training on clean images: the undefended baseline."""

from typing import Any

from torch import Tensor

from robustsmooth.data import Batch
from robustsmooth.losses import CopiesLoss, CrossEntropy
from robustsmooth.methods.base import ClassificationModule
from robustsmooth.methods.noisy import copies_loss, require_copies

__all__ = ["NaturalModule"]


class NaturalModule(ClassificationModule):
    """A loss of the clean images, which is cross-entropy unless another is given.

    Args:
        *args: As in `ClassificationModule`.
        loss: What is minimised, for one copy of each image without noise; cross-entropy if None.
        **kwargs: As in `ClassificationModule`.

    Raises:
        ValueError: If the loss needs several copies.
    """

    def __init__(self, *args: Any, loss: CopiesLoss | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loss = loss or CrossEntropy()
        require_copies("copies", 1, self.loss)

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Mean loss of the clean batch."""
        return copies_loss(self.network, self.loss, batch.images, None, batch.labels, sigma=self.sigma)
