"""SmoothMix (Jeong et al. 2021): mixtures of an image and its adversary are trained to be less confident."""

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from robustsmooth.losses.averaging import at_least_float32, log_average


def mixing_divergence(logits: Tensor, mixed: Tensor, labels: Tensor, shares: Tensor) -> Tensor:
    r"""Divergence of mixed images from the mixed prediction, for images that are classified correctly.

    With :math:`\bar p` the mean softmax of the image's noisy copies and u the adversary's share,

    .. math:: 1[\arg\max \bar p = y] \cdot \frac{1}{m} \sum_i KL(\tilde y \,\|\, p(\tilde x + d_i)),
        \quad \tilde y = (1 - u) \bar p + u / K

    (Jeong et al. 2021). The gradient flows through :math:`\tilde y` too, as in
    the published code.

    Args:
        logits: Of the image's noisy copies, ``(m, B, K)``.
        mixed: Of the mixed image's noisy copies, ``(m, B, K)``.
        labels: ``(B,)``.
        shares: u, ``(B,)`` in [0, 1].

    Returns:
        ``(B,)``.
    """
    mean, mixed = log_average(at_least_float32(logits)), at_least_float32(mixed)
    rest, uniform = torch.log1p(-shares), torch.log(shares / mean.shape[1])
    targets = torch.logaddexp(mean + rest.unsqueeze(1), uniform.unsqueeze(1))
    divergence = kl_div(
        log_softmax(mixed, dim=2), targets.expand_as(mixed), reduction="none", log_target=True
    )
    right = mean.argmax(dim=1) == labels
    return torch.where(right, divergence.sum(dim=2).mean(dim=0), torch.zeros_like(rest))
