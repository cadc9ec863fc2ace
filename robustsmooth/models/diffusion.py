"""A diffusion model as a denoiser in one step (Carlini et al. 2023)."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

Schedule = Literal["linear", "cosine"]


def noise_schedule(kind: Schedule, steps: int) -> Tensor:
    """The share of the image that remains at each timestep, abar_t.

    Args:
        kind: ``linear``, betas from 1e-4 to 0.02 at 1000 steps and scaled for others (Ho et al. 2020); or
            ``cosine`` (Nichol and Dhariwal 2021).
        steps: Number of timesteps.

    Returns:
        ``(steps,)`` float64, falling.

    Raises:
        ValueError: If a value is out of its range.
    """
    if kind not in get_args(Schedule):
        raise ValueError(f"`schedule` must be linear or cosine, got {kind!r}")
    if steps < 2:
        raise ValueError(f"`timesteps` must be at least 2, got {steps}")
    if kind == "linear":
        scale = 1000 / steps
        betas = torch.linspace(scale * 1e-4, scale * 0.02, steps, dtype=torch.float64)
    else:
        places = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        left = torch.cos((places + 0.008) / 1.008 * math.pi / 2).square()
        betas = (1 - left[1:] / left[:-1]).clamp(max=0.999)
    return (1 - betas).cumprod(dim=0)


class OneStepDiffusion(nn.Module):
    r"""A diffusion model's estimate of the clean image, from one pass at one noise level.

    Such a model takes images in [-1, 1], where the noise is twice as large. With the timestep t whose
    :math:`(1 - \bar a_t) / \bar a_t` is nearest to :math:`(2 \sigma)^2`, a noisy image x is scaled to
    :math:`x_t = \sqrt{\bar a_t} (2 x - 1)`, the model predicts its noise e, and

    .. math:: D(x) = \frac{1}{2} \Big( \mathrm{clip}\Big( \frac{x_t - \sqrt{1 - \bar a_t}\, e(x_t, t)}
        {\sqrt{\bar a_t}}, -1, 1 \Big) + 1 \Big)

    (Carlini et al. 2023). For one noise level: certify with the same ``smoothing.sigma``.

    Args:
        network: Maps ``(x_t, t)``, images ``(B, C, H, W)`` and timesteps ``(B,)``, to the predicted noise,
            such as `UNet`. Channels beyond C (a predicted variance) are ignored; of an object with an
            attribute ``sample`` (diffusers), that attribute is used.
        sigma: Noise level in pixel units for images in [0, 1]; positive.
        schedule: ``linear`` or ``cosine``; see `noise_schedule`.
        timesteps: Number of timesteps in the model's training.
        rescale_timesteps: Give the network the timestep times 1000 / `timesteps`, a fraction, as most
            networks of improved-diffusion were trained (their setting of this name); otherwise the integer.

    Raises:
        ValueError: If a value is out of its range, or no timestep has so much noise.
    """

    def __init__(
        self,
        network: nn.Module,
        sigma: float,
        schedule: Schedule = "linear",
        timesteps: int = 1000,
        rescale_timesteps: bool = False,
    ) -> None:
        super().__init__()
        if not 0 < sigma < float("inf"):
            raise ValueError(f"`sigma` of the denoiser must be positive, got {sigma}")
        left = noise_schedule(schedule, timesteps)
        levels = ((1 - left) / left).sqrt()
        if 2 * sigma > levels[-1]:
            raise ValueError(
                f"no timestep has as much noise as sigma {sigma}: the last has {float(levels[-1]) / 2:.3g}"
            )
        self.network = network
        self.timestep = int((levels - 2 * sigma).abs().argmin())
        self.left = float(left[self.timestep])
        self.given_time = self.timestep * 1000 / timesteps if rescale_timesteps else self.timestep
        """What the network gets for the timestep."""

    def forward(self, images: Tensor) -> Tensor:
        """Denoise images ``(B, C, H, W)``; the result is in [0, 1]."""
        scaled = math.sqrt(self.left) * (2 * images - 1)
        times = torch.full(images.shape[:1], self.given_time, device=images.device)
        noise = self.network(scaled, times)
        noise = getattr(noise, "sample", noise)[:, : images.shape[1]]
        clean = (scaled - math.sqrt(1 - self.left) * noise) / math.sqrt(self.left)
        return (clean.clamp(-1, 1) + 1) / 2
