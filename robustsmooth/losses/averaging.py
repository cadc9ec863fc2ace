"""Averages over noisy copies that stay accurate in log space."""

import math

import torch
from torch import Tensor
from torch.nn.functional import log_softmax


def at_least_float32(tensor: Tensor) -> Tensor:
    """Convert to float32 at least: losses are computed in float32 or better, also under autocast."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def log_mean_exp(log_scores: Tensor) -> Tensor:
    """``log(mean(exp(.)))`` over the first dimension, ``(copies, ...) -> (...)``."""
    return log_scores.logsumexp(dim=0) - math.log(len(log_scores))


def log_average(logits: Tensor) -> Tensor:
    """Log-probabilities of the smoothed soft classifier.

    Args:
        logits: The network's output on the noisy copies, ``(copies, B, K)``.

    Returns:
        The logarithm of the mean softmax, ``(B, K)``; finite where the softmax itself underflows.
    """
    return log_mean_exp(log_softmax(logits, dim=2))
