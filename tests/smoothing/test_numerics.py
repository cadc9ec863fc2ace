"""The memory format of networks whose parameters have five dimensions."""

import pytest
import torch
from torch import nn

from robustsmooth.smoothing import Numerics
from robustsmooth.smoothing.numerics import Forward


class FiveDimensional(nn.Module):
    """A convolution whose weight is computed from a factor with five dimensions, as in CPNI."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.randn(2, 4, 3, 3, 3))
        self.convolution = nn.Conv2d(3, 4, 3)

    def forward(self, images):
        weight = self.convolution.weight + self.factor.sum(0)
        return nn.functional.conv2d(images, weight).mean((2, 3))


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_network_with_parameters_of_five_dimensions_is_converted(channels_last):
    network, images = FiveDimensional(), torch.rand(2, 3, 8, 8)
    forward = Forward(network, Numerics(channels_last=channels_last), torch.device("cpu"))
    format_ = torch.channels_last if channels_last else torch.contiguous_format
    assert torch.allclose(forward(images.contiguous(memory_format=format_)), network(images), atol=1e-5)
