"""CAT-RS: confidence-aware training for randomized smoothing (Jeong, Kim & Shin 2023)."""

from dataclasses import replace
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from robustsmooth.attacks import NoisePGD
from robustsmooth.data import Batch, VoteTable
from robustsmooth.losses import bottom_cross_entropy, mean_terms, worst_divergence
from robustsmooth.methods.adversarial import require_noise_attack
from robustsmooth.methods.base import ClassificationModule, Optimizing, Training
from robustsmooth.methods.noisy import noisy_logits, require_copies, require_noise


class CATRSModule(ClassificationModule):
    r"""Cross-entropy on the easier noises of uncertain images, robustness on images that are certain.

    With w the share of an image's m noisy copies that the network classifies correctly now, k is drawn from
    Binomial(m, w), and is at least 1. With L_(1) <= ... <= L_(m) the copies' cross-entropies, p* soft
    targets and d'_i noises that were attacked to raise the mean of :math:`KL(p^* \| p(x + d_i))`,

    .. math:: \frac{1}{m} \sum_{i \le k} L_{(i)} + \lambda\, 1[k = m] \max_i KL(p^* \,\|\, p(x + d'_i))

    The soft targets are votes of a network that was trained with Gaussian augmentation, counted once
    beforehand: ``python -m robustsmooth.predict checkpoint=... data.subset.split=train prediction.n=10000``.

    As in `SmoothAdvModule`, and unlike the published code, one step sees all images of the batch.

    Args:
        network: See `ClassificationModule`.
        optimizer: See `ClassificationModule`.
        sigma: Noise level in pixel units; positive.
        attack: Moves the noises; see `NoisePGD`.
        targets: Run folder of that ``predict``.
        copies: Noises per image, the paper's m.
        robust_weight: The paper's lambda.
        confidence_mask: Use p*_y for w, instead of the current share of correct copies (ImageNet).
        epsilon_factor: Multiplies the attack's epsilon and step size from `epsilon_epoch` on (ImageNet: 2).
        epsilon_epoch: That epoch, counted from 0; None for never.
        **training: See `ClassificationModule`.

    Raises:
        ValueError: If an argument is out of its range, or the targets are missing.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizing,
        *,
        sigma: float,
        attack: NoisePGD,
        targets: str | None,
        copies: int = 4,
        robust_weight: float = 1.0,
        confidence_mask: bool = False,
        epsilon_factor: float = 1.0,
        epsilon_epoch: int | None = None,
        **training: Unpack[Training],
    ) -> None:
        super().__init__(network, optimizer, sigma=sigma, **training)
        require_noise(sigma)
        require_copies("copies", copies)
        require_noise_attack(attack)
        if not robust_weight >= 0:
            raise ValueError(f"`method.robust_weight` must not be negative, got {robust_weight}")
        if not epsilon_factor > 0:
            raise ValueError(f"`method.epsilon_factor` must be positive, got {epsilon_factor}")
        if epsilon_epoch is not None and epsilon_epoch < 0:
            raise ValueError(f"`method.epsilon_epoch` must be at least 0, or null, got {epsilon_epoch}")
        if targets is None:
            raise ValueError(
                "CAT-RS learns from votes of a trained network: write them with `python -m "
                "robustsmooth.predict checkpoint=<run folder> data.subset.split=train prediction.n=10000`, "
                "and give that run's folder as method.targets"
            )
        classes: Any = self.network.num_classes
        self.targets = VoteTable.read(targets, classes)
        self.attack = attack
        self.copies = copies
        self.robust_weight = robust_weight
        self.confidence_mask = confidence_mask
        self.epsilon_factor = epsilon_factor
        self.epsilon_epoch = epsilon_epoch

    def on_fit_start(self) -> None:
        """Check that every training image has votes."""
        super().on_fit_start()
        self.targets.shares(torch.tensor(self.datamodule.train_positions))

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        """The loss, see the class."""
        images, labels = batch.images, batch.labels
        noises = self.noises(images, self.copies)
        targets = self.targets.shares(batch.indices)
        attacked = self._attack()(
            self.network, images, targets, noises=noises, randomness=self.randomness("attack")
        )
        logits = noisy_logits(self.network, images, noises)
        moved = noisy_logits(self.network, images, attacked)
        with torch.no_grad():
            kept = self._kept(logits, labels, targets)
        sure = kept == self.copies
        worst = torch.where(sure, worst_divergence(moved, targets), torch.zeros_like(targets[:, 0]))
        terms = {
            "classification": bottom_cross_entropy(logits, labels, kept),
            "robustness": self.robust_weight * worst,
        }
        return {**mean_terms(terms), "logits": logits[0], "sure": sure.float().mean()}

    def _kept(self, logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        """The paper's k, ``(B,)``."""
        if self.confidence_mask:
            share = targets.gather(1, labels.unsqueeze(1)).squeeze(1)
        else:
            share = (logits.argmax(dim=2) == labels).float().mean(dim=0)
        trials = self.randomness("binomial").uniform(share, self.copies) < share
        return trials.sum(dim=0).clamp(min=1)

    def _attack(self) -> NoisePGD:
        attack = self.attack
        if self.epsilon_epoch is None or self.current_epoch < self.epsilon_epoch or attack.epsilon is None:
            return attack
        step_size = None if attack.step_size is None else attack.step_size * self.epsilon_factor
        return replace(attack, epsilon=attack.epsilon * self.epsilon_factor, step_size=step_size)
