"""Augmentation of whole batches, addressed by (seed, epoch, draw of an image).

The random numbers come from an integer hash that is computed on the tensor of indices itself, so
that a batch takes a few tensor operations on any device, and the crop of an image does not depend on its
batch, its rank, or interruptions of the run.
"""

from typing import Protocol

import torch
from torch import Tensor

from robustsmooth.smoothing.addressing import address


def _signed(value: int) -> int:
    """The same 64 bits as a signed integer, since torch has no unsigned ones."""
    return value - 2**64 if value >= 2**63 else value


# SplitMix64 (Steele, Lea and Flood 2014): a counter times the golden ratio, then a bijective mixer.
_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _shift_right(values: Tensor, bits: int) -> Tensor:
    return (values >> bits) & (2 ** (64 - bits) - 1)  # torch's shift copies the sign bit


def _mix(values: Tensor) -> Tensor:
    values = (values ^ _shift_right(values, 30)) * _MIX_1
    values = (values ^ _shift_right(values, 27)) * _MIX_2
    return values ^ _shift_right(values, 31)


def augmentation_key(seed: int, epoch: int) -> int:
    """The address of one epoch's augmentation, for `random_integers`."""
    return address(seed, "augmentation", epoch)


def random_integers(key: int, indices: Tensor, draw: int, bound: int) -> Tensor:
    """One random integer for each image: a pure function of (key, index, draw).

    Args:
        key: See `augmentation_key`.
        indices: ``(B,)`` int64, any device: of the images, or `robustsmooth.data.tensors.Draws`.
        draw: Number of the draw; different draws are independent.
        bound: The integers are uniform in [0, bound), up to one part in 2**32.

    Returns:
        ``(B,)`` int64 on the device of `indices`; the same on every device.
    """
    values = _mix(_mix(indices * _GOLDEN + key) + _mix(torch.full_like(indices, draw + 1) * _GOLDEN))
    return (_shift_right(values, 32) * bound) >> 32


class Augmentation(Protocol):
    """A random change of each image in a batch, determined by the image's index."""

    def __call__(self, images: Tensor, indices: Tensor, key: int) -> Tensor:
        """Change `images` ``(B, C, H, W)`` uint8; see `random_integers` for `indices` and `key`."""
        ...


class CropAndFlip:
    """Shift each image by up to `padding` pixels over a black border, and mirror half of them.

    The augmentation of He et al. 2016 (section 4.2) for CIFAR: pad, crop at random, flip at random.

    Args:
        padding: Largest shift in pixels, each way; 0 for none.
        flip: Whether to mirror left and right with probability one half.
    """

    def __init__(self, padding: int = 4, flip: bool = True) -> None:
        if padding < 0:
            raise ValueError(f"`padding` must be at least 0, got {padding}")
        self.padding, self.flip = padding, flip

    def __call__(self, images: Tensor, indices: Tensor, key: int) -> Tensor:
        """Return the changed copy of `images`; see `Augmentation`."""
        batch, channels, height, width = images.shape
        places = 2 * self.padding + 1
        rows = torch.arange(height, device=images.device) + random_integers(key, indices, 0, places)[:, None]
        columns = torch.arange(width, device=images.device).expand(batch, width)
        if self.flip:
            mirrored = random_integers(key, indices, 2, 2)[:, None].bool()
            columns = torch.where(mirrored, columns.flip(1), columns)
        columns = columns + random_integers(key, indices, 1, places)[:, None]
        padded = torch.nn.functional.pad(images, [self.padding] * 4).flatten(2)
        pixels = rows[:, :, None] * (width + 2 * self.padding) + columns[:, None, :]  # (B, H, W)
        picked = padded.gather(2, pixels.view(batch, 1, -1).expand(batch, channels, -1))
        return picked.view(batch, channels, height, width)
