"""Denoisers in front of a classifier (Salman et al. 2020, denoised smoothing)."""

from collections import OrderedDict

import torch
from torch import Tensor, nn


class DnCNN(nn.Module):
    """A convolutional network that predicts the noise and subtracts it (Zhang et al. 2017).

    A 3x3 convolution with ReLU, ``depth - 2`` of them with BatchNorm and ReLU, and a last one, which starts
    at zero: an untrained denoiser changes nothing. The layers have the names of microsoft/denoised-smoothing,
    whose checkpoints load.

    Args:
        channels: Colour channels of the images.
        depth: Number of convolutions, at least 2.
        width: Channels between them.
        norm_momentum: Momentum of BatchNorm; 0.95 in the published code, with which the running statistics
            are almost those of the last batch.

    Raises:
        ValueError: If `channels` or `width` is below 1, `depth` below 2, or the momentum no share.
    """

    def __init__(
        self, channels: int = 3, depth: int = 17, width: int = 64, norm_momentum: float = 0.95
    ) -> None:
        super().__init__()
        if channels < 1 or depth < 2 or width < 1:
            raise ValueError(
                "DnCNN needs `channels` >= 1, `depth` >= 2 and `width` >= 1, got "
                f"{channels}, {depth} and {width}"
            )
        if not 0 <= norm_momentum <= 1:
            raise ValueError(f"`norm_momentum` of DnCNN must be in [0, 1], got {norm_momentum}")
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
        for _ in range(depth - 2):
            layers += [
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width, eps=1e-4, momentum=norm_momentum),
                nn.ReLU(),
            ]
        last = nn.Conv2d(width, channels, 3, padding=1, bias=False)
        nn.init.zeros_(last.weight)
        self.dncnn = nn.Sequential(*layers, last)

    def forward(self, images: Tensor) -> Tensor:
        """Denoise images ``(B, C, H, W)``; the result is not clamped to [0, 1]."""
        return images - self.dncnn(images)


class MemNet(nn.Module):
    """A deep convolutional network whose blocks remember the results of all earlier ones (Tai et al. 2017).

    Each memory block is a row of residual units and a 1x1 convolution, the gate, over the results of all its
    units and of all blocks before. The network predicts what is added to the image. The layers have the names
    of microsoft/denoised-smoothing, whose checkpoints load; the defaults are theirs.

    Args:
        channels: Colour channels of the images.
        width: Channels between the convolutions.
        blocks: Number of memory blocks.
        units: Residual units in each, of two 3x3 convolutions.

    Raises:
        ValueError: If a number is below 1.
    """

    def __init__(self, channels: int = 3, width: int = 64, blocks: int = 3, units: int = 6) -> None:
        super().__init__()
        if min(channels, width, blocks, units) < 1:
            raise ValueError(
                "MemNet needs `channels`, `width`, `blocks` and `units` of at least 1, got "
                f"{channels}, {width}, {blocks} and {units}"
            )
        self.feature_extractor = _normalised_convolution(channels, width)
        self.reconstructor = _normalised_convolution(width, channels)
        self.dense_memory = nn.ModuleList(_Memory(width, units, before) for before in range(1, blocks + 1))

    def forward(self, images: Tensor) -> Tensor:
        """Denoise images ``(B, C, H, W)``; the result is not clamped to [0, 1]."""
        memories = [self.feature_extractor(images)]
        for block in self.dense_memory:
            memories.append(block(memories))
        return images + self.reconstructor(memories[-1])


class _Memory(nn.Module):
    """Residual units, and a gate over their results and those of `before` earlier blocks."""

    def __init__(self, width: int, units: int, before: int) -> None:
        super().__init__()
        self.recursive_unit = nn.ModuleList(_Unit(width) for _ in range(units))
        self.gate_unit = _normalised_convolution((units + before) * width, width, kernel=1)

    def forward(self, memories: list[Tensor]) -> Tensor:
        results = [memories[-1]]
        for unit in self.recursive_unit:
            results.append(unit(results[-1]))
        return self.gate_unit(torch.cat([*results[1:], *memories], dim=1))


class _Unit(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.relu_conv1 = _normalised_convolution(width, width)
        self.relu_conv2 = _normalised_convolution(width, width)

    def forward(self, features: Tensor) -> Tensor:
        return features + self.relu_conv2(self.relu_conv1(features))


def _normalised_convolution(channels: int, width: int, kernel: int = 3) -> nn.Sequential:
    """BatchNorm, ReLU and a convolution without a bias."""
    convolution = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(OrderedDict(bn=nn.BatchNorm2d(channels), relu=nn.ReLU(), conv=convolution))
