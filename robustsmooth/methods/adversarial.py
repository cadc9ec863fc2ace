"""Adversarial training of the base classifier (Madry et al. 2018)."""

from typing import Any

from torch import Tensor
from torch.nn import functional

from robustsmooth.attacks import Attack
from robustsmooth.data import Batch
from robustsmooth.methods.base import ClassificationModule

__all__ = ["AdversarialModule", "require_untargeted"]


def require_untargeted(attack: Attack) -> None:
    """Raise ValueError if an attack moves images towards the labels that it is given."""
    if getattr(attack, "targeted", False):
        raise ValueError("`attack.targeted` must be false: training moves images away from their labels")


class AdversarialModule(ClassificationModule):
    """Cross-entropy on adversarial images of the network itself, without noise.

    The attack sees the network in eval mode; the training step that follows is in train mode.

    Args:
        *args: As in `ClassificationModule`.
        attack: Makes the images, such as PGD in an l2 or linf ball.
        **kwargs: As in `ClassificationModule`.

    Raises:
        ValueError: If the attack is a targeted one.
    """

    def __init__(self, *args: Any, attack: Attack, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        require_untargeted(attack)
        self.attack = attack

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Mean cross-entropy of the attacked batch."""
        images = self.attack(self.network, batch.images, batch.labels, randomness=self.randomness("attack"))
        logits = self.network(images)
        return {"loss": functional.cross_entropy(logits, batch.labels), "logits": logits}
