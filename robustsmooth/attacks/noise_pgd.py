"""Attacks that perturb the noise of an image instead of the image (CAT-RS; Sun et al. 2025)."""

from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from robustsmooth.attacks.base import undisturbed
from robustsmooth.attacks.geometry import distance, expand, unit
from robustsmooth.attacks.objectives import Expectation, Network, Objective, Stein
from robustsmooth.smoothing.addressing import Randomness

Keep = Literal["last", "first_success"]
Restore = Literal["moments", "norm"]


@dataclass(frozen=True, kw_only=True)
class NoisePGD:
    """Moves every noise of every image so that the loss grows, and keeps its norm or its moments.

    Each step moves each noise by `step_size` along its own unit gradient of the objective. With `Expectation`
    every noise raises the cross-entropy of its own noisy image; with `PlugIn` the noises of an image together
    raise the cross-entropy of their mean softmax. The noisy images are not clamped, as they are not in
    training.

    Contract, as for `Attack`: parameters, their gradients, modes and the global random state are not changed,
    the network is in eval mode during the attack, and a zero gradient does not give NaN.

    Args:
        objective: What is maximised; see `robustsmooth.attacks.objectives`. It must be differentiable.
        steps: Gradients per noise.
        step_size: Length of a step in l2, in pixel units. None: ``2 * epsilon / steps`` (CAT-RS).
        epsilon: How far a noise may move in l2, in pixel units; None for any distance.
        restore: What is restored in a moved noise after every step: ``norm``, its l2 norm (Sun et al.);
            ``moments``, its mean and root mean square over all pixels (CAT-RS).
        keep: The ``last`` noise; or the ``first_success``, the first one whose noisy image is misclassified,
            at no extra cost (Sun et al.).
        copies_per_pass: Noisy copies that go through the network at once; None for all.

    Raises:
        ValueError: If a value is out of its range, or neither `epsilon` nor `step_size` is given.
    """

    objective: Objective = field(default_factory=Expectation)
    steps: int = 4
    step_size: float | None = None
    epsilon: float | None = None
    restore: Restore = "norm"
    keep: Keep = "last"
    copies_per_pass: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.objective, Objective) or isinstance(self.objective, Stein):
            raise ValueError("`objective` of an attack on the noise must be expectation or plug_in")
        if self.objective.noise == "none":
            raise ValueError("`objective` of an attack on the noise must look at it: expectation or plug_in")
        for name in ("steps", "step_size", "epsilon", "copies_per_pass"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"`{name}` must be > 0, got {value}")
        for name, choices in (("restore", Restore), ("keep", Keep)):
            if getattr(self, name) not in get_args(choices):
                allowed = " or ".join(get_args(choices))
                raise ValueError(f"`{name}` must be {allowed}, got {getattr(self, name)!r}")
        if self.step_size is None and self.epsilon is None:
            raise ValueError("give the attack on the noise a `step_size` or an `epsilon`")

    def __call__(
        self, network: Network, images: Tensor, targets: Tensor, *, noises: Tensor, randomness: Randomness
    ) -> Tensor:
        """Attack the noises of a batch.

        Args:
            network: Maps images to logits. A module is in eval mode during the attack.
            images: ``(B, ...)``.
            targets: What the attack moves away from: labels, ``(B,)`` integers; or probabilities, ``(B, K)``
                floats, whose cross-entropy (hence divergence) is then maximised.
            noises: ``(m, B, ...)``, already scaled by sigma.
            randomness: For networks that are random inside.

        Returns:
            Moved noises, ``(m, B, ...)``, without a graph.
        """
        with undisturbed(network, images, randomness) as network:
            return self._search(network, images.detach().clone(), targets.clone(), noises.detach().clone())

    def _search(self, network: Network, images: Tensor, targets: Tensor, noises: Tensor) -> Tensor:
        step_size = self.step_size
        if step_size is None:
            assert self.epsilon is not None
            step_size = 2 * self.epsilon / self.steps
        moved = noises
        stopped = torch.zeros(noises.shape[:2], dtype=torch.bool, device=noises.device).flatten()
        for _ in range(self.steps):
            gradient, wrong = self._climb(network, images, targets, moved)
            if self.keep == "first_success":
                stopped = stopped | wrong
            ahead = self._held(moved.flatten(0, 1) + step_size * unit(gradient), noises.flatten(0, 1))
            moved = torch.where(expand(stopped, ahead), moved.flatten(0, 1), ahead).view_as(noises)
        return moved

    def _climb(
        self, network: Network, images: Tensor, targets: Tensor, noises: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The loss's gradient for each noise, ``(m B, ...)``, and which noisy images are misclassified."""
        seen: list[Tensor] = []

        def watched(points: Tensor) -> Tensor:
            logits = network(points)
            seen.append(logits.detach())
            return logits

        leaf = noises.detach().requires_grad_(True)
        scores = self.objective.scores(watched, images, leaf, self.copies_per_pass)
        soft = targets.is_floating_point()
        losses = -(targets * scores).sum() if soft else -scores.gather(1, targets[:, None]).sum()
        (gradient,) = torch.autograd.grad(losses, leaf)
        classes = targets.argmax(1) if soft else targets
        return gradient.flatten(0, 1), torch.cat(seen).argmax(1) != classes.repeat(len(noises))

    def _held(self, moved: Tensor, noises: Tensor) -> Tensor:
        """Project to within epsilon of the noises, then restore their norms or their moments."""
        if self.epsilon is not None:
            delta = moved - noises
            lengths = distance(delta, "l2").clamp_min(self.epsilon).to(delta.dtype)
            moved = noises + delta * expand(self.epsilon / lengths, delta)
        if self.restore == "moments":
            return _same_moments(moved, noises)
        lengths = distance(moved, "l2").clamp_min(torch.finfo(moved.dtype).tiny)
        return moved * expand((distance(noises, "l2") / lengths).to(moved.dtype), moved)


def _same_moments(moved: Tensor, noises: Tensor) -> Tensor:
    """Shift and scale every noise to the mean and the standard deviation over all pixels that it had."""
    now, then = moved.flatten(1), noises.flatten(1)
    now_mean, then_mean = now.mean(1, keepdim=True), then.mean(1, keepdim=True)
    spread = (now - now_mean).norm(dim=1, keepdim=True).clamp_min(torch.finfo(moved.dtype).tiny)
    scale = (then - then_mean).norm(dim=1, keepdim=True) / spread
    return ((now - now_mean) * scale + then_mean).view_as(noises)
