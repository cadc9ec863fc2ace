"""The iteration of eq. 15 on a line against Gaussian averages computed by quadrature."""

import itertools

import numpy as np
import pytest
import torch

from robustsmooth.losses import boundary_distance, heat_steps

GRID = torch.linspace(-3, 3, 601, dtype=torch.float64)
SPACING = 0.01


def gaussian_average(function, points, std):
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    return (function(points[:, None] + std * nodes) * weights).sum(1) / weights.sum()


@pytest.mark.parametrize(("equation", "std"), [("13", 0.3), ("15", 0.3 * 2**0.5)])
def test_many_steps_approach_the_gaussian_average(equation, std):
    def bumps(x):
        return np.tanh(4 * x) + 0.5 * np.exp(-((x + 0.5) ** 2) / 0.05)

    final = heat_steps(torch.from_numpy(bumps(GRID.numpy())), SPACING, 0.3, 400, equation)[-1]
    inner = slice(150, 451)  # away from the mirrored ends
    expected = gaussian_average(bumps, GRID.numpy()[inner], std)
    assert np.abs(final.numpy()[inner] - expected).max() < 2e-3


def test_each_step_minimises_the_functional():
    torch.manual_seed(0)
    values, sigma, count = torch.randn(40, dtype=torch.float64), 0.5, 4
    models = heat_steps(values, 0.1, sigma, count)

    def functional(v, f):
        slope = (v[1:] - v[:-1]) / 0.1
        return 0.1 * (0.5 * (v - f).square().sum() + sigma**2 / count / 2 * slope.square().sum())

    for before, after in itertools.pairwise(models):
        after = after.clone().requires_grad_()
        functional(after, before).backward()
        assert after.grad.abs().max() < 1e-10


def test_eight_steps_move_the_boundary_away_as_in_figure_5():
    """A small island of the other class next to x = -0.5 is smoothed away."""
    values = torch.where((GRID > -0.4) & (GRID < -0.3), -0.5, 0.5) * torch.where(GRID > 0.4, -1.0, 1.0)
    distances = [boundary_distance(model, GRID, -0.5) for model in heat_steps(values, SPACING, 0.25, 8)]
    assert distances[0] == pytest.approx(0.10, abs=0.01)
    assert distances[-1] > 0.8
    assert len(distances) == 9


def test_boundary_distance_interpolates():
    grid = torch.tensor([0.0, 1.0, 2.0])
    assert boundary_distance(torch.tensor([1.0, 0.5, -1.5]), grid, 0.0) == pytest.approx(1.25)
    assert boundary_distance(torch.ones(3), grid, 0.0) == float("inf")


@pytest.mark.parametrize("bad", [{"spacing": 0.0}, {"sigma": -1.0}, {"time_steps": 0}])
def test_bad_input(bad):
    with pytest.raises(ValueError, match="must be"):
        heat_steps(**{"values": torch.ones(5), "spacing": 0.1, "sigma": 0.1, "time_steps": 1, **bad})
    with pytest.raises(ValueError, match="`values` must be a line"):
        heat_steps(torch.ones(2, 2), 0.1, 0.1, 1)
