"""Training on clean images: the undefended baseline."""

from typing import Unpack

from torch import Tensor, nn

from robustsmooth.data import Batch
from robustsmooth.losses import CopiesLoss, CrossEntropy
from robustsmooth.methods.base import ClassificationModule, Optimizing, Training
from robustsmooth.methods.noisy import copies_loss, require_copies


class NaturalModule(ClassificationModule):
    """A loss of the clean images, which is cross-entropy unless another is given.

    Args:
        network: See `ClassificationModule`.
        optimizer: See `ClassificationModule`.
        sigma: Noise level in pixel units; 0 for none.
        loss: What is minimised, for one copy of each image without noise; cross-entropy if None.
        **training: See `ClassificationModule`.

    Raises:
        ValueError: If the loss needs several copies.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizing,
        *,
        sigma: float = 0.0,
        loss: CopiesLoss | None = None,
        **training: Unpack[Training],
    ) -> None:
        super().__init__(network, optimizer, sigma=sigma, **training)
        self.loss = loss or CrossEntropy()
        require_copies("copies", 1, self.loss)

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Mean loss of the clean batch."""
        return copies_loss(self.network, self.loss, batch.images, None, batch.labels, sigma=self.sigma)
