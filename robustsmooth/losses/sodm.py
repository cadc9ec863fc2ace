"""SODM: optimise accuracy and certified radius through a differentiable mapping."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.special import ndtri

from robustsmooth.losses.averaging import at_least_float32, log_mean_exp


@dataclass(frozen=True, kw_only=True)
class SODMLoss:
    """Eq. 13 and step 5 of Algorithm 1, averaged over the images.

    With g the mean of the mapped scores over the noisy copies: ``-log g_y`` where g is wrong;
    ``-robust_weight * Phi^-1(g_y)`` where it is right and g_y < `threshold`; 0 where it is right and above.
    (Algorithm 1 writes a sum over the batch, eq. 13 the expectation; this is the mean, so that the learning
    rate does not depend on the batch size.)

    Args:
        threshold: The paper's rho, in (0, 1).
    """

    threshold: float = 0.99

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(f"`threshold` must be in (0, 1), got {self.threshold}")

    def __call__(self, log_scores: Tensor, labels: Tensor, *, robust_weight: float) -> dict[str, Tensor]:
        """Evaluate the loss.

        Args:
            log_scores: Mapped outputs for the noisy copies, ``(copies, B, K)``, logarithms (see
                `robustsmooth.losses.mappings`).
            labels: ``(B,)``.
            robust_weight: The paper's beta.

        Returns:
            ``loss`` and its terms ``accuracy`` and ``robustness`` (which is weighted), scalars.

        Raises:
            ValueError: If the scores carry no gradient although gradients are enabled: the 0-1 mapping.
        """
        if torch.is_grad_enabled() and not log_scores.requires_grad:
            raise ValueError(
                "`mapping` passes no gradient (the 0-1 mapping does not): train with softmax or dynamic"
            )
        smoothed = log_mean_exp(at_least_float32(log_scores))
        log_own = smoothed.gather(1, labels.unsqueeze(1)).squeeze(1)
        right = smoothed.argmax(dim=1) == labels
        counted = right & (log_own < math.log(self.threshold))
        accuracy = torch.where(right, torch.zeros_like(log_own), -log_own)
        # Where it is not counted, 0.5 replaces inf in the backward pass.
        score = torch.where(counted, log_own, torch.full_like(log_own, -math.log(2))).exp()
        robustness = -robust_weight * torch.where(counted, ndtri(score), torch.zeros_like(score))
        terms = {"accuracy": accuracy.mean(), "robustness": robustness.mean()}
        return {"loss": terms["accuracy"] + terms["robustness"], **terms}
