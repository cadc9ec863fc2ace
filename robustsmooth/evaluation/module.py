"""The LightningModule of every evaluation: a network and its clean accuracy."""

from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from robustsmooth.data import Batch

__all__ = ["EvaluationModule"]


class EvaluationModule(pl.LightningModule):
    """Logs ``test/top1`` and ``test/top5`` of a network on clean images; callbacks do the rest.

    Args:
        network: Maps images in [0, 1], ``(B, C, H, W)``, to logits ``(B, K)``; has ``num_classes``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        classes: Any = network.num_classes
        self.network = network
        self.top1 = MulticlassAccuracy(classes, average="micro")
        self.top5 = MulticlassAccuracy(classes, average="micro", top_k=min(5, classes))

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, K)``."""
        return self.network(images)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Logits of the clean batch, for callbacks that want them."""
        logits = self.network(batch.images)
        self.top1.update(logits, batch.labels)
        self.top5.update(logits, batch.labels)
        metrics = {"test/top1": self.top1, "test/top5": self.top5}
        self.log_dict(metrics, on_step=False, on_epoch=True)
        return logits
