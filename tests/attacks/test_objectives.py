import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from robustsmooth.attacks import PGD, Expectation, Plain, PlugIn, Stein
from tests.attacks.conftest import linear_problem

SIGMA = 0.3


@pytest.fixture
def soft():
    """Three classes, linear, in double precision: z = W x + b."""
    source = torch.Generator().manual_seed(1)
    layer = nn.Linear(6, 3).double()
    with torch.no_grad():
        layer.weight.copy_(2 * torch.randn(3, 6, generator=source))
        layer.bias.copy_(torch.randn(3, generator=source))
    images = torch.rand(4, 6, generator=source, dtype=torch.float64)
    return layer, images, torch.tensor([0, 1, 2, 0])


def draw(m, images, seed=0, sigma=SIGMA):
    source = torch.Generator().manual_seed(seed)
    return sigma * torch.randn(m, *images.shape, generator=source, dtype=images.dtype)


def smoothed(layer, image, label, sigma=SIGMA, nodes=24):
    """G(x)_y and its gradient by Gauss-Hermite quadrature over the logits' Gaussian."""
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    factor = sigma * np.linalg.cholesky(weight @ weight.T)
    places, weights = np.polynomial.hermite_e.hermegauss(nodes)
    weights = weights / weights.sum()
    value, slope = 0.0, np.zeros(3)
    for at in itertools.product(range(nodes), repeat=3):
        logits = weight @ image.numpy() + bias + factor @ places[list(at)]
        share = np.exp(logits - logits.max())
        share /= share.sum()
        mass = np.prod(weights[list(at)])
        value += mass * share[label]
        slope += mass * share[label] * ((np.arange(3) == label) - share)
    return value, weight.T @ slope


@pytest.mark.parametrize("group", [None, 1, 3, 7, 100])
@pytest.mark.parametrize(
    ("objective", "pool"),
    [
        (PlugIn(), lambda p: np.log(p.mean(0))),
        (Expectation(), lambda p: np.log(p).mean(0)),
    ],
)
def test_scores_and_gradients_are_those_of_the_formula(soft, objective, pool, group):
    layer, images, labels = soft
    noises = draw(7, images)
    scores, gradient = objective.gradient(layer, images, labels, noises, group)

    def naive(points):  # NumPy, one image and one copy at a time
        result = np.empty((len(points), 3))
        for i, point in enumerate(points):
            logits = np.stack([layer.weight.detach().numpy() @ (point + n[i]) for n in noises.numpy()])
            exponents = np.exp(logits + layer.bias.detach().numpy())
            result[i] = pool(exponents / exponents.sum(1, keepdims=True))
        return result

    np.testing.assert_allclose(scores, naive(images.numpy()), rtol=1e-10)
    np.testing.assert_allclose(objective.scores(layer, images, noises, group).detach(), scores, rtol=1e-10)
    step, numeric = 1e-6, np.empty(images.shape)
    for d in range(6):
        ahead, behind = images.numpy().copy(), images.numpy().copy()
        ahead[:, d] += step
        behind[:, d] -= step
        slopes = (naive(ahead) - naive(behind)) / (2 * step)
        numeric[:, d] = slopes[np.arange(4), labels]
    np.testing.assert_allclose(gradient, numeric, atol=1e-8)


def test_plain_uses_the_image_without_noise(soft):
    layer, images, labels = soft
    leaf = images.clone().requires_grad_(True)
    expected = layer(leaf).log_softmax(1)
    (slope,) = torch.autograd.grad(expected[range(4), labels].sum(), leaf)
    scores, gradient = Plain().gradient(layer, images, labels, draw(3, images), None)
    torch.testing.assert_close(scores, expected.detach())
    torch.testing.assert_close(gradient, slope)


def test_plug_in_approaches_the_smoothed_gradient_as_m_grows(soft):
    layer, images, labels = soft
    exact = []
    for image, label in zip(images, labels, strict=True):
        value, slope = smoothed(layer, image, int(label))
        exact.append(slope / value)  # of the logarithm
    exact = torch.tensor(np.stack(exact))
    errors = {}
    for m in (10, 1000, 100_000):
        estimate = PlugIn().gradient(layer, images, labels, draw(m, images), 10_000)[1]
        errors[m] = float((estimate - exact).norm() / exact.norm())
    assert errors[1000] < errors[10]
    assert errors[100_000] < 0.2 * errors[1000]  # 0.1 is expected: one over the square root of m
    assert errors[100_000] < 0.01


