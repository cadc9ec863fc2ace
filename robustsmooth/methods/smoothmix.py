"""SmoothMix: images mixed with unrestricted adversaries of the smoothed classifier (Jeong et al. 2021)."""

from dataclasses import replace
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from robustsmooth.attacks import PGD, project
from robustsmooth.data import Batch
from robustsmooth.losses import CopiesLoss, CrossEntropy, mean_terms, mixing_divergence
from robustsmooth.methods.adversarial import require_shared_noise, require_untargeted
from robustsmooth.methods.base import ClassificationModule, Optimizing, Training
from robustsmooth.methods.noisy import noisy_logits, require_copies, require_noise


class SmoothMixModule(ClassificationModule):
    r"""A loss of noisy copies, and lower confidence on mixtures of an image and its adversary.

    The adversary is the result of T steps on the mean softmax of the noisy copies, without a budget: it may
    look like another class. With u uniform in [0, 1/2] for each image, the mixed image
    :math:`\tilde x = (1 - u) x + u x_{adv}` should be classified like
    :math:`\tilde y = (1 - u) \bar p(x) + u / K` under the same noises:

    .. math:: \frac{1}{m} \sum_i L(f(x + d_i), y) + \eta w\, 1[\arg\max \bar p(x) = y]
        \frac{1}{m} \sum_i KL(\tilde y \,\|\, p(\tilde x + d_i))

    where w = min(1, (epoch + 1) / `warmup_epochs`).

    With `one_step` the image itself is replaced by the attack's first iterate, moved back to at most
    w times the step size (the paper's one-step adversary). With a single step too: there the published loop
    ends before it stores the first iterate, and trains on the image itself.

    As in `SmoothAdvModule`, and unlike the published code, one step sees all images of the batch.

    Args:
        network: See `ClassificationModule`.
        optimizer: See `ClassificationModule`.
        sigma: Noise level in pixel units; positive.
        attack: PGD in l2 without a budget, with a step size.
        loss: Of the noisy copies of the image; cross-entropy if None.
        copies: Noises per image, the paper's m.
        mix_weight: The paper's eta.
        one_step: Train on the attack's first iterate instead of the image.
        warmup_epochs: Epochs over which `mix_weight` and the first iterate's distance grow; 0 for none.
        **training: See `ClassificationModule`.

    Raises:
        ValueError: If an argument is out of its range, or the attack is not such a PGD.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizing,
        *,
        sigma: float,
        attack: PGD,
        loss: CopiesLoss | None = None,
        copies: int = 2,
        mix_weight: float = 5.0,
        one_step: bool = False,
        warmup_epochs: int = 10,
        **training: Unpack[Training],
    ) -> None:
        super().__init__(network, optimizer, sigma=sigma, **training)
        require_noise(sigma)
        require_untargeted(attack)
        if not isinstance(attack, PGD) or attack.norm != "l2" or attack.step_size is None:
            raise ValueError("SmoothMix needs PGD in l2 with `attack.step_size`, such as attack=smoothmix")
        if one_step and attack.epsilon != float("inf"):
            raise ValueError(
                f"`attack.epsilon` must be .inf with method.one_step=true, got {attack.epsilon}: the steps "
                "go on from the first one"
            )
        require_shared_noise(attack)
        self.loss = loss or CrossEntropy()
        require_copies("copies", copies, self.loss)
        if not mix_weight >= 0:
            raise ValueError(f"`method.mix_weight` must not be negative, got {mix_weight}")
        if warmup_epochs < 0:
            raise ValueError(f"`method.warmup_epochs` must be at least 0, got {warmup_epochs}")
        self.attack = attack
        self.copies = copies
        self.mix_weight = mix_weight
        self.one_step = one_step
        self.warmup_epochs = warmup_epochs

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of the images' noisy copies and of the mixed ones'."""
        labels, noises = batch.labels, self.noises(batch.images, self.copies)
        images, adversaries = self._attacked(batch.images, labels, noises)
        shares = 0.5 * self.randomness("mix").uniform(images.flatten(1)[:, 0])[0]
        u = shares.view(-1, *[1] * (images.ndim - 1))
        clean = self.network(images) if self.loss.needs_clean else None
        logits = noisy_logits(self.network, images, noises)
        mixed = noisy_logits(self.network, (1 - u) * images + u * adversaries, noises)
        terms = self.loss(logits, labels, sigma=self.sigma, clean=clean)
        weight = self.mix_weight * self._warmth()
        terms = {**terms, "mixing": weight * mixing_divergence(logits, mixed, labels, shares)}
        return {**mean_terms(terms), "logits": logits[0]}

    def _warmth(self) -> float:
        return min(1.0, (self.current_epoch + 1) / self.warmup_epochs) if self.warmup_epochs else 1.0

    def _attacked(self, images: Tensor, labels: Tensor, noises: Tensor) -> tuple[Tensor, Tensor]:
        """The images to train on, and the adversaries to mix them with."""
        attack, randomness = self.attack, self.randomness("attack")
        given: dict[str, Any] = {"randomness": randomness, "noises": noises}
        if not self.one_step:
            return images, attack(self.network, images, labels, **given)
        first = replace(attack, steps=1)(self.network, images, labels, **given)
        last = first
        if attack.steps > 1:  # the remaining steps of the same path: nothing is projected
            last = replace(attack, steps=attack.steps - 1)(self.network, first, labels, **given)
        assert attack.step_size is not None
        with torch.no_grad():
            return project(first, images, attack.step_size * self._warmth(), "l2"), last
