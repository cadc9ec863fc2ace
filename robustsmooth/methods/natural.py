"""Training on clean images: the undefended baseline."""

from torch import Tensor
from torch.nn import functional

from robustsmooth.data import Batch
from robustsmooth.methods.base import ClassificationModule

__all__ = ["NaturalModule"]


class NaturalModule(ClassificationModule):
    """Cross-entropy on clean images. See `ClassificationModule` for the arguments."""

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Mean cross-entropy of the clean batch."""
        logits = self.network(batch.images)
        return {"loss": functional.cross_entropy(logits, batch.labels), "logits": logits}
