"""Consistency regularisation (Jeong & Shin 2020): noisy copies of an image should be classified alike."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from robustsmooth.losses.averaging import at_least_float32, log_average


@dataclass(frozen=True, kw_only=True)
class Consistency:
    r"""The copies' distance from their mean, and the entropy of the mean.

    With p_i the softmax of copy i and :math:`\bar p` their mean over the m copies,

    .. math:: \lambda \frac{1}{m} \sum_i KL(\bar p \,\|\, p_i) + \eta H(\bar p)

    (Jeong & Shin 2020). The gradient flows through :math:`\bar p` too, as in the published code.
    Everything is computed in log space, so nothing has to be clamped; the published code clamps :math:`\bar
    p` at 1e-20 in H.

    Args:
        weight: The paper's lambda.
        entropy_weight: The paper's eta.

    Raises:
        ValueError: If a weight is negative.
    """

    weight: float = 10.0
    entropy_weight: float = 0.5
    needs_clean = False
    min_copies = 2

    def __post_init__(self) -> None:
        for name in ("weight", "entropy_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` of Consistency must not be negative, got {getattr(self, name)}")

    def __call__(
        self, logits: Tensor, labels: Tensor, *, sigma: float, clean: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See `CopiesLoss`."""
        logits = at_least_float32(logits)
        mean = log_average(logits)
        divergence = kl_div(
            log_softmax(logits, dim=2), mean.expand_as(logits), reduction="none", log_target=True
        )
        return {
            "consistency": self.weight * divergence.sum(dim=2).mean(dim=0),
            "entropy": self.entropy_weight * -(mean.exp() * mean).sum(dim=1),
        }
