"""Randomness that is addressed, not consumed.

Every random number is drawn from a generator whose seed is a hash of an address: (seed, purpose,
counters...). A result therefore depends on the seed and on what is computed, never on how many numbers were
drawn before. So it does not depend on the loader's batch size, the number of workers or devices, the order of
the images, or an interruption.

Two addresses may have the same numbers by chance: with probability 2**-32 on a CPU, whose generator in
PyTorch uses 32 bits of a seed. Of images with 100 000 votes about 1 in 900 counts one block of noise (32
votes) twice.

Two classes have one base, so that attacks and losses work in evaluation and in training:

* `ImageRandomness`, for evaluation: each image draws from its own address (seed, purpose, index).
* `BatchRandomness`, for training: one address for the whole batch, such as (seed, purpose, step, rank).
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def address(seed: int, purpose: str, *counters: int) -> int:
    """Hash an address to a seed.

    Args:
        seed: The run's seed, any integer.
        purpose: What the numbers are for, such as ``"certify/estimate"``.
        *counters: Integers that distinguish the draws of one purpose (image index, block, step...).

    Returns:
        An integer in [0, 2**63), the same on every machine and in every version of Python.
    """
    text = "\x1f".join([str(int(seed)), purpose, *(str(int(counter)) for counter in counters)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(seed: int, purpose: str, *counters: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on `device` for one address; see `address` for the arguments."""
    return torch.Generator(device).manual_seed(address(seed, purpose, *counters))


def image_names(images: Tensor) -> list[str]:
    """A name for each image that depends on its pixels only, not on its place in the data.

    Args:
        images: ``(B, C, H, W)`` float in [0, 1]; differences of 1/65535 count.

    Returns:
        A hash of each image, 16 characters.
    """
    pixels = (images.detach().float() * 65535).round().nan_to_num().to(torch.int32).cpu().contiguous().numpy()
    return [hashlib.blake2b(image.tobytes(), digest_size=8).hexdigest() for image in pixels]


def fingerprint(network: nn.Module | Mapping[str, Any]) -> str:
    """A short hash of all weights and buffers, which identifies a classifier wherever its file is.

    Args:
        network: The network, or its state dict. Floats are taken in single precision, as they are evaluated.
    """
    digest = hashlib.blake2b(digest_size=8)
    state = network.state_dict() if isinstance(network, nn.Module) else network
    for name, value in sorted(state.items()):
        if isinstance(value, Tensor):
            digest.update(name.encode())
            value = value.detach().cpu().to_dense().resolve_conj().resolve_neg()
            value = value.float() if value.is_floating_point() else value
            digest.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Randomness(ABC):
    """The source of random numbers for attacks and losses.

    The same `draw` gives the same numbers again; increase it for fresh ones.
    """

    def normal(self, like: Tensor, copies: int = 1, draw: int = 0) -> Tensor:
        """Standard normal numbers, ``(copies, *like.shape)``, of the dtype and device of `like`."""
        return self._sample(torch.randn, like, copies, draw)

    def uniform(self, like: Tensor, copies: int = 1, draw: int = 0) -> Tensor:
        """Uniform numbers in [0, 1), ``(copies, *like.shape)``, of the dtype and device of `like`."""
        return self._sample(torch.rand, like, copies, draw)

    @abstractmethod
    def _sample(self, sample: Callable[..., Tensor], like: Tensor, copies: int, draw: int) -> Tensor:
        """Numbers of a distribution, for `normal` and `uniform`."""


class BatchRandomness(Randomness):
    """One address for a whole batch.

    Args:
        seed: The run's seed.
        purpose: What the numbers are for.
        *counters: Integers that identify this batch, such as (global step, rank).
    """

    def __init__(self, seed: int, purpose: str, *counters: int) -> None:
        self.seed, self.purpose, self.counters = seed, purpose, counters

    def _sample(self, sample: Callable[..., Tensor], like: Tensor, copies: int, draw: int) -> Tensor:
        source = generator(self.seed, self.purpose, *self.counters, draw, device=like.device)
        return sample((copies, *like.shape), generator=source, device=like.device, dtype=like.dtype)


class ImageRandomness(Randomness):
    """One address for each image, so that an image's numbers do not depend on its batch.

    Args:
        seed: The run's seed.
        purpose: What the numbers are for.
        indices: The images' indices in their data set, ``(B,)`` int64.
    """

    def __init__(self, seed: int, purpose: str, indices: Tensor) -> None:
        self.seed, self.purpose = seed, purpose
        self.indices = [int(index) for index in indices.tolist()]

    def _sample(self, sample: Callable[..., Tensor], like: Tensor, copies: int, draw: int) -> Tensor:
        if len(self.indices) != len(like):
            raise ValueError(f"`like` must hold {len(self.indices)} images, got {len(like)}")
        out = torch.empty((copies, *like.shape), dtype=like.dtype, device=like.device)
        for position, index in enumerate(self.indices):
            source = generator(self.seed, self.purpose, index, draw, device=like.device)
            out[:, position] = sample(
                (copies, *like.shape[1:]), generator=source, device=like.device, dtype=like.dtype
            )
        return out
