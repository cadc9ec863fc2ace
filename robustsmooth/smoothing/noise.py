"""Noise distributions for smoothing, and the radii that they certify.

A noise makes noisy copies of one image, and turns bounds on the top class's probability into a certified
radius in its own norm. Copies are drawn in blocks of `BLOCK`, each block from its own generator (see
`addressing`). A block is always drawn as a whole, and copies that are not needed are dropped: the first
numbers of a generator depend on how many are drawn at once.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

from robustsmooth.smoothing.addressing import Randomness

BLOCK = 32
"""Number of noisy copies that share one generator. Changing it changes the votes of every log."""

Norm = Literal["l2", "l1", "none"]


@dataclass(frozen=True)
class Noise(ABC):
    """A distribution of additive noise.

    Args:
        sigma: Standard deviation of each pixel's noise, in pixel units for images in [0, 1].
    """

    sigma: float
    norm: ClassVar[Norm]

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not (math.isfinite(self.sigma) and self.sigma > 0):
            raise ValueError(
                f"`sigma` must be a positive number (noise in pixel units), got {self.sigma}; "
                "for no noise use smoothing=none"
            )

    def prepare(self, images: Tensor) -> Tensor:
        """The images in the form that `sample` takes, checked once per image.

        Args:
            images: ``(B, C, H, W)`` float in [0, 1].

        Returns:
            ``(B, C, H, W)`` on the same device.
        """
        return images

    @abstractmethod
    def sample(self, prepared: Tensor, copies: int, source: torch.Generator) -> Tensor:
        """Noisy copies of one image, not clipped: the certificate holds for unclipped noise.

        Args:
            prepared: One image from `prepare`, ``(C, H, W)``.
            copies: How many.
            source: Generator on the image's device.

        Returns:
            ``(copies, C, H, W)`` float32.
        """

    @abstractmethod
    def draw(self, like: Tensor, copies: int, randomness: Randomness, draw: int = 0) -> Tensor:
        """The noise alone, to add to a batch of images in training.

        Args:
            like: The images, ``(B, C, H, W)``.
            copies: How many noises for each image.
            randomness: The source of the random numbers.
            draw: Distinguishes several draws from one `randomness`.

        Returns:
            ``(copies, B, C, H, W)``, of the dtype and device of `like`.
        """

    def clean(self, prepared: Tensor) -> Tensor:
        """The image itself, ``(C, H, W)`` float32, as the network sees it without noise."""
        return prepared

    @abstractmethod
    def radius(self, p_a_lower: float, p_b_upper: float | None = None) -> float:
        """Certified radius, in this noise's norm, from bounds on the class probabilities.

        Args:
            p_a_lower: Lower bound on the top class's probability under noise.
            p_b_upper: Upper bound on every other class's; ``1 - p_a_lower`` if not given.

        Returns:
            The radius in pixel units, 0.0 where the bounds certify nothing.
        """

    @abstractmethod
    def probability(self, radius: float) -> float:
        """The probability of the top class above which `radius` is certified (inverse of `radius`)."""


@dataclass(frozen=True)
class GaussianNoise(Noise):
    """Gaussian noise N(0, sigma² I) in floating point (Cohen et al. 2019); certifies in l2.

    The theorem is about real numbers. Noise added in float32 is not exactly Gaussian around every
    image, which an adversary can exploit (Jin et al. 2022, Voracek and Hein 2023);
    `GridGaussianNoise` closes that gap for 8-bit images.
    """

    norm: ClassVar[Norm] = "l2"

    def sample(self, prepared: Tensor, copies: int, source: torch.Generator) -> Tensor:
        """See `Noise.sample`."""
        noise = torch.randn((copies, *prepared.shape), generator=source, device=prepared.device)
        return noise.mul_(self.sigma).add_(prepared)

    def draw(self, like: Tensor, copies: int, randomness: Randomness, draw: int = 0) -> Tensor:
        """See `Noise.draw`."""
        return self.sigma * randomness.normal(like, copies, draw)

    def radius(self, p_a_lower: float, p_b_upper: float | None = None) -> float:
        """Sigma Phi^-1(p_a_lower), or half the difference of the quantiles (Cohen et al. 2019, Theorem 1)."""
        if p_b_upper is None:
            return max(0.0, self.sigma * float(ndtri(p_a_lower)))
        return max(0.0, self.sigma / 2 * float(ndtri(p_a_lower) - ndtri(p_b_upper)))

    def probability(self, radius: float) -> float:
        """Phi(radius / sigma), rounded up."""
        return float(np.nextafter(ndtr(radius / self.sigma), 1.0))


@dataclass(frozen=True)
class GridGaussianNoise(GaussianNoise):
    """Gaussian noise rounded to the images' own grid, drawn and added in integers: exact as computed.

    With Q rounding to the grid of step 1/levels and x on the grid, x + Q(eps) = Q(x + eps): smoothing
    with this noise is exactly Gaussian smoothing of the classifier behind Q, so the Gaussian
    certificate holds for every image on the grid and there is no floating-point gap (Voracek and
    Hein 2023). Q(eps) is drawn by inverting an integer table of its cdf on 63 random bits.

    Args:
        sigma: Standard deviation in pixel units, before rounding.
        levels: The grid's steps per unit; 255 for 8-bit images. Images must lie on the grid.
    """

    levels: int = 255

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        if self.levels < 1:
            raise ValueError(f"`levels` must be at least 1 (255 for 8-bit images), got {self.levels}")

    def prepare(self, images: Tensor) -> Tensor:
        """The images in grid steps, ``(B, C, H, W)`` int32.

        Raises:
            ValueError: If an image is not on the grid.
        """
        steps = torch.round(images * self.levels)
        if not torch.allclose(steps, images * self.levels, rtol=0, atol=1e-2):
            raise ValueError(
                f"grid noise needs images that are multiples of 1/{self.levels}, got others; set `levels` to "
                "the images' own grid, do not interpolate after loading, or use smoothing=gaussian"
            )
        return steps.to(torch.int32)

    def integers(self, shape: tuple[int, ...], source: torch.Generator) -> Tensor:
        """Rounded Gaussian numbers, in grid steps.

        Args:
            shape: Of the result.
            source: The generator; its device is the result's.

        Returns:
            int32, each z with probability Phi((z + .5)/(levels sigma)) - Phi((z - .5)/(levels sigma)),
            up to 2^-62.
        """
        bits = torch.empty(shape, dtype=torch.int64, device=source.device).random_(generator=source)
        return _invert(bits, self.levels * self.sigma)

    def sample(self, prepared: Tensor, copies: int, source: torch.Generator) -> Tensor:
        """Noisy copies on the grid: integers added to integers, then float(z) / levels."""
        noise = self.integers((copies, *prepared.shape), source)
        return self.clean(noise.add_(prepared))

    def draw(self, like: Tensor, copies: int, randomness: Randomness, draw: int = 0) -> Tensor:
        """See `Noise.draw`: Gaussian numbers rounded to the grid, in floating point, for training only."""
        return (super().draw(like, copies, randomness, draw) * self.levels).round() / self.levels

    def clean(self, prepared: Tensor) -> Tensor:
        """float(z) / levels."""
        return prepared.to(torch.float32) / self.levels


@dataclass(frozen=True)
class UniformNoise(Noise):
    """Uniform noise on [-half_width, half_width] in each pixel; certifies in l1 (Yang et al. 2020).

    Args:
        sigma: Standard deviation in pixel units; half_width is sqrt(3) sigma, so that noises of
            equal sigma are equally strong.
    """

    norm: ClassVar[Norm] = "l1"

    @property
    def half_width(self) -> float:
        """Lambda in Yang et al. 2020."""
        return math.sqrt(3) * self.sigma

    def sample(self, prepared: Tensor, copies: int, source: torch.Generator) -> Tensor:
        """See `Noise.sample`."""
        noise = torch.rand((copies, *prepared.shape), generator=source, device=prepared.device)
        return noise.sub_(0.5).mul_(2 * self.half_width).add_(prepared)

    def draw(self, like: Tensor, copies: int, randomness: Randomness, draw: int = 0) -> Tensor:
        """See `Noise.draw`."""
        return (2 * randomness.uniform(like, copies, draw) - 1) * self.half_width

    def radius(self, p_a_lower: float, p_b_upper: float | None = None) -> float:
        """half_width (p_a_lower - p_b_upper), which is 2 half_width (p_a_lower - 1/2) for two classes."""
        return max(0.0, self.half_width * (p_a_lower - (1 - p_a_lower if p_b_upper is None else p_b_upper)))

    def probability(self, radius: float) -> float:
        """1/2 + radius / (2 half_width), rounded up; above 1 where no probability certifies `radius`."""
        return float(np.nextafter(0.5 + radius / (2 * self.half_width), 2.0))


@dataclass(frozen=True)
class NoNoise(Noise):
    """No noise: the bare network, or one whose only randomness is inside. Certifies nothing.

    Args:
        sigma: Zero.
    """

    sigma: float = 0.0
    norm: ClassVar[Norm] = "none"

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.sigma != 0:
            raise ValueError(f"`sigma` must be 0 without noise, got {self.sigma}; use smoothing=gaussian")

    def sample(self, prepared: Tensor, copies: int, source: torch.Generator) -> Tensor:
        """Copies of the image as it is."""
        return prepared.expand(copies, *prepared.shape)

    def draw(self, like: Tensor, copies: int, randomness: Randomness, draw: int = 0) -> Tensor:
        """Zeros."""
        return like.new_zeros(()).expand(copies, *like.shape)

    def radius(self, p_a_lower: float, p_b_upper: float | None = None) -> float:
        """Always 0.0."""
        return 0.0

    def probability(self, radius: float) -> float:
        """Above 1: nothing can be certified."""
        return 2.0


_BITS = 63
_CELL_BITS = 16  # a cell of the guide is given by the top 16 bits
_PI = "3.141592653589793238462643383279502884197169399375105820974944592307816406286208998628034825342"


@lru_cache(maxsize=8)
def _cdf_table(scale: float) -> tuple[int, ...]:
    """2^63 Phi((z + .5)/scale) for z = -last, ..., last, rounded to integers, in exact arithmetic.

    Args:
        scale: The Gaussian's standard deviation in grid steps.
    """
    last = math.ceil(9.2 * scale)  # 2^63 Phi(-9.2) < 1/2: the table is complete
    with localcontext() as context:
        context.prec = 90
        half, total, spread = Decimal(1) / 2, Decimal(2) ** _BITS, Decimal(scale)
        to_phi = 1 / (2 * Decimal(_PI)).sqrt()
        positive = []
        for z in range(last + 1):
            x = (z + half) / spread
            # Phi(x) - 1/2 = 1/sqrt(2 pi) sum (-1)^k x^(2k+1) / (2^k k! (2k+1))
            term, series, k = x, x, 0
            while abs(term) > Decimal(10) ** -40:
                k += 1
                term *= -x * x / (2 * k)
                series += term / (2 * k + 1)
            positive.append(int((total * (half + to_phi * series)).to_integral_value()))
    # Phi(-x) = 1 - Phi(x); z = -1 - j mirrors j.
    negative = [2**_BITS - value for value in reversed(positive[:last])]
    return (*negative, *positive)


@lru_cache(maxsize=8)
def _inversion(scale: float, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Thresholds, guide and crowded cells of the table, on a device.

    Returns:
        The thresholds: a number u below 2^63 becomes z = (how many thresholds are at most u) - last. The
        guide: for each value of the top 16 bits, how many thresholds are at or below its start. Whether a
        cell has more than one threshold (in the tails).
    """
    # The last threshold is 2^63 itself, which is not an int64 and is never reached.
    thresholds = torch.tensor([value for value in _cdf_table(scale) if value < 2**_BITS], dtype=torch.int64)
    starts = torch.arange(2**_CELL_BITS, dtype=torch.int64) << (_BITS - _CELL_BITS)
    guide = torch.searchsorted(thresholds, starts, right=True)
    crowded = torch.diff(guide, append=torch.tensor([len(thresholds)])) > 1
    return thresholds.to(device), guide.to(device), crowded.to(device)


def _invert(bits: Tensor, scale: float) -> Tensor:
    """Rounded Gaussian numbers from uniform 63-bit integers."""
    last = math.ceil(9.2 * scale)
    thresholds, guide, crowded = _inversion(scale, bits.device)
    if bits.device.type != "cpu":
        return (torch.searchsorted(thresholds, bits, right=True) - last).to(torch.int32)
    # The same result, several times faster on a CPU: look up the cell, then compare with one threshold.
    cells = bits >> (_BITS - _CELL_BITS)
    below = guide[cells]
    next_one = thresholds[below.clamp(max=len(thresholds) - 1)]
    below += (bits >= next_one) & (below < len(thresholds))
    tails = crowded[cells].nonzero(as_tuple=True)
    below[tails] = torch.searchsorted(thresholds, bits[tails], right=True)
    return (below - last).to(torch.int32)
