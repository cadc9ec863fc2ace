"""Noisy copies through a network, copies first."""

from torch import Tensor, nn

from robustsmooth.losses import CopiesLoss, mean_terms


def noisy_logits(network: nn.Module, images: Tensor, noises: Tensor) -> Tensor:
    """Logits of every noisy copy, from one pass.

    The noisy images are not clamped to [0, 1]: the certificate holds for unclamped noise.

    Args:
        network: Maps images to logits.
        images: ``(B, C, H, W)``.
        noises: ``(copies, B, C, H, W)``, already scaled by sigma.

    Returns:
        ``(copies, B, K)``.
    """
    return network((images + noises).flatten(0, 1)).unflatten(0, noises.shape[:2])


def copies_loss(
    network: nn.Module,
    loss: CopiesLoss,
    images: Tensor,
    noises: Tensor | None,
    labels: Tensor,
    *,
    sigma: float,
    weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """A loss of noisy copies, averaged over the images: what most methods return from `training_loss`.

    All copies go through the network in one pass; the images without noise in another, if the loss needs
    them.

    Args:
        network: Maps images to logits.
        loss: See `robustsmooth.losses.CopiesLoss`.
        images: ``(B, C, H, W)``.
        noises: ``(copies, B, C, H, W)``, already scaled by sigma; None for the images as they are.
        labels: ``(B,)``.
        sigma: Their standard deviation, for losses that use it.
        weights: ``(B,)``, the weight of each image, on average 1 over the images of a step on all devices;
            equal weights if None.

    Returns:
        ``loss``, its terms if there are several, and ``logits`` of the first copies.
    """
    clean = network(images) if noises is None or loss.needs_clean else None
    logits = clean.unsqueeze(0) if noises is None else noisy_logits(network, images, noises)  # type: ignore[union-attr]
    terms = loss(logits, labels, sigma=sigma, clean=clean)
    return {**mean_terms(terms, weights), "logits": logits[0]}


def require_noise(sigma: float) -> None:
    """Raise ValueError unless `sigma` is positive."""
    if not sigma > 0:
        raise ValueError(f"`method.sigma` must be positive, got {sigma}")


def require_copies(name: str, copies: int, loss: CopiesLoss | None = None) -> None:
    """Raise ValueError unless a number of noisy copies is at least 1, and enough for the loss."""
    if copies < 1:
        raise ValueError(f"`method.{name}` must be at least 1, got {copies}")
    if loss is not None and copies < loss.min_copies:
        raise ValueError(
            f"`method.{name}` must be at least {loss.min_copies} for this loss, which compares noisy copies "
            f"of an image, got {copies}"
        )
