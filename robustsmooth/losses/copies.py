"""Losses of noisy copies: what a term is, cross-entropy, and the sum of several terms."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from robustsmooth.losses.averaging import at_least_float32


class CopiesLoss(Protocol):
    """A loss of the network's output on noisy copies of a batch, one number per image and term.

    It does not depend on where the images come from: training images or attacked ones. Losses of this kind
    can be added; see `Terms`.

    Attributes:
        needs_clean: Whether it also needs the output on the images without noise, which costs one more pass.
        min_copies: The smallest number of noisy copies.
    """

    @property
    def needs_clean(self) -> bool: ...  # noqa: D102

    @property
    def min_copies(self) -> int: ...  # noqa: D102

    def __call__(
        self, logits: Tensor, labels: Tensor, *, sigma: float, clean: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Evaluate the loss.

        Args:
            logits: The network's output on the noisy copies, ``(copies, B, K)``.
            labels: ``(B,)``.
            sigma: Standard deviation of the noise, in pixel units.
            clean: The output on the images without noise, ``(B, K)``, where `needs_clean`.

        Returns:
            Its terms by name, ``(B,)`` each. The loss of an image is their sum.
        """
        ...


def mean_terms(terms: Mapping[str, Tensor], weights: Tensor | None = None) -> dict[str, Tensor]:
    """Average the terms over the images and add them.

    Args:
        terms: What a `CopiesLoss` returns, ``(B,)`` each.
        weights: ``(B,)``, the weight of each image, on average 1 over the images of a step on all devices;
            equal weights if None.

    Returns:
        ``loss``, a scalar; and, if there are several terms, their means by name.
    """
    means = {name: (term if weights is None else weights * term).mean() for name, term in terms.items()}
    loss = torch.stack(list(means.values())).sum()
    return {"loss": loss, **(means if len(means) > 1 else {})}


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """Cross-entropy of every noisy copy, averaged over the copies: ``mean_i CE(f(x + d_i), y)``.

    Args:
        clean: ``CE(f(x), y)`` of the images without noise instead.
    """

    clean: bool = False
    min_copies = 1

    @property
    def needs_clean(self) -> bool:
        """See `CopiesLoss`."""
        return self.clean

    def __call__(
        self, logits: Tensor, labels: Tensor, *, sigma: float, clean: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See `CopiesLoss`."""
        if self.clean:
            assert clean is not None
            logits = clean.unsqueeze(0)
        logits = at_least_float32(logits)
        losses = cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits)), reduction="none")
        return {"classification": losses.unflatten(0, logits.shape[:2]).mean(dim=0)}


@dataclass(frozen=True)
class Terms:
    """The sum of several losses of the same noisy copies.

    Args:
        terms: The losses by name. Each returns terms with its own names; if two return the same name, the
            name given here is put before it.

    Raises:
        ValueError: If there is no term.
    """

    terms: Mapping[str, CopiesLoss]

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("`loss.terms` must name at least one term, such as classification")

    @property
    def needs_clean(self) -> bool:
        """See `CopiesLoss`."""
        return any(term.needs_clean for term in self.terms.values())

    @property
    def min_copies(self) -> int:
        """See `CopiesLoss`."""
        return max(term.min_copies for term in self.terms.values())

    def __call__(
        self, logits: Tensor, labels: Tensor, *, sigma: float, clean: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See `CopiesLoss`."""
        parts: dict[str, Tensor] = {}
        for given, term in self.terms.items():
            for name, value in term(logits, labels, sigma=sigma, clean=clean).items():
                parts[f"{given}_{name}" if name in parts else name] = value
        return parts
