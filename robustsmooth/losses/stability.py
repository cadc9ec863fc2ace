"""Stability training (Zheng et al. 2016, Li et al. 2019): noise should not change the answer."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import log_softmax, softmax

from robustsmooth.losses.averaging import at_least_float32


@dataclass(frozen=True, kw_only=True)
class Stability:
    r"""Cross-entropy of the noisy copies with the clean image's own output as the target.

    .. math:: \lambda \frac{1}{m} \sum_i -\sum_k p_k(x) \log p_k(x + d_i)

    with p the softmax of the network. The gradient flows through the target too. The labels are not used.

    Args:
        weight: Lambda, at least 0.

    Raises:
        ValueError: If the weight is negative.
    """

    weight: float = 2.0
    needs_clean = True
    min_copies = 1

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ValueError(f"`weight` of Stability must not be negative, got {self.weight}")

    def __call__(
        self, logits: Tensor, labels: Tensor, *, sigma: float, clean: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See `CopiesLoss`."""
        assert clean is not None
        targets = softmax(at_least_float32(clean), dim=1)
        losses = -(targets * log_softmax(at_least_float32(logits), dim=2)).sum(dim=2)
        return {"stability": self.weight * losses.mean(dim=0)}
