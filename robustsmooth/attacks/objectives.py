"""What an attack maximises: the gradient in "attack = optimizer x gradient".

Every objective is a score per class and the gradient of one of them. The objectives that
differentiate the network are one formula, the cross-entropy ``-score[label]``, and differ only in
how the log-softmaxes of the m noisy copies are pooled into scores:

==============  ==========================================  =======================================
objective       score of class y                            in the papers
==============  ==========================================  =======================================
`Plain`         log F(x)_y                                  the base classifier itself
`PlugIn`        log (1/m) sum_i F(x + noise_i)_y            SmoothAdv (Salman et al. 2019), eq. 6
`Expectation`   (1/m) sum_i log F(x + noise_i)_y            EPGD (Nemcovsky et al.); SmoothAdv eq. 4;
                                                            HeatSmoothing eq. 9
`Stein`         (1/m) sum_i F(x + noise_i)_y, no backward   SmoothAdv, eq. 7
==============  ==========================================  =======================================

F is the softmax of the network. The classifier under attack predicts the class of the largest score.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robustsmooth.attacks.geometry import expand

Network = Callable[[Tensor], Tensor]
"""Maps images ``(B, ...)`` in [0, 1] to logits ``(B, K)``; a module, or any function."""


class Objective(ABC):
    """A score per class for the classifier under attack, and its gradient.

    Attributes:
        noise: Whether the objective uses noisy copies of the image: never (``"none"``), with any sigma
            including 0 (``"optional"``), or only with sigma > 0 (``"required"``).
    """

    noise: ClassVar[Literal["none", "optional", "required"]] = "optional"

    @abstractmethod
    def scores(self, network: Network, points: Tensor, noises: Tensor, copies_per_pass: int | None) -> Tensor:
        """Each class's score.

        Args:
            network: The base classifier.
            points: The points, ``(B, ...)``.
            noises: ``(m, B, ...)``, already scaled by sigma.
            copies_per_pass: Noisy copies per forward pass; None for all at once.

        Returns:
            ``(B, K)``, with a graph where gradients are enabled.
        """

    @abstractmethod
    def gradient(
        self, network: Network, points: Tensor, labels: Tensor, noises: Tensor, copies_per_pass: int | None
    ) -> tuple[Tensor, Tensor]:
        """The scores, and the gradient of each image's score of its label.

        Args:
            network: The base classifier.
            points: The points, ``(B, ...)``.
            labels: ``(B,)`` int64.
            noises: ``(m, B, ...)``, already scaled by sigma.
            copies_per_pass: Noisy copies per forward and backward pass; None for all at once.

        Returns:
            Scores ``(B, K)`` without a graph, and the gradient, shaped like `points`. Only the direction of
            the gradient is meaningful.
        """


class _Pooled(Objective):
    """An objective that differentiates the network, one group of noisy copies after the other."""

    @abstractmethod
    def _pool(self, log_probabilities: Tensor) -> Tensor:
        """Pool ``(m, B, K)`` log-softmaxes to ``(B, K)``, so that groups can be merged."""

    @abstractmethod
    def _merge(self, one: Tensor, other: Tensor) -> Tensor:
        """Merge the pools of two groups."""

    @abstractmethod
    def _weight(self, part: Tensor, total: Tensor) -> Tensor:
        """The derivative of `total` by `part`, for the label's scores ``(B,)`` of a merge."""

    @abstractmethod
    def _average(self, scores: Tensor, gradient: Tensor, copies: int) -> tuple[Tensor, Tensor]:
        """Turn the pool of all copies into their mean."""

    def scores(self, network: Network, points: Tensor, noises: Tensor, copies_per_pass: int | None) -> Tensor:
        """See `Objective.scores`."""
        noises = self._noises(points, noises)
        scores: Tensor | None = None
        for group in noises.split(copies_per_pass or len(noises)):
            part = self._pool(_log_softmax(network, points, group))
            scores = part if scores is None else self._merge(scores, part)
        assert scores is not None
        return self._average(scores, scores, len(noises))[0]

    def gradient(
        self, network: Network, points: Tensor, labels: Tensor, noises: Tensor, copies_per_pass: int | None
    ) -> tuple[Tensor, Tensor]:
        """See `Objective.gradient`."""
        noises = self._noises(points, noises)
        total: tuple[Tensor, Tensor] | None = None
        for group in noises.split(copies_per_pass or len(noises)):
            leaf = points.detach().requires_grad_(True)
            scores = self._pool(_log_softmax(network, leaf, group))
            (gradient,) = torch.autograd.grad(_pick(scores, labels).sum(), leaf)
            part = scores.detach(), gradient
            total = part if total is None else self._add(total, part, labels)
        assert total is not None
        return self._average(*total, len(noises))

    def _add(
        self, one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        scores = self._merge(one[0], other[0])
        at_label = _pick(scores, labels)
        gradient = torch.zeros_like(one[1])
        for part_scores, part_gradient in (one, other):
            weight = self._weight(_pick(part_scores, labels), at_label)
            gradient += expand(weight, gradient).to(gradient.dtype) * part_gradient
        return scores, gradient

    def _noises(self, points: Tensor, noises: Tensor) -> Tensor:
        return noises


@dataclass(frozen=True)
class Expectation(_Pooled):
    """The mean of the noisy copies' log-softmaxes, hence the mean of their cross-entropies.

    The gradient of EPGD (Nemcovsky et al.), of SmoothAdv's eq. 4 and of HeatSmoothing's eq. 9. With
    sigma = 0 it averages over the noise inside a random network; such a network draws once per forward pass,
    so use ``copies_per_pass=1``.
    """

    def _pool(self, log_probabilities: Tensor) -> Tensor:
        return log_probabilities.sum(0)

    def _merge(self, one: Tensor, other: Tensor) -> Tensor:
        return one + other

    def _weight(self, part: Tensor, total: Tensor) -> Tensor:
        return torch.ones_like(part)

    def _average(self, scores: Tensor, gradient: Tensor, copies: int) -> tuple[Tensor, Tensor]:
        return scores / copies, gradient / copies


@dataclass(frozen=True)
class Plain(Expectation):
    """The base classifier itself, without noise, even if the caller passes noises.

    With it, "vanilla" adversarial training (SmoothAdv, Appendix C.1) is a choice of objective: the attack
    uses f without noise, the training step that follows f under noise.
    """

    noise = "none"

    def _noises(self, points: Tensor, noises: Tensor) -> Tensor:
        return points.new_zeros((1, *[1] * points.ndim))


@dataclass(frozen=True)
class PlugIn(_Pooled):
    """The logarithm of the noisy copies' mean softmax: SmoothAdv's eq. 6.

    Computed with the logarithms only, so that a copy whose probability of the label underflows still
    has a gradient.
    """

    def _pool(self, log_probabilities: Tensor) -> Tensor:
        return log_probabilities.logsumexp(0)

    def _merge(self, one: Tensor, other: Tensor) -> Tensor:
        return torch.logaddexp(one, other)

    def _weight(self, part: Tensor, total: Tensor) -> Tensor:
        return (part - total).exp()

    def _average(self, scores: Tensor, gradient: Tensor, copies: int) -> tuple[Tensor, Tensor]:
        return scores - math.log(copies), gradient


@dataclass(frozen=True)
class Stein(Objective):
    """Stein's estimator of the smoothed classifier's gradient, from forward passes alone (eq. 7).

    ``(1/m) sum_i (noise_i / sigma^2) F(x + noise_i)_y`` is an unbiased estimate of the gradient of
    ``G(x)_y``, the Gaussian average of ``F_y``. It holds for a hard classifier too. Its variance is high, and
    the paper reports a weak attack.

    The factor 1/sigma^2 is left out: it changes no direction, and the noises come already scaled.

    Args:
        hard: Use the one-hot vote of the base classifier for F, instead of its softmax.
        baseline: Subtract from each copy's F the mean over the other copies. The estimate stays
            unbiased and its variance is much smaller; not in the paper. Needs two copies or more.
    """

    noise = "required"

    hard: bool = False
    baseline: bool = False

    def scores(self, network: Network, points: Tensor, noises: Tensor, copies_per_pass: int | None) -> Tensor:
        """See `Objective.scores`; the mean vote or the mean softmax."""
        return self._values(network, points, noises, copies_per_pass).mean(0)

    def gradient(
        self, network: Network, points: Tensor, labels: Tensor, noises: Tensor, copies_per_pass: int | None
    ) -> tuple[Tensor, Tensor]:
        """See `Objective.gradient`; its mean is sigma^2 times the gradient of ``G(x)_y``."""
        if self.baseline and len(noises) < 2:
            raise ValueError("`Stein(baseline=True)` compares noisy copies and needs num_noise >= 2, got 1")
        with torch.no_grad():
            values = self._values(network, points, noises, copies_per_pass)
            weights = values[:, torch.arange(len(labels), device=labels.device), labels]
            if self.baseline:  # a copy minus the mean of the others
                weights = (weights - weights.mean(0)) * len(weights) / (len(weights) - 1)
            gradient = torch.einsum("mb,mb...->b...", weights.to(noises.dtype), noises) / len(noises)
        return values.mean(0), gradient

    def _values(
        self, network: Network, points: Tensor, noises: Tensor, copies_per_pass: int | None
    ) -> Tensor:
        groups = noises.split(copies_per_pass or len(noises))
        values = torch.cat([_log_softmax(network, points, group) for group in groups])
        if self.hard:
            return torch.nn.functional.one_hot(values.argmax(-1), values.shape[-1]).to(values.dtype)
        return values.exp()


def _log_softmax(network: Network, points: Tensor, noises: Tensor) -> Tensor:
    """Log-softmaxes ``(m, B, K)`` of the points under each noise, in float32 at least."""
    copies = points + noises  # (m, B, ...)
    logits = network(copies.flatten(0, 1)).unflatten(0, copies.shape[:2])
    wide = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(wide).log_softmax(-1)


def _pick(scores: Tensor, labels: Tensor) -> Tensor:
    """Each image's score of its label, ``(B,)``."""
    return scores.gather(1, labels[:, None]).squeeze(1)
