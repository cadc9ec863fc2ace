"""A classifier of images in [0, 1]: normalisation is its first layer."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """``(image - mean) / std`` per channel, so that noise, attacks and radii are in [0, 1] pixel units.

    The statistics are buffers: they move with the network and are saved in its checkpoints.

    Args:
        mean: One value per channel.
        std: One positive value per channel.

    Raises:
        ValueError: If the lengths differ or a standard deviation is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std):
            raise ValueError(f"`mean` and `std` must be equally long, got {len(mean)} and {len(std)}")
        if any(value <= 0 for value in std):
            raise ValueError(f"`std` must be positive, got {list(std)}")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Normalise images ``(B, C, H, W)``.

        Raises:
            ValueError: If the number of channels differs from the number of statistics.
        """
        channels = self.mean.numel()
        # One channel would be broadcast silently. (Not while tracing for ONNX, which keeps no checks.)
        if not torch.jit.is_tracing() and images.shape[-3] != channels:
            raise ValueError(f"the network takes images of {channels} channels, got {images.shape[-3]}")
        return (images - self.mean) / self.std


class Classifier(nn.Module):
    """A network behind its normalisation layer, and behind a denoiser if there is one.

    Args:
        network: Maps normalised images ``(B, C, H, W)`` to logits ``(B, num_classes)``.
        normalize: The first layer; none by default.
        num_classes: Number of logits.
        channels_last: Run in the channels-last memory format, which is faster on most devices.
        denoiser: Maps images with noise in [0, 1] to images, before the normalisation.
    """

    def __init__(
        self,
        network: nn.Module,
        normalize: nn.Module | None = None,
        *,
        num_classes: int,
        channels_last: bool = False,
        denoiser: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.normalize = nn.Identity() if normalize is None else normalize
        self.network = network
        self.num_classes = num_classes
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, num_classes)`` of images ``(B, C, H, W)`` in [0, 1]."""
        return self.classify(images if self.denoiser is None else self.denoiser(images))

    def classify(self, images: Tensor) -> Tensor:
        """Logits of images, without the denoiser."""
        return self.network(self.normalize(images).contiguous(memory_format=self.memory_format))


class SmallCNN(nn.Module):
    """A small convolutional network for small images such as the 8x8 digits.

    Two blocks of two 3x3 convolutions with BatchNorm and ReLU, the second at half resolution, then
    global average pooling and a linear layer.

    Args:
        num_classes: Number of logits.
        in_channels: Channels of the image.
        width: Channels of the first block; the second has twice as many.
    """

    def __init__(self, num_classes: int, in_channels: int = 1, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for out, stride in [(width, 1), (width, 1), (2 * width, 2), (2 * width, 1)]:
            layers += [
                nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(),
            ]
            channels = out
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, num_classes)`` of normalised images ``(B, in_channels, H, W)``."""
        return self.head(self.features(images).mean(dim=(2, 3)))
