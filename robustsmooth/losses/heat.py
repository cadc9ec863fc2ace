"""HeatSmoothing: a network trained to be its own Gaussian average (papers' loss (3), (10), (15)).

Minimising a distance to a frozen teacher plus ``sigma^2 / 2`` times the squared norm of the input
Jacobian takes one implicit step of the heat equation, whose solution is the Gaussian average of the
teacher. No label is used in this file.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax, softmax
from torch.nn.modules.batchnorm import _NormBase

from robustsmooth.losses.averaging import at_least_float32

Fidelity = Literal["softmax", "logits", "kl"]
ProbeScaling = Literal["sum", "unbiased"]
Statistics = Literal["clean", "all", "frozen"]


def fidelity(student: Tensor, teacher: Tensor, kind: Fidelity = "softmax") -> Tensor:
    """Distance of the student's output from the teacher's, one number per image.

    Args:
        student: Logits, ``(B, K)``.
        teacher: Logits of the frozen teacher, ``(B, K)``.
        kind: ``softmax``: half the squared distance of the probabilities (eq. 3 and 10);
            ``logits``: half the squared distance of the logits (eq. 15);
            ``kl``: KL divergence from the teacher's to the student's probabilities (published code,
            first ImageNet version).

    Returns:
        ``(B,)``, at least 0; 0 where the two agree.
    """
    if kind == "logits":
        return 0.5 * (student - teacher).square().sum(dim=1)
    if kind == "softmax":
        return 0.5 * (softmax(student, dim=1) - softmax(teacher, dim=1)).square().sum(dim=1)
    if kind == "kl":
        student, teacher = log_softmax(student, dim=1), log_softmax(teacher, dim=1)
        return kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)
    raise ValueError(f"`fidelity` must be one of {', '.join(get_args(Fidelity))}, got {kind!r}")


def gaussian_probes(normal: Tensor) -> Tensor:
    """Turn standard normal numbers into the probes of eq. 17, ``w ~ N(0, I) / sqrt(K)``.

    Args:
        normal: ``(num_probes, B, K)`` standard normal: every image has probes of its own (Algorithm 1).

    Returns:
        The probes, of the same shape.
    """
    return normal / normal.shape[-1] ** 0.5


def directions(images: Tensor, logits: Tensor, probes: Tensor) -> Tensor:
    """Unit vectors along the gradient of ``w . v(x)``, as constants (eq. 18).

    All probes share one forward pass and one batched backward pass, to the images only. Nothing is
    differentiated twice, so the network's layers need no second derivative.

    Args:
        images: ``(B, C, H, W)``, requiring gradients.
        logits: The network's output for them, ``(B, K)``; its graph is kept.
        probes: ``(num_probes, B, K)``.

    Returns:
        ``(num_probes, B, C, H, W)`` without a graph: unit l2 norm, or zero where the gradient is zero.
    """
    (gradient,) = torch.autograd.grad(logits, images, probes, is_grads_batched=True, retain_graph=True)
    norm = gradient.flatten(2).norm(dim=2).view(*gradient.shape[:2], *[1] * (images.dim() - 1))
    return torch.where(norm > 0, gradient / norm, torch.zeros_like(gradient))


def jacobian_penalty(
    network: Callable[[Tensor], Tensor],
    images: Tensor,
    logits: Tensor,
    probes: Tensor,
    difference_step: float,
) -> Tensor:
    """Sum over the probes of ``((w . v(x + delta g) - w . v(x)) / delta)^2`` (eq. 16 and 18).

    With Gaussian probes the expected value is ``num_probes / K`` times the squared Frobenius norm of
    the Jacobian; with K orthonormal probes it is that norm exactly, both up to the finite difference,
    which is exact for affine networks. All perturbed images go through the network in one pass.

    Args:
        network: Maps images to logits.
        images: ``(B, C, H, W)``, requiring gradients, in the space in which sigma is measured (pixels).
        logits: ``network(images)``, with its graph.
        probes: ``(num_probes, B, K)``.
        difference_step: The paper's delta, an l2 length in pixel units.

    Returns:
        ``(B,)``, differentiable with respect to the network's parameters; the directions are constants.
    """
    steps = directions(images, logits, probes)
    perturbed = (images.detach() + difference_step * steps).flatten(0, 1)
    moved = network(perturbed).unflatten(0, probes.shape[:2])
    slopes = ((moved - logits) * probes).sum(dim=2) / difference_step
    return slopes.square().sum(dim=0)


@contextmanager
def _batch_norm(network: nn.Module, treatment: Literal["untouched", "frozen"]) -> Iterator[None]:
    """BatchNorm that normalises by the batch but leaves its running statistics, or that is frozen."""
    layers = [layer for layer in network.modules() if isinstance(layer, _NormBase) and layer.training]
    layers = [layer for layer in layers if layer.track_running_stats]
    try:
        for layer in layers:
            if treatment == "frozen":
                layer.eval()
            else:
                layer.track_running_stats = False
        yield
    finally:
        for layer in layers:
            layer.train()
            layer.track_running_stats = True


@dataclass(frozen=True, kw_only=True)
class HeatLoss:
    """The HeatSmoothing objective of one time step, with the published variants as options.

    ``fidelity + penalty_weight * time_step * sigma^2 / 2 * sum over probes`` averaged over the images
    (Algorithm 1; eq. 3, 10 and 15 with the penalty of eq. 16-18).

    Args:
        fidelity: ``softmax`` (eq. 3, 10), ``logits`` (eq. 15) or ``kl``; see `fidelity`.
        num_probes: The paper's kappa.
        difference_step: The paper's delta, in pixel units (l2).
        penalty_weight: Multiplies the penalty; 1 in the paper, 5 (CIFAR-10), 100 and 1 (ImageNet) in the
            published code.
        probe_scaling: ``sum``: the probes are summed as in eq. 16, which estimates kappa / K of the
            squared Jacobian norm (a hundredth of it or less on ImageNet); ``unbiased``: multiplied by K /
            kappa, which estimates the norm itself.
        statistics: What a BatchNorm in train mode does. ``clean``: every pass normalises by its own
            batch, and only the pass over the images themselves updates the running statistics, so that the
            network is evaluated with statistics of the data; ``all``: the perturbed images update them too,
            as in the published code; ``frozen``: the running statistics are used and not updated.

    Note:
        The network is computed in float32, also under autocast: the penalty divides the difference of two
        nearly equal outputs by `difference_step`, and in bfloat16 that difference is mostly rounding.

        The perturbed images of all probes are one batch, so with a BatchNorm in train mode they share
        its batch statistics; otherwise the value equals one pass per probe to rounding.
    """

    fidelity: Fidelity = "softmax"
    num_probes: int = 10
    difference_step: float = 0.1
    penalty_weight: float = 1.0
    probe_scaling: ProbeScaling = "sum"
    statistics: Statistics = "clean"

    def __post_init__(self) -> None:
        for name, choices in (
            ("fidelity", Fidelity),
            ("probe_scaling", ProbeScaling),
            ("statistics", Statistics),
        ):
            if getattr(self, name) not in get_args(choices):
                allowed = ", ".join(get_args(choices))
                raise ValueError(f"`{name}` must be one of {allowed}, got {getattr(self, name)!r}")
        if self.num_probes < 1:
            raise ValueError(f"`num_probes` must be at least 1, got {self.num_probes}")
        if self.difference_step <= 0:
            raise ValueError(f"`difference_step` must be positive, got {self.difference_step}")
        if self.penalty_weight < 0:
            raise ValueError(f"`penalty_weight` must not be negative, got {self.penalty_weight}")

    def __call__(
        self,
        network: nn.Module,
        images: Tensor,
        targets: Tensor,
        *,
        sigma: float,
        probes: Callable[[Tensor, int], Tensor],
        time_step: float = 1.0,
    ) -> dict[str, Tensor]:
        """Evaluate the loss.

        Args:
            network: The student; maps images to logits.
            images: The student's input, ``(B, C, H, W)`` in pixel units, with noise if wanted.
            targets: The frozen teacher's logits for the clean images, ``(B, K)``.
            sigma: Standard deviation of the Gaussian average, in pixel units. With 0 the loss is the fidelity
                alone.
            probes: Standard normal numbers on demand: ``probes(like, copies)`` of shape
                ``(copies, *like.shape)``, such as `BatchRandomness.normal`.
            time_step: The paper's h = 1 / n_T.

        Returns:
            ``loss`` and its two terms ``fidelity`` and ``penalty``, scalars. Differentiable in the
            student's parameters; `targets` is taken as constant.
        """
        frozen = _batch_norm(network, "frozen") if self.statistics == "frozen" else nullcontext()
        in_float32 = torch.autocast(images.device.type, enabled=False)
        with frozen, in_float32, torch.enable_grad():
            images = images.detach().requires_grad_(sigma > 0)
            # Compiled, it could not go backward for several probes at once; the second pass is.
            with torch.compiler.set_stance("force_eager") if sigma > 0 else nullcontext():
                logits = network(images)
            distance = fidelity(logits, at_least_float32(targets.detach()), self.fidelity).mean()
            if sigma == 0:
                return {"loss": distance, "fidelity": distance, "penalty": torch.zeros_like(distance)}
            directions_of = gaussian_probes(probes(logits.detach(), self.num_probes))
            untouched = _batch_norm(network, "untouched") if self.statistics == "clean" else nullcontext()
            with untouched:
                norms = jacobian_penalty(network, images, logits, directions_of, self.difference_step)
            scale = 1.0 if self.probe_scaling == "sum" else logits.shape[1] / self.num_probes
            penalty = self.penalty_weight * scale * time_step * 0.5 * sigma**2 * norms.mean()
            return {"loss": distance + penalty, "fidelity": distance, "penalty": penalty}
