"""CAT-RS (Jeong, Kim & Shin 2023): robustness where the noisy copies are right."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from robustsmooth.losses.averaging import at_least_float32


def bottom_cross_entropy(logits: Tensor, labels: Tensor, kept: Tensor) -> Tensor:
    """The k smallest of an image's m cross-entropies, summed and divided by m.

    Args:
        logits: ``(m, B, K)``.
        labels: ``(B,)``.
        kept: k, ``(B,)`` integers in [1, m].

    Returns:
        ``(B,)``.
    """
    logits = at_least_float32(logits)
    losses = cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits)), reduction="none")
    ranked = losses.unflatten(0, logits.shape[:2]).sort(dim=0).values
    counted = torch.arange(len(ranked), device=ranked.device).unsqueeze(1) < kept
    return torch.where(counted, ranked, torch.zeros_like(ranked)).sum(dim=0) / len(ranked)


def worst_divergence(logits: Tensor, targets: Tensor) -> Tensor:
    """``max_i KL(p* || p_i)`` over an image's m copies.

    Args:
        logits: ``(m, B, K)``.
        targets: The soft targets p*, ``(B, K)``, rows that sum to one.

    Returns:
        ``(B,)``.
    """
    log_probabilities = log_softmax(at_least_float32(logits), dim=2)
    divergence = torch.xlogy(targets, targets) - targets * log_probabilities
    return divergence.sum(dim=2).amax(dim=0)
