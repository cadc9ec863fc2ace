"""Linear classifiers, for which the best attack is known in closed form."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from robustsmooth.smoothing.addressing import ImageRandomness


@dataclass
class LinearProblem:
    """Two classes, logits (0, w.x + b); the images lie well inside the box."""

    network: nn.Module
    weight: Tensor
    images: Tensor
    labels: Tensor

    @property
    def margins(self) -> Tensor:
        """w.x + b, positive where the label is 1."""
        bias = self.network[1].bias.detach().double()[1]
        return self.images.flatten(1).double() @ self.weight.double() + bias

    @property
    def distances(self) -> Tensor:
        """The closest l2 adversarial point is the foot of the perpendicular."""
        return self.margins.abs() / self.weight.double().norm()


def linear_problem(size: int = 20, images: int = 16, seed: int = 0) -> LinearProblem:
    source = torch.Generator().manual_seed(seed)
    weight = torch.randn(size, generator=source)
    points = 0.5 + 0.1 * torch.randn(images, 1, size // 4, 4, generator=source)
    layer = nn.Linear(size, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([torch.zeros(size), weight]))
        layer.bias.copy_(torch.tensor([0.0, -0.5 * float(weight.sum())]))
    network = nn.Sequential(nn.Flatten(), layer)
    return LinearProblem(network, weight, points.clamp(0, 1), network(points.clamp(0, 1)).argmax(1))


@pytest.fixture
def linear() -> LinearProblem:
    return linear_problem()


@pytest.fixture
def randomness():
    def for_images(count: int, first: int = 0, seed: int = 0) -> ImageRandomness:
        return ImageRandomness(seed, "attack", torch.arange(first, first + count))

    return for_images
