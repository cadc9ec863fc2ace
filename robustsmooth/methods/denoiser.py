"""Denoised smoothing: train a denoiser in front of a classifier that stays as it is (Salman et al. 2020)."""

from typing import Any, Literal, Unpack, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsmooth.data import Batch
from robustsmooth.methods.base import ClassificationModule, Optimizing, Parameters, Training
from robustsmooth.methods.noisy import require_noise

Objective = Literal["mse", "stability"]


class DenoiserModule(ClassificationModule):
    r"""Trains ``network.denoiser``; the classifier behind it is frozen, in eval mode.

    With D the denoiser, F the classifier and d the noise,

    .. math:: \text{mse:}\ \|D(x + d) - x\|^2 / \text{pixels}, \qquad
        \text{stability:}\ CE(F(D(x + d)), \arg\max F(x))

    (Salman et al. 2020). The loss uses no labels. The paper trains with mse first and then with
    stability: ``method.objective=stability
    model.denoiser_checkpoint=<run folder of mse>``. What is certified is the composed network.

    Args:
        network: A classifier with a denoiser.
        optimizer: See `ClassificationModule`.
        sigma: Noise level in pixel units; positive.
        start: Where the classifier's weights come from; only checked to be given.
        objective: ``mse`` or ``stability``.
        **training: See `ClassificationModule`.

    Raises:
        ValueError: If an argument is out of its range, `start` is missing, or there is no denoiser.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizing,
        *,
        sigma: float,
        start: str | None,
        objective: Objective = "stability",
        **training: Unpack[Training],
    ) -> None:
        super().__init__(network, optimizer, sigma=sigma, **training)
        require_noise(sigma)
        if objective not in get_args(Objective):
            raise ValueError(f"`method.objective` must be mse or stability, got {objective!r}")
        if start is None:
            raise ValueError(
                "a denoiser is trained in front of a trained classifier: add model.checkpoint=<run folder>, "
                "such as the one that method=natural wrote"
            )
        if getattr(self.network, "denoiser", None) is None:
            raise ValueError("`model.denoiser` must be given, such as denoiser@model.denoiser=dncnn")
        self.objective = objective
        self.network.requires_grad_(False)
        self.network.denoiser.requires_grad_(True)

    @property
    def needs_labels(self) -> bool:
        """The loss uses no labels."""
        return False

    def parameter_groups(self) -> Parameters:
        """The denoiser's parameters."""
        return list(self.network.denoiser.parameters())  # type: ignore[union-attr]

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        """The objective on the batch's images; its labels are not used."""
        network: Any = self.network
        for part in network.children():  # train() of this module has put the classifier into train mode
            part.train(part is network.denoiser)
        denoised = network.denoiser(batch.images + self.noises(batch.images)[0])
        if self.objective == "mse":
            return {"loss": functional.mse_loss(denoised, batch.images)}
        with torch.no_grad():
            targets = network.classify(batch.images).argmax(dim=1)
        return {"loss": functional.cross_entropy(network.classify(denoised), targets)}
