"""One training step of the published loops, as their authors wrote them: for `train_step.py`.

Rewritten from the published code (locuslab/smoothing, Hadisalman/smoothing-adversarial, RuntianZ/macer and
HeatSmoothing's): fp32, contiguous images, nothing compiled, losses and accuracies read after each step.
What costs time there and is kept: SmoothAdv cuts a batch into m parts, repeats each image m times and takes
an optimiser step on each part; HeatSmoothing takes a backward and a forward pass for every probe.
"""

import copy
from collections.abc import Callable

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

__all__ = ["PUBLISHED"]

Step = Callable[[Tensor, Tensor], None]


def _descend(optimizer: Optimizer, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
    """The end of every loop: logging and the optimiser step."""
    loss.item()
    for k in (1, 5):  # their `accuracy`
        float((logits.topk(k, dim=1)[1] == labels[:, None]).float().sum())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _gaussian(network: nn.Module, optimizer: Optimizer, cfg: DictConfig) -> Step:
    def step(images: Tensor, labels: Tensor) -> None:
        logits = network(images + torch.randn_like(images) * cfg.method.sigma)
        _descend(optimizer, functional.cross_entropy(logits, labels), logits, labels)

    return step


def _pgd(network: nn.Module, images: Tensor, labels: Tensor, noise: Tensor, cfg: DictConfig) -> Tensor:
    """Their ``PGD_L2.attack``; `images` holds each image `copies` times in a row."""
    copies, steps, epsilon = cfg.method.copies, cfg.attack.steps, cfg.attack.epsilon
    own = images[::copies]
    delta = torch.zeros_like(own, requires_grad=True)
    optimizer = torch.optim.SGD([delta], lr=epsilon / steps * 2)
    for _ in range(steps):
        logits = network(images + delta.repeat(1, copies, 1, 1).view_as(images) + noise)
        mean = logits.softmax(dim=1).reshape(-1, copies, logits.shape[-1]).mean(1)
        loss = -functional.nll_loss(torch.log(mean.clamp(min=1e-20)), labels)
        optimizer.zero_grad()
        loss.backward()
        norms = delta.grad.view(len(own), -1).norm(p=2, dim=1)  # type: ignore[union-attr]
        delta.grad.div_(norms.view(-1, 1, 1, 1))  # type: ignore[union-attr]
        if (norms == 0).any():
            delta.grad[norms == 0] = torch.randn_like(delta.grad[norms == 0])  # type: ignore[index]
        optimizer.step()
        delta.data.add_(own).clamp_(0, 1).sub_(own)
        delta.data.renorm_(p=2, dim=0, maxnorm=epsilon)
    return (images + delta.repeat(1, copies, 1, 1).view_as(images)).detach()


def _smoothadv(network: nn.Module, optimizer: Optimizer, cfg: DictConfig) -> Step:
    copies = cfg.method.copies

    def step(images: Tensor, labels: Tensor) -> None:
        for part, own in zip(images.chunk(copies), labels.chunk(copies), strict=True):
            inputs = part.repeat(1, copies, 1, 1).view(-1, *part.shape[1:])
            noise = torch.randn_like(inputs) * cfg.method.sigma
            network.requires_grad_(False).eval()
            attacked = _pgd(network, inputs, own, noise, cfg)
            network.train().requires_grad_(True)
            targets = own.unsqueeze(1).repeat(1, copies).reshape(-1)
            logits = network(attacked + noise)
            _descend(optimizer, functional.cross_entropy(logits, targets), logits, targets)

    return step


def _macer(network: nn.Module, optimizer: Optimizer, cfg: DictConfig) -> Step:
    copies, sigma, loss = cfg.method.copies, cfg.method.sigma, cfg.loss
    normal = torch.distributions.Normal(0.0, 1.0)

    def step(images: Tensor, labels: Tensor) -> None:
        inputs = images.repeat(1, copies, 1, 1).view(-1, *images.shape[1:])
        logits = network(inputs + torch.randn_like(inputs) * sigma).reshape(len(images), copies, -1)
        mean = logits.softmax(dim=2).mean(1)
        classification = functional.nll_loss(torch.log(mean + 1e-10), labels, reduction="sum")
        classification.item()
        scores, classes = (logits * loss.inverse_temperature).softmax(dim=2).mean(1).topk(2)
        first, second = (scores[classes[:, 0] == labels, place] for place in (0, 1))
        gap = normal.icdf(second) - normal.icdf(first)
        counted = ~torch.isnan(gap) & ~torch.isinf(gap) & (gap.abs() <= loss.margin)
        gap = normal.icdf(second[counted]) - normal.icdf(first[counted]) + loss.margin
        robustness = gap.sum() * sigma / 2
        total = (classification + loss.robust_weight * robustness) / len(images)
        _descend(optimizer, total, mean, labels)

    return step


def _heat(network: nn.Module, optimizer: Optimizer, cfg: DictConfig) -> Step:
    teacher, sigma, delta = copy.deepcopy(network).eval(), cfg.method.sigma, cfg.loss.difference_step

    def step(images: Tensor, labels: Tensor) -> None:
        images = images.clone().requires_grad_(True)
        with torch.no_grad():
            targets = teacher(images)
        logits = network(images)
        penalty = torch.zeros(len(images), device=images.device)
        for _ in range(cfg.loss.num_probes):
            probe = torch.randn_like(logits) / logits.shape[1] ** 0.5
            (gradient,) = torch.autograd.grad((probe * logits).sum(), images, retain_graph=True)
            norm = gradient.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
            moved = network((images + delta * gradient / norm).detach())
            penalty = penalty + ((probe * (moved - logits)).sum(1) / delta).square()
        fidelity = 0.5 * (logits - targets).square().sum(1)
        loss = (fidelity + cfg.loss.penalty_weight * sigma**2 / 2 * penalty).mean()
        _descend(optimizer, loss, logits, labels)

    return step


PUBLISHED: dict[str, Callable[[nn.Module, Optimizer, DictConfig], Step]] = {
    "gaussian": _gaussian,
    "smoothadv": _smoothadv,
    "macer": _macer,
    "heat": _heat,
}
"""By method: a function that makes the step from a network in train mode, its optimiser and the config."""
