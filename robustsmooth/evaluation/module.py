"""The LightningModule of every evaluation: a network and its clean accuracy."""

import pytorch_lightning as pl
from torch import Tensor, nn
from torchmetrics import MeanMetric

from robustsmooth.data import Batch
from robustsmooth.smoothing import check_images, contains_label


class EvaluationModule(pl.LightningModule):
    """Logs ``test/top1`` and ``test/top5`` of a network on clean images; callbacks do the rest.

    Args:
        network: Maps images in [0, 1], ``(B, C, H, W)``, to logits ``(B, K)``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.top1, self.top5 = MeanMetric(), MeanMetric()

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, K)``."""
        return self.network(images)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Logits of the clean batch, for callbacks that want them.

        Raises:
            ValueError: If the data set yields images that are not finite and in [0, 1].
        """
        check_images(batch.images, where="the data set's images")
        logits = self.network(batch.images)
        if len(batch.labels):  # a rank may have no image
            self.top1.update(contains_label(logits, batch.labels).float())
            self.top5.update(contains_label(logits, batch.labels, k=5).float())
        metrics = {"test/top1": self.top1, "test/top5": self.top5}
        self.log_dict(metrics, on_step=False, on_epoch=True)
        return logits
