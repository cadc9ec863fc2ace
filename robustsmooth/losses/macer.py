"""MACER: maximise the certified radius directly, without attacks (Zhai et al., ICLR 2020)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import nll_loss, softmax
from torch.special import ndtri

from robustsmooth.losses.averaging import at_least_float32, log_average


def radius_hinge(probabilities: Tensor, labels: Tensor, margin: float) -> Tensor:
    """The hinge on the certified radius of every image, in units of sigma / 2.

    ``Phi^-1(p2) - Phi^-1(p1) + margin`` for the two largest probabilities of an image that the smoothed
    classifier gets right and whose gap ``|Phi^-1(p1) - Phi^-1(p2)|`` is finite and at most `margin`;
    0 for every other image, with no gradient. (An infinite gap is a saturated softmax; its gradient
    would be NaN.)

    Args:
        probabilities: The smoothed classifier's soft output, ``(B, K)``, K at least 2.
        labels: ``(B,)``.
        margin: The paper's gamma, positive: larger gaps are not increased further.

    Returns:
        ``(B,)`` in [0, margin].
    """
    top, classes = probabilities.topk(2, dim=1)
    gap = ndtri(top[:, 0]) - ndtri(top[:, 1])
    counted = (classes[:, 0] == labels) & (gap <= margin)  # false for an infinite gap, and for NaN
    # Where it is not counted, 0.5 replaces inf in the backward pass.
    safe = torch.where(counted.unsqueeze(1), top, torch.full_like(top, 0.5))
    return torch.where(counted, ndtri(safe[:, 1]) - ndtri(safe[:, 0]) + margin, torch.zeros_like(gap))


@dataclass(frozen=True, kw_only=True)
class MACERLoss:
    """Cross-entropy of the smoothed soft classifier plus a hinge on its certified radius.

    ``(1/B) [sum -log p_y + robust_weight * sigma / 2 * sum hinge]`` where p averages the softmax over
    the noisy copies, and the hinge takes the softmax at inverse temperature `inverse_temperature`.

    Args:
        robust_weight: The paper's lambda.
        inverse_temperature: The paper's beta, in the hinge only.
        margin: The paper's gamma.
    """

    robust_weight: float = 12.0
    inverse_temperature: float = 16.0
    margin: float = 8.0
    needs_clean = False
    min_copies = 1

    def __post_init__(self) -> None:
        if self.robust_weight < 0:
            raise ValueError(f"`robust_weight` must not be negative, got {self.robust_weight}")
        for name in ("inverse_temperature", "margin"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}")

    def __call__(
        self, logits: Tensor, labels: Tensor, *, sigma: float, clean: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See `CopiesLoss`: the terms ``classification`` and ``robustness``, which is weighted."""
        logits = at_least_float32(logits)
        probabilities = softmax(self.inverse_temperature * logits, dim=2).mean(dim=0)
        hinge = radius_hinge(probabilities, labels, self.margin)
        return {
            "classification": nll_loss(log_average(logits), labels, reduction="none"),
            "robustness": self.robust_weight * sigma / 2 * hinge,
        }
