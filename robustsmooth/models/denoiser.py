"""Denoisers in front of a classifier (Salman et al. 2020, denoised smoothing)."""

from torch import Tensor, nn

__all__ = ["DnCNN"]


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
