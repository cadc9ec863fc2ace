"""One-step diffusion denoisers: schedules, timestep and scaling, against a closed form."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from robustsmooth.models import OneStepDiffusion
from robustsmooth.models.diffusion import noise_schedule

MEAN, SPREAD = 0.2, 0.3  # images are N(MEAN, SPREAD^2) in [-1, 1], pixel by pixel


class Ideal(nn.Module):
    """The noise that the best model expects for such images: linear in x_t."""

    def __init__(self, schedule, extra=0):
        super().__init__()
        self.left, self.extra, self.seen = noise_schedule(schedule, 1000), extra, []

    def forward(self, images, times):
        self.seen.append(times)
        left = self.left[times].view(-1, 1, 1, 1).to(images.dtype)
        gain = (1 - left).sqrt() / (left * SPREAD**2 + 1 - left)
        noise = gain * (images - left.sqrt() * MEAN)
        return torch.cat([noise, torch.full_like(noise, 7.0)], dim=1) if self.extra else noise


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("sigma", [0.05, 0.25, 1.0])
def test_the_ideal_model_gives_the_posterior_mean(schedule, sigma):
    denoiser = OneStepDiffusion(Ideal(schedule), sigma, schedule)
    images = 0.6 + 0.1 * torch.randn(5, 3, 4, 4, dtype=torch.float64)
    level = math.sqrt((1 - denoiser.left) / denoiser.left)  # of the timestep, in [-1, 1]
    assert level == pytest.approx(2 * sigma, rel=0.02)
    weight = SPREAD**2 / (SPREAD**2 + level**2)
    expected = MEAN + weight * ((2 * images - 1) - MEAN)
    torch.testing.assert_close(denoiser(images), (expected.clamp(-1, 1) + 1) / 2)


def test_the_published_timesteps():
    """abar of the linear schedule by its definition; sigma .25 counts .5 in [-1, 1]."""
    left = 1.0
    for step in range(1000):
        left *= 1 - (1e-4 + (0.02 - 1e-4) * step / 999)
        if (1 - left) / left >= 0.5**2:
            break
    assert abs(OneStepDiffusion(Ideal("linear"), 0.25).timestep - step) <= 1
    schedule = noise_schedule("cosine", 1000)
    assert (schedule.diff() < 0).all()
    assert schedule[-1] < 1e-6


def test_a_predicted_variance_and_an_output_object_are_opened():
    images = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    plain = OneStepDiffusion(Ideal("linear"), 0.25)(images)
    torch.testing.assert_close(OneStepDiffusion(Ideal("linear", extra=3), 0.25)(images), plain)

    class Diffusers(Ideal):
        def forward(self, images, times):
            return SimpleNamespace(sample=super().forward(images, times))

    torch.testing.assert_close(OneStepDiffusion(Diffusers("linear"), 0.25)(images), plain)


def test_a_tiny_network_has_gradients_to_image_and_weights():
    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, images, times):
            return self.layer(images) * times.view(-1, 1, 1, 1) / 1000

    denoiser = OneStepDiffusion(Tiny(), 0.25)
    images = (0.4 + 0.2 * torch.rand(2, 3, 4, 4)).requires_grad_()
    denoiser(images).sum().backward()
    assert images.grad.abs().sum() > 0
    assert denoiser.network.layer.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0.0}, "`sigma` of the denoiser must be positive"),
        ({"sigma": 1e6}, "no timestep has as much noise"),
        ({"sigma": 0.25, "schedule": "quadratic"}, "`schedule` must be linear or cosine"),
        ({"sigma": 0.25, "timesteps": 1}, "`timesteps` must be at least 2"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        OneStepDiffusion(nn.Identity(), **options)
