"""Adversarial training of the base classifier (Madry et al. 2018)."""

from typing import Unpack

from torch import Tensor, nn

from robustsmooth.attacks import Attack, NoisePGD
from robustsmooth.data import Batch
from robustsmooth.losses import CopiesLoss, CrossEntropy
from robustsmooth.methods.base import ClassificationModule, Optimizing, Training
from robustsmooth.methods.noisy import copies_loss, require_copies


def require_untargeted(attack: Attack) -> None:
    """Raise ValueError unless an attack moves images, and away from the labels that it is given."""
    if isinstance(attack, NoisePGD):
        raise ValueError(
            "this attack moves the noise, and this method needs one that moves the images: choose "
            "attack=pgd_l2, smoothadv_pgd or another of those"
        )
    if getattr(attack, "targeted", False):
        raise ValueError("`attack.targeted` must be false: training moves images away from their labels")


def require_shared_noise(attack: Attack) -> None:
    """Raise ValueError if an attack has a noise level of its own, where it uses the noises of the step."""
    sigma = getattr(attack, "sigma", None)
    if sigma is not None:
        raise ValueError(
            f"`attack.sigma` has no effect with this method, got {sigma}: the attack uses the "
            "noises of the training step, whose level is method.sigma"
        )


def require_noise_attack(attack: NoisePGD) -> None:
    """Raise ValueError unless an attack moves the noise."""
    if not isinstance(attack, NoisePGD):
        raise ValueError(
            "this method needs an attack that moves the noise: choose attack=noise_cat_rs or noise_sun2025"
        )


class AdversarialModule(ClassificationModule):
    """A loss of adversarial images of the network itself, without noise; cross-entropy by default.

    The attack sees the network in eval mode; the training step that follows is in train mode.

    Args:
        network: See `ClassificationModule`.
        optimizer: See `ClassificationModule`.
        sigma: Noise level in pixel units; 0 for none.
        attack: Makes the images, such as PGD in an l2 or linf ball.
        loss: What is minimised on them, one copy of each; cross-entropy if None.
        **training: See `ClassificationModule`.

    Raises:
        ValueError: If the attack is a targeted one, or the loss needs several copies.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizing,
        *,
        sigma: float = 0.0,
        attack: Attack,
        loss: CopiesLoss | None = None,
        **training: Unpack[Training],
    ) -> None:
        super().__init__(network, optimizer, sigma=sigma, **training)
        require_untargeted(attack)
        self.attack = attack
        self.loss = loss or CrossEntropy()
        require_copies("copies", 1, self.loss)

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Mean loss of the attacked batch."""
        images = self.attack(self.network, batch.images, batch.labels, randomness=self.randomness("attack"))
        return copies_loss(self.network, self.loss, images, None, batch.labels, sigma=self.sigma)
