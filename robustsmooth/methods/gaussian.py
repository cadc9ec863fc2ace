"""Training on noisy copies: Gaussian augmentation, and every loss of noisy copies."""

from typing import Unpack

from torch import Tensor, nn

from robustsmooth.data import Batch
from robustsmooth.losses import CopiesLoss, CrossEntropy
from robustsmooth.methods.base import ClassificationModule, Optimizing, Training
from robustsmooth.methods.noisy import copies_loss, require_copies


class GaussianModule(ClassificationModule):
    """A loss of noisy copies of the images, the noise fresh in every step.

    With cross-entropy it is Gaussian augmentation (Cohen et al. 2019, section 3.3), with other losses
    MACER, Stability training and Consistency. The noisy images are not clamped to [0, 1]: the certificate
    holds for unclamped noise.

    Args:
        network: See `ClassificationModule`.
        optimizer: See `ClassificationModule`.
        sigma: Noise level in pixel units; positive.
        loss: What is minimised; cross-entropy if None.
        copies: Noisy copies of each image in a step (1 in Cohen et al.).
        **training: See `ClassificationModule`.

    Raises:
        ValueError: If `sigma` is not positive or there are too few copies.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizing,
        *,
        sigma: float,
        loss: CopiesLoss | None = None,
        copies: int = 1,
        **training: Unpack[Training],
    ) -> None:
        super().__init__(network, optimizer, sigma=sigma, **training)
        if sigma <= 0:
            raise ValueError(f"`method.sigma` must be positive, got {sigma}; method=natural has no noise")
        self.loss = loss or CrossEntropy()
        require_copies("copies", copies, self.loss)
        self.copies = copies

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        """The loss over the noisy copies of the batch."""
        noises = self.noises(batch.images, self.copies)
        return copies_loss(self.network, self.loss, batch.images, noises, batch.labels, sigma=self.sigma)
