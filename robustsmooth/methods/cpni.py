"""PNI and CPNI: adversarial training of networks with trainable noise, and their fine-tunings."""

import dataclasses
from typing import Any, Literal, Unpack

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from robustsmooth.attacks import Attack
from robustsmooth.data import Batch
from robustsmooth.losses import CopiesLoss, CrossEntropy
from robustsmooth.methods.adversarial import require_untargeted
from robustsmooth.methods.base import ClassificationModule, Optimizing, Parameters, Training
from robustsmooth.methods.noisy import copies_loss, require_copies
from robustsmooth.models.noise_layers import is_random, noise_parameters, noises
from robustsmooth.smoothing import contains_label


class CPNIModule(ClassificationModule):
    r"""Adversarial training as in PNI (He et al. 2019) and CPNI (Nemcovsky et al.).

    The noise is in the network (``model.noise_layers``); this module is the training. With L the loss
    and w the weight of adversarial examples, ``mixture="both"`` minimises (CPNI, eq. 6)

    .. math:: (1 - w) L(x + \sigma\xi) + w L(\hat x + \sigma\xi')

    and ``mixture="either"`` the loss at one noisy image per image (eq. 22, the fine-tuning *Gauss*)

    .. math:: L(x + \eta), \quad \eta \sim N(0, \sigma^2 I) + B\,\delta, \quad B \sim Ber(w).

    The attack sees the network in eval mode with its noise. An attack that averages over copies (EPGD) uses
    one pass per copy, because a random network draws once per pass;
    one whose own noise level is not set takes the noise of this training.

    Logs ``train/adversarial_top1``, with ``both`` also ``train/clean_loss`` and
    ``train/adversarial_loss``, and ``train/noise_scale``, the mean absolute value of all their strengths d.

    Args:
        network: See `ClassificationModule`.
        optimizer: See `ClassificationModule`.
        sigma: Noise level in pixel units; 0 for none.
        attack: Makes the adversarial images.
        loss: L, of one copy of each image; cross-entropy if None.
        adversarial_weight: w, in [0, 1].
        mixture: ``both``: the loss uses each image clean and attacked; ``either``: one of the two, chosen at
            random.
        labels: What the attack moves away from: the ``true`` labels, or the network's own
            ``predicted`` ones (published code of PNI), so that the label does not leak into the image.
        noise_weight_decay: Weight decay of the noise strengths; None for that of all parameters.
            PNI's code applies it to everything but the strengths, CPNI's to everything.
        **training: See `ClassificationModule`.

    Raises:
        ValueError: If a value is out of its range.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizing,
        *,
        sigma: float = 0.0,
        attack: Attack,
        loss: CopiesLoss | None = None,
        adversarial_weight: float = 0.5,
        mixture: Literal["both", "either"] = "both",
        labels: Literal["true", "predicted"] = "true",
        noise_weight_decay: float | None = None,
        **training: Unpack[Training],
    ) -> None:
        super().__init__(network, optimizer, sigma=sigma, **training)
        if not 0 <= adversarial_weight <= 1:
            raise ValueError(f"`method.adversarial_weight` must be in [0, 1], got {adversarial_weight}")
        if mixture not in ("both", "either"):
            raise ValueError(f"`method.mixture` must be both or either, got {mixture!r}")
        if labels not in ("true", "predicted"):
            raise ValueError(f"`method.labels` must be true or predicted, got {labels!r}")
        if noise_weight_decay is not None and noise_weight_decay < 0:
            raise ValueError(f"`method.noise_weight_decay` must be at least 0, got {noise_weight_decay}")
        require_untargeted(attack)
        self.loss = loss or CrossEntropy()
        require_copies("copies", 1, self.loss)
        self.attack = dataclasses.replace(
            attack,
            sigma=self.sigma if attack.sigma is None else attack.sigma,
            noise=self.noise if attack.noise is None and self.sigma > 0 else attack.noise,
            copies_per_pass=1 if is_random(self.network) else attack.copies_per_pass,
        )
        self.adversarial_weight = adversarial_weight
        self.mixture, self.labels = mixture, labels
        self.noise_weight_decay = noise_weight_decay
        self.train_adversarial_top1 = MeanMetric()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step, logged; also on a rank on which no image of the batch is attacked."""
        loss = super().training_step(batch, batch_idx)
        if self.mixture == "both" or self.adversarial_weight > 0:
            top1 = self.train_adversarial_top1
            self.log("train/adversarial_top1", top1, on_step=False, on_epoch=True)
        return loss

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Eq. 6 or eq. 22, see the class."""
        parts = self._both(batch) if self.mixture == "both" else self._either(batch)
        scales = [noise.scale.detach().flatten() for noise in noises(self.network)]
        if scales:
            parts["noise_scale"] = torch.cat(scales).abs().mean()
        return parts

    def parameter_groups(self) -> Parameters:
        """All parameters; the noise strengths in a separate group if they have their own weight decay."""
        if self.noise_weight_decay is None:
            return super().parameter_groups()
        strengths = {id(parameter) for parameter in noise_parameters(self.network)}
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        apart = [parameter for parameter in trained if id(parameter) in strengths]
        groups: list[dict[str, Any]] = [{"params": [item for item in trained if id(item) not in strengths]}]
        return [*groups, {"params": apart, "weight_decay": self.noise_weight_decay}] if apart else groups

    def _both(self, batch: Batch) -> dict[str, Tensor]:
        adversarial = self._attacked(batch.images, batch.labels)
        # Two passes, as published: two draws of the network's noise, two batches for BatchNorm.
        clean = self._losses(batch.images, batch.labels, draw=0)
        attacked = self._losses(adversarial, batch.labels, draw=1)
        right = contains_label(attacked["logits"].detach(), batch.labels)
        self.train_adversarial_top1.update(right.float())
        weight = self.adversarial_weight
        return {
            "loss": (1 - weight) * clean["loss"] + weight * attacked["loss"],
            "logits": clean["logits"],
            "clean_loss": clean["loss"],
            "adversarial_loss": attacked["loss"],
        }

    def _either(self, batch: Batch) -> dict[str, Tensor]:
        draws = self.randomness("bernoulli").uniform(batch.images.flatten(1)[:, 0])[0]
        chosen = draws < self.adversarial_weight
        images = batch.images.clone()
        if chosen.any():
            images[chosen] = self._attacked(batch.images[chosen], batch.labels[chosen])
        result = self._losses(images, batch.labels, draw=0)
        if chosen.any():
            right = contains_label(result["logits"][chosen].detach(), batch.labels[chosen])
            self.train_adversarial_top1.update(right.float())
        return result

    def _attacked(self, images: Tensor, labels: Tensor) -> Tensor:
        if self.labels == "predicted":
            labels = self._predictions(images)
        return self.attack(self.network, images, labels, randomness=self.randomness("attack"))

    def _predictions(self, images: Tensor) -> Tensor:
        """The network's answers in eval mode, the one in which it is attacked."""
        training = self.network.training
        self.network.eval()
        try:
            with torch.no_grad():
                return self.network(images).argmax(1)
        finally:
            self.network.train(training)

    def _losses(self, images: Tensor, labels: Tensor, draw: int) -> dict[str, Tensor]:
        """The loss of one noisy copy of each image."""
        noises = self.noises(images, draw=draw) if self.sigma > 0 else None
        return copies_loss(self.network, self.loss, images, noises, labels, sigma=self.sigma)
