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


@pytest.mark.parametrize("steps", [1000, 4000])
def test_the_cosine_schedule_and_its_timestep_are_the_closed_form(steps):
    """abar(t) = f(t + 1) / f(0) with f(t) = cos^2((t / steps + .008) / 1.008 * pi / 2), solved for t."""
    start = math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    found = noise_schedule("cosine", steps)
    for step in (0, 1, steps // 3, steps // 2, steps - 2):
        expected = math.cos(((step + 1) / steps + 0.008) / 1.008 * math.pi / 2) ** 2 / start
        assert float(found[step]) == pytest.approx(expected, rel=1e-9)
    for sigma in (0.12, 0.25, 0.5, 1.0):
        left = start / (1 + (2 * sigma) ** 2)
        step = steps * (1.008 * math.acos(math.sqrt(left)) * 2 / math.pi - 0.008) - 1
        assert abs(OneStepDiffusion(nn.Identity(), sigma, "cosine", steps).timestep - step) <= 0.51


def test_what_the_network_gets_for_the_timestep():
    """Integers; or, as in improved-diffusion, their share of 1000."""
    given = []

    class Spy(nn.Module):
        def forward(self, images, times):
            given.append(times)
            return torch.zeros_like(images)

    images = torch.rand(2, 3, 4, 4)
    plain = OneStepDiffusion(Spy(), 0.25, "cosine", 4000)
    plain(images)
    OneStepDiffusion(Spy(), 0.25, "cosine", 4000, rescale_timesteps=True)(images)
    assert given[0].tolist() == [plain.timestep] * 2
    assert given[0].dtype == torch.int64
    assert given[1].tolist() == pytest.approx([plain.timestep / 4] * 2)


def test_a_predicted_variance_and_an_output_object_are_unpacked():
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
