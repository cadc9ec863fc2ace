import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats

from robustsmooth.smoothing import GaussianNoise, GridGaussianNoise, NoNoise, UniformNoise, generator
from robustsmooth.smoothing.noise import _cdf_table, _inversion, _invert


@pytest.mark.parametrize("scale", [0.12 * 255, 0.25 * 255, 1.0 * 16])
def test_the_integer_table_is_the_gaussian_cdf_to_the_last_bit(scale):
    table = _cdf_table(scale)
    last = (len(table) - 1) // 2
    with mpmath.workdps(60):
        for z in [*range(-last, last + 1, 7), -last, -1, 0, 1, last]:
            exact = mpmath.mpf(2) ** 63 * mpmath.ncdf((z + mpmath.mpf(1) / 2) / mpmath.mpf(scale))
            assert abs(table[z + last] - exact) <= 0.5000001
    assert list(table) == sorted(table)
    assert (table[0], table[-1]) == (0, 2**63)  # nothing is left outside of the table


def test_every_number_of_63_bits_inverts_to_its_cell():
    table, scale = _cdf_table(16.0), 16.0
    last = (len(table) - 1) // 2
    edges = [value for value in table if 0 < value < 2**63]
    bits = torch.tensor([0, 2**63 - 1, *edges, *(edge - 1 for edge in edges)])
    expected = [sum(edge <= u for edge in table) - last for u in bits.tolist()]
    assert _invert(bits, scale).tolist() == expected


def test_the_fast_inversion_equals_the_plain_one():
    bits = torch.empty(200_000, dtype=torch.int64).random_(generator=generator(0, "test"))
    thresholds, _, _ = _inversion(63.75, torch.device("cpu"))
    plain = torch.searchsorted(thresholds, bits, right=True) - math.ceil(9.2 * 63.75)
    assert torch.equal(_invert(bits, 63.75), plain.int())


def test_rounded_gaussian_numbers_follow_their_cdf():
    noise, size = GridGaussianNoise(0.02), 400_000
    drawn = noise.integers((size,), generator(0, "test")).numpy()
    values, counts = np.unique(drawn, return_counts=True)
    scale = 255 * 0.02
    expected = stats.norm.cdf((values + 0.5) / scale) - stats.norm.cdf((values - 0.5) / scale)
    common = expected * size > 20
    statistic = ((counts - expected * size) ** 2 / (expected * size))[common].sum()
    assert stats.chi2.sf(statistic, common.sum() - 1) > 1e-4


def test_grid_noise_stays_on_the_grid_and_reaches_the_network_as_z_over_255():
    images = torch.arange(256).reshape(1, 1, 16, 16) / 255
    noise = GridGaussianNoise(0.5)
    prepared = noise.prepare(images)
    noisy = noise.sample(prepared[0], 8, generator(0, "test"))
    integers = torch.round(noisy.double() * 255)
    assert torch.equal(noisy, integers.float() / 255)  # exactly float(z) / 255
    assert integers.min() < 0  # not clipped
    assert integers.max() > 255
    assert torch.equal(noise.clean(prepared[0]), images[0])


def test_rounding_the_sum_equals_adding_rounded_noise():
    # x + Q(eps) = Q(x + eps) for x on the grid, which makes the certificate exact.
    x = np.arange(256)[:, None]
    eps = np.random.default_rng(0).normal(size=(1, 1000)) * 60
    assert np.array_equal(x + np.floor(eps + 0.5), np.floor(x + eps + 0.5))


def test_grid_noise_refuses_images_off_the_grid():
    with pytest.raises(ValueError, match="multiples of 1/255"):
        GridGaussianNoise(0.5).prepare(torch.full((1, 1, 2, 2), 0.5))
    GridGaussianNoise(0.5, levels=16).prepare(torch.full((1, 1, 2, 2), 0.5))


@pytest.mark.parametrize("noise", [GaussianNoise(0.3), GridGaussianNoise(0.3), UniformNoise(0.3)])
def test_sigma_is_the_standard_deviation(noise):
    images = torch.full((1, 3, 8, 8), 102 / 255)
    noisy = noise.sample(noise.prepare(images)[0], 512, generator(0, "test")) - images
    size = noisy.numel()
    assert abs(float(noisy.mean())) < 4 * 0.3 / math.sqrt(size)
    assert float(noisy.std()) == pytest.approx(0.3, rel=4 / math.sqrt(2 * size) + 1e-4)


def test_noise_is_a_function_of_its_address():
    image = torch.zeros(3, 4, 4)
    draws = [
        GaussianNoise(1.0).sample(image, 4, generator(*key))
        for key in [(0, "a", 1), (0, "a", 1), (0, "a", 2)]
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("noise", [GaussianNoise(0.3), UniformNoise(0.3)])
def test_probability_inverts_radius(noise):
    for p in (0.6, 0.75, 0.9, 0.99):
        assert noise.probability(noise.radius(p)) == pytest.approx(p)
        assert noise.probability(noise.radius(p)) >= p - 1e-15


def test_radii_by_hand():
    assert GaussianNoise(0.5).radius(stats.norm.cdf(1.0)) == pytest.approx(0.5)
    assert GaussianNoise(0.5).radius(0.4) == 0.0
    assert GaussianNoise(0.5).radius(0.4, 0.1) == pytest.approx(
        0.25 * (stats.norm.ppf(0.4) - stats.norm.ppf(0.1))
    )
    uniform = UniformNoise(1 / math.sqrt(3))  # half_width 1
    assert uniform.radius(0.75) == pytest.approx(0.5)  # 2 lambda (p - 1/2)
    assert uniform.radius(0.5, 0.2) == pytest.approx(0.3)
    assert NoNoise().radius(1.0) == 0.0


@pytest.mark.parametrize("sigma", [0, -0.1, math.nan, math.inf])
def test_sigma_must_be_positive(sigma):
    with pytest.raises(ValueError, match="`sigma` must be a positive number"):
        GaussianNoise(sigma)


def test_no_noise_has_no_sigma():
    with pytest.raises(ValueError, match="`sigma` must be 0"):
        NoNoise(0.5)
