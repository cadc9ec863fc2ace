"""Checks of images, noises and networks for which a certificate would be void."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustsmooth.smoothing.ballots import answers
from robustsmooth.smoothing.noise import Noise

_ROWS = 8  # images in the batch with which a network is examined


def check_images(images: Any, where: str = "`images`") -> None:
    """Refuse what is not a batch of images in [0, 1].

    Args:
        images: Should be ``(B, C, H, W)``, floating point, finite and in [0, 1].
        where: What the message calls them.

    Raises:
        TypeError: If `images` is not a tensor of floating-point numbers.
        ValueError: If the shape is wrong, or a value is not finite or not in [0, 1].
    """
    wanted = "a torch.Tensor (B, C, H, W) of floats in [0, 1]"
    if not isinstance(images, Tensor):
        raise TypeError(f"{where} must be {wanted}, got {type(images).__name__}; see torch.from_numpy")
    if not images.is_floating_point():
        hint = "; 8-bit images are converted by images.float() / 255" if images.dtype == torch.uint8 else ""
        raise TypeError(f"{where} must be {wanted}, got {images.dtype}{hint}")
    if images.dim() != 4:
        raise ValueError(f"{where} must be {wanted}, got the shape {tuple(images.shape)}")
    if not images.numel():
        return
    low, high = (float(end) for end in images.detach().aminmax())
    if not (low >= 0 and high <= 1):  # NaN too
        raise ValueError(
            f"{where} must be finite and in [0, 1], got {_range(low, high)}: sigma and radii are in these "
            "units; divide 8-bit images by 255, and let the network's first layer do any normalisation"
        )


def _range(low: float, high: float) -> str:
    return "NaN" if low != low else f"values from {low:.4g} to {high:.4g}"


def check_noise(noise: Any) -> None:
    """Refuse what is not a noise.

    Raises:
        TypeError: If `noise` is not a `Noise`.
    """
    if not isinstance(noise, Noise):
        hint = f"GaussianNoise({noise})" if isinstance(noise, int | float) else "GaussianNoise(0.25)"
        raise TypeError(f"`noise` must be a Noise such as {hint}, got {noise!r}")


def check_module(network: Any) -> None:
    """Refuse what is not a network.

    Raises:
        TypeError: If `network` is not a `torch.nn.Module`.
    """
    if not isinstance(network, nn.Module):
        raise TypeError(
            "`network` must be a torch.nn.Module that maps images in [0, 1] to logits, got a "
            f"{type(network).__name__}; call it in the `forward` of one"
        )


def check_network(
    network: Callable[[Tensor], Tensor], image: Tensor, noise: Noise, source: torch.Generator
) -> bool:
    """Find out whether a network is random inside; refuse one whose rows depend on each other.

    A vote must depend on its own noisy image only. With statistics of the batch (BatchNorm in train mode, a
    batch mean) votes depend on each other, and no binomial bound holds. The check replaces all rows of a
    batch but the first, and compares the first row's logits.

    Args:
        network: Maps images to logits, in eval mode and without gradients.
        image: One prepared image, ``(C, H, W)``.
        noise: The smoothing noise.
        source: Draws the noise, on the image's device.

    Returns:
        Whether a pass draws random numbers: they need not change the answer to these images.

    Raises:
        ValueError: If the network does not take such images, does not return logits ``(B, K)``,
            lets a row depend on other rows, answers NaN for every noisy image, or draws random numbers that
            `torch.manual_seed` does not determine. Those of a generator of the network's own, which is no
            default generator, are noticed only if they change an answer in one of three passes.
    """
    batch = noise.sample(noise.prepare(image[None])[0], _ROWS, source).clone()
    others = batch.clone()
    others[1:] = 1 - 2 * others[1:].flip(0)  # another mean and another variance than the noisy images
    drawn, foreign = [], []

    def watched(images: Tensor) -> Tensor:
        before = _generators(image.device)
        logits = network(images)
        moved = [old != new for old, new in zip(before, _generators(image.device), strict=True)]
        drawn.append(moved[0])
        foreign.append(moved[1])
        return logits

    with torch.random.fork_rng([image.device] if image.device.type == "cuda" else []):
        logits = _logits(watched, batch)
        same = []
        for images in (batch, batch, batch, others):
            torch.manual_seed(0)
            same.append(watched(images)[0])
    scale = float(logits.nan_to_num(0, 0, 0).abs().max())
    equal = [torch.allclose(same[0], row, rtol=1e-3, atol=1e-3 * scale, equal_nan=True) for row in same]
    if all(foreign) or not all(equal[:3]):  # another thread may draw some during one pass
        raise ValueError(
            "the network draws random numbers that torch.manual_seed does not determine (NumPy's, Python's, "
            "or those of its own generator), so that its votes cannot be repeated; use torch's default one"
        )
    if not equal[3]:
        raise ValueError(
            "the network's answer to an image depends on the other images of the batch (BatchNorm without "
            "running statistics, say), so that its votes are not independent and certify nothing; make it "
            "treat every image by itself"
        )
    if not answers(logits).any():
        raise ValueError(
            f"the network gives no answer (NaN or infinite logits) to any of {_ROWS} noisy images; its "
            "training diverged or its precision overflows: take another checkpoint, or precision 32-true"
        )
    return any(drawn)


def _generators(device: torch.device) -> tuple[list[bytes], str]:
    """The states of PyTorch's default generators, and of NumPy's and Python's."""
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        own = torch.get_device_module(device)
        states.append(own.get_rng_state() if device.type == "mps" else own.get_rng_state(device))
    numpy_state: Any = np.random.get_state()
    name, key, *place = numpy_state
    return [state.numpy().tobytes() for state in states], f"{name} {bytes(key)!r} {place} {random.getstate()}"


def _logits(network: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    """The first pass, which shows whether the network takes such images."""
    shape = tuple(batch.shape[1:])
    try:
        logits = network(batch)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"the network does not take float32 images of shape (C, H, W) = {shape}: {reason}"
        ) from None
    shape = tuple(logits.shape)
    if logits.dim() != 2 or len(logits) != len(batch):
        raise ValueError(f"the network must return logits (B, K), got the shape {shape} for {_ROWS} images")
    if shape[1] < 2:
        raise ValueError(
            f"the network must return logits (B, K) of at least two classes, got the shape {shape} for "
            f"{_ROWS} images; for one logit z return torch.cat([-z, z], dim=1)"
        )
    return logits