def test_plug_in_has_a_gradient_where_probabilities_underflow():
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 0.0], [600.0, 300.0]]))
    layer.bias.data.zero_()
    images, labels = torch.ones(1, 2), torch.tensor([0])
    scores, gradient = PlugIn().gradient(layer, images, labels, draw(4, images, sigma=0.01), 1)
    assert float(scores[0, 0]) < -500  # exp of it is zero in float32
    torch.testing.assert_close(gradient, torch.tensor([[-600.0, -300.0]]), rtol=1e-4, atol=0)


@pytest.mark.parametrize("baseline", [False, True])
def test_stein_is_unbiased_for_a_soft_classifier(soft, baseline):
    layer, images, labels = soft
    objective, draws, m = Stein(baseline=baseline), 400, 50
    estimates = torch.stack(
        [objective.gradient(layer, images, labels, draw(m, images, seed), None)[1] for seed in range(draws)]
    )
    exact = torch.tensor(
        np.stack([smoothed(layer, x, int(y))[1] for x, y in zip(images, labels, strict=True)])
    )
    z = (estimates.mean(0) / SIGMA**2 - exact) / (estimates.std(0) / SIGMA**2 / math.sqrt(draws))
    assert float(z.abs().max()) < 4.5  # 24 numbers, each standard normal: chance about 2e-4


def test_stein_is_unbiased_for_a_hard_classifier():
    problem = linear_problem(size=4, images=3)
    images = problem.images.double()
    network = problem.network.double()
    length = float(problem.weight.double().norm())
    quotient = problem.margins / (SIGMA * length)
    density = torch.exp(-(quotient**2) / 2) / math.sqrt(2 * math.pi)
    sign = 2.0 * problem.labels - 1
    slope = (sign * density / (SIGMA * length))[:, None] * problem.weight.double()
    estimates = torch.stack(
        [
            Stein(hard=True).gradient(network, images, problem.labels, draw(100, images, seed), None)[1]
            for seed in range(300)
        ]
    ).flatten(2)
    z = (estimates.mean(0) / SIGMA**2 - slope) / (estimates.std(0) / SIGMA**2 / math.sqrt(300))
    assert float(z.abs().max()) < 4.5


def test_steins_baseline_lowers_the_variance(soft):
    layer, images, labels = soft
    spread = {
        baseline: torch.stack(
            [
                Stein(baseline=baseline).gradient(layer, images, labels, draw(50, images, seed), None)[1]
                for seed in range(100)
            ]
        ).var(0)
        for baseline in (False, True)
    }
    assert float((spread[True] / spread[False]).mean()) < 0.7


def test_stein_needs_no_backward_pass(linear, randomness):
    def network(points):
        assert not torch.is_grad_enabled()
        assert not points.requires_grad
        return linear.network(points)

    attack = PGD(norm="l2", epsilon=0.3, steps=3, objective=Stein(), sigma=SIGMA, num_noise=200)
    attacked = attack(network, linear.images, linear.labels, randomness=randomness(16))
    before = linear.network(linear.images)[range(16), linear.labels]
    after = linear.network(attacked)[range(16), linear.labels]
    assert float((after - before).detach().mean()) < 0  # and the direction is right


def test_steins_votes_are_counted(soft):
    layer, images, labels = soft
    noises = draw(9, images)
    votes = torch.stack([nn.functional.one_hot(layer(images + n).argmax(1), 3) for n in noises])
    scores = Stein(hard=True).gradient(layer, images, labels, noises, 2)[0]
    torch.testing.assert_close(scores, votes.double().mean(0))


def test_steins_baseline_needs_two_copies(soft):
    layer, images, labels = soft
    with pytest.raises(ValueError, match="num_noise >= 2"):
        Stein(baseline=True).gradient(layer, images, labels, draw(1, images), None)
