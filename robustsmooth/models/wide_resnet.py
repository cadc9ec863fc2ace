"""Wide residual networks for 32x32 images (Zagoruyko and Komodakis 2016)."""

import torch
from torch import Tensor, nn


class _Block(nn.Module):
    """Two 3x3 convolutions, each after BatchNorm and ReLU, added to a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.convShortcut = (
            None
            if in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
        )

    def forward(self, features: Tensor) -> Tensor:
        activated = torch.relu(self.bn1(features))
        shortcut = features if self.convShortcut is None else self.convShortcut(activated)
        out = self.conv1(activated)
        out = self.conv2(self.dropout(torch.relu(self.bn2(out))))
        return shortcut + out


class _Stage(nn.Module):
    """A sequence of blocks, with the name of published checkpoints."""

    def __init__(self, in_channels: int, out_channels: int, blocks: int, stride: int, dropout: float) -> None:
        super().__init__()
        rest = (_Block(out_channels, out_channels, 1, dropout) for _ in range(blocks - 1))
        self.layer = nn.Sequential(_Block(in_channels, out_channels, stride, dropout), *rest)

    def forward(self, features: Tensor) -> Tensor:
        return self.layer(features)


class WideResNet(nn.Module):
    """WRN-depth-width for CIFAR: three stages of pre-activation blocks, 16 `width` channels and up.

    The names of the parameters are those of the implementation that TRADES and most published robust networks
    use (``block1.layer.0.conv1``...).

    Args:
        depth: 6n + 4: 16, 22, 28, 34, 40...
        width: How many times wider than the 6n + 2 family; 10 in WRN-28-10.
        num_classes: Number of logits.
        in_channels: Channels of the image.
        dropout: Share of features dropped between the convolutions of a block, in [0, 1).

    Raises:
        ValueError: If `depth` is not 6n + 4 or `width` is not positive.
    """

    def __init__(
        self,
        depth: int,
        width: int,
        num_classes: int,
        in_channels: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"`depth` must be 6n + 4 (16, 22, 28, 34, 40...), got {depth}")
        if width < 1:
            raise ValueError(f"`width` must be at least 1, got {width}")
        blocks = (depth - 4) // 6
        channels = [16, 16 * width, 32 * width, 64 * width]
        self.conv1 = nn.Conv2d(in_channels, channels[0], 3, padding=1, bias=False)
        self.block1 = _Stage(channels[0], channels[1], blocks, 1, dropout)
        self.block2 = _Stage(channels[1], channels[2], blocks, 2, dropout)
        self.block3 = _Stage(channels[2], channels[3], blocks, 2, dropout)
        self.bn1 = nn.BatchNorm2d(channels[3])
        self.fc = nn.Linear(channels[3], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, num_classes)`` of normalised images ``(B, in_channels, H, W)``."""
        out = self.block3(self.block2(self.block1(self.conv1(images))))
        out = torch.relu(self.bn1(out))
        return self.fc(torch.flatten(nn.functional.adaptive_avg_pool2d(out, 1), 1))
