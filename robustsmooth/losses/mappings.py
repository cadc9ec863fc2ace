"""Mappings from the base classifier's logits to the scores that a smoothed classifier averages.

SODM calls them M. Each takes logits ``(..., K)`` and returns the *logarithm* of scores that are not
negative and sum to one, so that their average over the noise is a probability.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, softplus


class SoftmaxMapping(nn.Module):
    """``M = softmax``: differentiable, and its slope vanishes where the score approaches one (eq. 11)."""

    def forward(self, logits: Tensor) -> Tensor:
        """Map logits ``(..., K)`` to log-scores."""
        return log_softmax(logits, dim=-1)


class DynamicMapping(nn.Module):
    """A small learned mapping between softmax and 0-1 that stays a monotone probability (SODM 4.2).

    The paper does not publish its mapping network. Ours applies one increasing function s to each
    class's log-probability and normalises again: ``M(u) = softmax(s(log_softmax(u)))`` with

        s(z) = a z + sum_h b_h tanh(c_h z + d_h),    a, b_h, c_h > 0.

    So the scores are in (0, 1), sum to one and keep the order of the logits (the prediction of a single noisy
    copy does not change), and M(u)_y increases with u_y. At the start M differs from the softmax only by the
    small initial b_h; the paper's initial standard deviation of 0.1 is used for d_h.

    Args:
        hidden: Number of tanh units.
    """

    def __init__(self, hidden: int = 16) -> None:
        super().__init__()
        if hidden < 1:
            raise ValueError(f"`hidden` must be at least 1, got {hidden}")
        # softplus(0.5413) = 1 and softplus(-4.6) = 0.01
        self.slope = nn.Parameter(torch.tensor(0.5413248546))
        self.height = nn.Parameter(torch.full((hidden,), -4.6))
        self.steepness = nn.Parameter(torch.full((hidden,), 0.5413248546))
        self.offset = nn.Parameter(0.1 * torch.randn(hidden) + torch.linspace(0.0, 4.0, hidden))

    def increasing(self, values: Tensor) -> Tensor:
        """The function s, elementwise and strictly increasing."""
        waves = torch.tanh(softplus(self.steepness) * values.unsqueeze(-1) + self.offset)
        return softplus(self.slope) * values + (softplus(self.height) * waves).sum(dim=-1)

    def forward(self, logits: Tensor) -> Tensor:
        """Map logits ``(..., K)`` to log-scores."""
        return log_softmax(self.increasing(log_softmax(logits, dim=-1)), dim=-1)
