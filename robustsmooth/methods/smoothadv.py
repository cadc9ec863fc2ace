"""SmoothAdv: adversarial training of the smoothed classifier (Salman et al. 2019)."""

from typing import Any, Unpack

import torch
from torch import Tensor, nn

from robustsmooth.attacks import Attack
from robustsmooth.data import UNLABELED, Batch
from robustsmooth.losses import CopiesLoss, CrossEntropy
from robustsmooth.methods.adversarial import require_shared_noise, require_untargeted
from robustsmooth.methods.base import ClassificationModule, Optimizing, Training
from robustsmooth.methods.noisy import copies_loss, require_copies, require_noise


class SmoothAdvModule(ClassificationModule):
    """Attack the smoothed classifier, then train on noisy copies of what the attack found.

    Pseudocode 1: the noises are drawn once per image and step, and are the same in every step of the
    attack and in the training step. The attack sees the network in eval mode and does not change its
    parameters.

    The attack's objective chooses the variant: ``PlugIn`` is SmoothAdv_PGD or SmoothAdv_DDN (eq. 6),
    ``Stein`` the variant without gradients (eq. 7), and ``Plain`` the paper's baseline, an attack on the base
    classifier ("vanilla", Appendix C.1).

    Self-training (section 4.2): extra images (``data.extra``) carry the label `UNLABELED`. The labeler, a
    standard network that is not trained, labels them, and their weight in the loss is `extra_weight`.

    Differences from the published code: with m noises it splits a batch into m parts and takes an
    optimiser step on each; here one step sees all images of the batch. Pseudo-labels are computed on
    the image as it enters the step (augmented), not once beforehand.

    Args:
        network: See `ClassificationModule`; for fine-tuning, a pre-trained network.
        optimizer: See `ClassificationModule`.
        sigma: Noise level in pixel units; positive.
        attack: Perturbs the images; must have an ``epsilon``.
        loss: What is minimised on the noisy copies of the attacked images; cross-entropy if None. Any loss of
            noisy copies is possible, such as Consistency's or MACER's.
        copies: Noises per image, the paper's m_train.
        multi_noise: Train on all of an image's noisy copies (Pseudocode 1); or on one of them, while
            the attack uses all.
        warmup_epochs: Epochs over which the attack's epsilon, and a given step size with it, grow linearly to
            their full value; 0 for none. Logged as ``train/epsilon``.
        labeler: Labels extra images; None if there are none.
        extra_weight: Weight of an extra image in the loss, relative to a labelled one, on whichever device.
        **training: See `ClassificationModule`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizing,
        *,
        sigma: float,
        attack: Attack,
        loss: CopiesLoss | None = None,
        copies: int = 1,
        multi_noise: bool = True,
        warmup_epochs: int = 0,
        labeler: nn.Module | None = None,
        extra_weight: float = 1.0,
        **training: Unpack[Training],
    ) -> None:
        super().__init__(network, optimizer, sigma=sigma, **training)
        require_noise(sigma)
        self.loss = loss or CrossEntropy()
        require_copies("copies", copies)
        if (copies if multi_noise else 1) < self.loss.min_copies:
            raise ValueError(
                f"this loss compares at least {self.loss.min_copies} noisy copies of an image: set "
                f"method.copies={self.loss.min_copies} or more, and method.multi_noise=true"
            )
        if getattr(attack, "epsilon", None) is None:
            raise ValueError("`attack.epsilon` must be given: SmoothAdv trains within a budget")
        require_untargeted(attack)
        require_shared_noise(attack)
        if warmup_epochs < 0:
            raise ValueError(f"`method.warmup_epochs` must be at least 0, got {warmup_epochs}")
        if extra_weight < 0:
            raise ValueError(f"`method.extra_weight` must be at least 0, got {extra_weight}")
        self.attack = attack
        self.copies = copies
        self.multi_noise = multi_noise
        self.warmup_epochs = warmup_epochs
        self.labeler = None if labeler is None else labeler.requires_grad_(False)
        self.extra_weight = extra_weight

    @property
    def needs_labels(self) -> bool:
        """The labeler gives extra images their labels."""
        return self.labeler is None

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of noisy copies of the attacked batch, extra images weighted."""
        images = batch.images
        labels, weights = self._labels(batch)
        noises = self.noises(images, self.copies)
        attack = self._attack()
        attacked = attack(self.network, images, labels, randomness=self.randomness("attack"), noises=noises)
        result = copies_loss(
            self.network,
            self.loss,
            attacked,
            noises if self.multi_noise else noises[:1],
            labels,
            sigma=self.sigma,
            weights=weights,
        )
        if self.labeler is not None:
            del result["logits"]  # no training accuracy with images without labels
        return {**result, "epsilon": torch.tensor(attack.epsilon)}

    def _attack(self) -> Any:
        """The attack with this epoch's budget."""
        attack: Any = self.attack
        if self.current_epoch + 1 >= self.warmup_epochs:
            return attack
        return attack.with_epsilon(attack.epsilon * (self.current_epoch + 1) / self.warmup_epochs)

    def _labels(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Labels, with those of extra images predicted, and the weight of every image; see `mean_terms`."""
        if self.labeler is None:
            return batch.labels, None
        extra = batch.labels == UNLABELED
        self.labeler.eval()  # train() of this module has put the labeler into train mode too
        with torch.no_grad():
            labels = torch.where(extra, self.labeler(batch.images).argmax(dim=1), batch.labels)
        weights = torch.where(extra, self.extra_weight, 1.0)
        mean = self.mean_over_ranks(weights.mean())
        return labels, weights / mean.clamp(min=torch.finfo(mean.dtype).tiny)  # a batch may have no weight
