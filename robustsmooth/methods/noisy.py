"""Noisy copies through a network, copies first."""

from torch import Tensor, nn

__all__ = ["noisy_logits", "require_copies", "require_noise"]


def noisy_logits(network: nn.Module, images: Tensor, noises: Tensor) -> Tensor:
    """Logits of every noisy copy, from one pass.

    The noisy images are not clamped to [0, 1]: the certificate is for unclamped noise.

    Args:
        network: Maps images to logits.
        images: ``(B, C, H, W)``.
        noises: ``(copies, B, C, H, W)``, already scaled by sigma.

    Returns:
        ``(copies, B, K)``.
    """
    return network((images + noises).flatten(0, 1)).unflatten(0, noises.shape[:2])


def require_noise(sigma: float) -> None:
    """Raise ValueError unless `sigma` is positive."""
    if not sigma > 0:
        raise ValueError(f"`method.sigma` must be positive, got {sigma}")


def require_copies(name: str, copies: int) -> None:
    """Raise ValueError unless a number of noisy copies is at least 1."""
    if copies < 1:
        raise ValueError(f"`method.{name}` must be at least 1, got {copies}")
