"""Residual networks for 32x32 images."""

from typing import Literal

import torch
from torch import Tensor, nn

Shortcut = Literal["identity", "projection"]


class SubsampleAndPad(nn.Module):
    """The shortcut without parameters: every second pixel, and zero channels (option A of He et al.)."""

    def forward(self, features: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, 2C, H/2, W/2)``."""
        channels = features.shape[1]
        side = [0, 0, 0, 0, channels // 2, channels - channels // 2]
        return nn.functional.pad(features[:, :, ::2, ::2], side)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm, added to a shortcut (He et al. 2016, Figure 2)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module
        if in_channels == out_channels and stride == 1:
            self.downsample = nn.Identity()
        elif shortcut == "projection":
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )
        else:
            self.downsample = SubsampleAndPad()

    def forward(self, features: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to ``(B, out_channels, H/stride, W/stride)``."""
        out = self.relu(self.bn1(self.conv1(features)))
        return self.relu(self.bn2(self.conv2(out)) + self.downsample(features))


class CifarResNet(nn.Module):
    """The 6n+2 layer family for CIFAR (He et al. 2016, section 4.2).

    A 3x3 convolution, three stages of n blocks with 16, 32 and 64 channels at full, half and quarter
    resolution, global average pooling and a linear layer. The names of the parameters are those of
    Cohen et al. 2019, whose networks (and Salman's, Zhai's) have the shortcut ``projection``; the paper
    of He et al., and common model zoos, have ``identity``.

    Args:
        depth: 6n + 2: 20, 32, 44, 56, 110...
        num_classes: Number of logits.
        in_channels: Channels of the image.
        shortcut: The shortcut where the resolution changes: ``identity`` (option A of He et al., no
            parameters) or ``projection`` (option B, a 1x1 convolution and BatchNorm).

    Raises:
        ValueError: If `depth` is not 6n + 2 or `shortcut` is unknown.
    """

    def __init__(
        self, depth: int, num_classes: int, in_channels: int = 3, shortcut: Shortcut = "identity"
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"`depth` must be 6n + 2 (20, 32, 44, 56, 110...), got {depth}")
        if shortcut not in ("identity", "projection"):
            raise ValueError(f"`shortcut` must be 'identity' or 'projection', got {shortcut!r}")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = self._stage(16, 16, blocks, 1, shortcut)
        self.layer2 = self._stage(16, 32, blocks, 2, shortcut)
        self.layer3 = self._stage(32, 64, blocks, 2, shortcut)
        self.fc = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(inside: int, outside: int, blocks: int, stride: int, shortcut: Shortcut) -> nn.Sequential:
        first = BasicBlock(inside, outside, stride, shortcut)
        return nn.Sequential(first, *(BasicBlock(outside, outside, 1, shortcut) for _ in range(blocks - 1)))

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, num_classes)`` of normalised images ``(B, in_channels, H, W)``."""
        out = self.relu(self.bn1(self.conv1(images)))
        out = self.layer3(self.layer2(self.layer1(out)))
        return self.fc(torch.flatten(nn.functional.adaptive_avg_pool2d(out, 1), 1))
