"""SODM: solvable optimisation of the radius via a differentiable mapping."""

from collections.abc import Callable, Iterable
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from robustsmooth.data import Batch
from robustsmooth.losses import SODMLoss
from robustsmooth.methods.base import ClassificationModule, Optimizing, Training
from robustsmooth.methods.noisy import noisy_logits, require_copies, require_noise


class SODMModule(ClassificationModule):
    """Maximise accuracy and radius of the smoothed classifier directly (eq. 13, Algorithm 1).

    The mapping turns logits into the scores that are averaged. A mapping with parameters is trained
    too: every `mapping_interval` steps, on the current batch, with `mapping_copies` noisy copies, by
    an optimiser of its own (Algorithm 1, steps 8 to 13). The network is in eval mode meanwhile, as it
    is when it is certified.

    Algorithm 1 draws another mini-batch for the mapping, after the network's step; here it is the
    batch of the network's next step.

    Args:
        network: See `ClassificationModule`.
        optimizer: See `ClassificationModule`.
        sigma: Noise level in pixel units; positive.
        loss: The objective.
        mapping: Logits to log-scores, such as `SoftmaxMapping` or `DynamicMapping`.
        mapping_optimizer: Makes the mapping's optimiser from its parameters (a partial); needed if it
            has any.
        mapping_interval: Steps between updates of the mapping, the paper's m.
        mapping_copies: Noisy copies for an update of the mapping, the paper's n'.
        copies: Noisy copies per image, the paper's n.
        robust_weight: The paper's beta.
        robust_weight_factor: What beta is multiplied by from `robust_weight_epoch` on.
        robust_weight_epoch: That epoch, counted from 0; None for never. The weight of every epoch is logged
            as ``train/robust_weight``.
        **training: See `ClassificationModule`.

    Raises:
        ValueError: If an argument is out of its range, or the mapping has parameters and no optimiser.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizing,
        *,
        sigma: float,
        loss: SODMLoss,
        mapping: nn.Module,
        mapping_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
        mapping_interval: int = 5,
        mapping_copies: int = 128,
        copies: int = 16,
        robust_weight: float = 6.0,
        robust_weight_factor: float = 10.0,
        robust_weight_epoch: int | None = None,
        **training: Unpack[Training],
    ) -> None:
        super().__init__(network, optimizer, sigma=sigma, **training)
        require_noise(sigma)
        require_copies("copies", copies)
        require_copies("mapping_copies", mapping_copies)
        require_copies("mapping_interval", mapping_interval)
        if robust_weight < 0 or robust_weight_factor < 0:
            raise ValueError(
                "`method.robust_weight` and `method.robust_weight_factor` must not be negative, "
                f"got {robust_weight} and {robust_weight_factor}"
            )
        self.loss = loss
        self.mapping = mapping.requires_grad_(False)  # not trained by the network's optimiser or DDP
        parameters = list(mapping.parameters())
        if parameters and mapping_optimizer is None:
            raise ValueError("`method.mapping_optimizer` must be given: the mapping has parameters to train")
        self.mapping_optimizer = mapping_optimizer(parameters) if parameters and mapping_optimizer else None
        self.mapping_interval = mapping_interval
        self.mapping_copies = mapping_copies
        self.copies = copies
        self.robust_weight = robust_weight
        self.robust_weight_factor = robust_weight_factor
        self.robust_weight_epoch = robust_weight_epoch
        self._saved_optimizer: dict[str, Any] | None = None

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Eq. 13 over the noisy copies of the batch; before it, a step of the mapping when it is due."""
        _, batch_idx, _ = self._place
        if self.mapping_optimizer is not None and batch_idx % self.mapping_interval == 0:
            self.update_mapping(batch)
        noises = self.noises(batch.images, self.copies)
        logits = noisy_logits(self.network, batch.images, noises)
        weight = self.current_robust_weight()
        terms = self.loss(self.mapping(logits), batch.labels, robust_weight=weight)
        return {**terms, "robust_weight": torch.tensor(weight), "logits": logits[0]}

    def current_robust_weight(self) -> float:
        """Beta in the current epoch."""
        late = self.robust_weight_epoch is not None and self.current_epoch >= self.robust_weight_epoch
        return self.robust_weight * (self.robust_weight_factor if late else 1.0)

    # ------------------------------------------------------------------ the mapping

    def update_mapping(self, batch: Batch) -> None:
        """One step of the mapping's optimiser, the same on every rank."""
        assert self.mapping_optimizer is not None
        parameters = list(self.mapping.requires_grad_(True).parameters())
        weight = self.current_robust_weight()
        with torch.enable_grad():
            log_scores = self.mapping(self._many_logits(batch.images))
            loss = self.loss(log_scores, batch.labels, robust_weight=weight)["loss"]
            gradients = torch.autograd.grad(loss, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = self.mean_over_ranks(gradient)
        self.mapping_optimizer.step()
        self.mapping_optimizer.zero_grad()
        self.mapping.requires_grad_(False)

    @torch.no_grad()
    def _many_logits(self, images: Tensor) -> Tensor:
        """Logits of `mapping_copies` noisy copies, in passes of at most `copies` each."""
        self.network.eval()
        parts = []
        for draw, start in enumerate(range(0, self.mapping_copies, self.copies)):
            copies = min(self.copies, self.mapping_copies - start)
            noises = self.noises(images, copies, "mapping", draw)
            parts.append(noisy_logits(self.network, images, noises))
        self.network.train()
        return torch.cat(parts)

    # ------------------------------------------------------------------ exact resume

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the mapping's optimiser."""
        if self.mapping_optimizer is not None:
            checkpoint["mapping_optimizer"] = self.mapping_optimizer.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the saved optimiser until the parameters are on their device."""
        self._saved_optimizer = checkpoint.get("mapping_optimizer")

    def on_train_start(self) -> None:
        """Restore the mapping's optimiser."""
        if self.mapping_optimizer is not None and self._saved_optimizer is not None:
            self.mapping_optimizer.load_state_dict(self._saved_optimizer)
            self._saved_optimizer = None
