import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from robustsmooth.attacks import DDN, PlugIn, distance
from robustsmooth.smoothing.addressing import BatchRandomness
from tests.attacks.conftest import linear_problem


def closest_in_the_box(problem, images, labels):
    """The smallest move to the decision boundary inside the box: clip(x - t s w), t by bisection."""
    sign = (2.0 * labels - 1).double()
    weight = problem.weight.double()
    flat = images.flatten(1).double()

    def moved(t):
        return (flat - (t * sign)[:, None] * weight).clamp(0, 1)

    layer = problem.network[1]
    low, high = torch.zeros(len(images)).double(), torch.full((len(images),), 100.0).double()
    for _ in range(100):
        middle = (low + high) / 2
        margin = sign * (moved(middle) @ weight + float(layer.bias.detach()[1]))
        low, high = torch.where(margin > 0, middle, low), torch.where(margin > 0, high, middle)
    return (moved(high) - flat).norm(dim=1)


@pytest.mark.parametrize(("size", "images"), [(4, 1), (20, 16), (200, 3)])
def test_ddn_finds_the_closest_point_within_one_percent(randomness, size, images):
    problem = linear_problem(size, images)
    attack = DDN(steps=300, levels=None)
    points = attack(problem.network, problem.images, problem.labels, randomness=randomness(images))
    lengths = distance(points - problem.images, "l2")
    assert bool((problem.network(points).argmax(1) != problem.labels).all())
    assert bool((lengths >= problem.distances - 1e-6).all())
    assert bool((lengths <= problem.distances * 1.01).all())


def test_ddn_finds_the_closest_point_of_the_box(randomness):
    problem = linear_problem(seed=7)
    images = torch.rand_like(problem.images).round(decimals=1)  # many pixels at 0 and at 1
    labels = problem.network(images).argmax(1)
    points = DDN(steps=1000, levels=None)(problem.network, images, labels, randomness=randomness(16))
    best = closest_in_the_box(problem, images, labels)
    lengths = distance(points - images, "l2")
    assert bool((lengths >= best - 1e-6).all())
    assert bool((lengths <= best * 1.01).all())
    touching = ((points == 0) | (points == 1)) & (points != images)
    assert bool(touching.any())  # otherwise the box is not tested


def test_quantised_points_lie_on_the_grid_and_in_the_ball(randomness):
    source = torch.Generator().manual_seed(0)
    problem = linear_problem(seed=1)
    images = torch.randint(0, 256, (16, 1, 4, 5), generator=source) / 255
    labels = problem.network(images).argmax(1)
    for epsilon in (0.005, 0.05, 0.5, None):
        points = DDN(epsilon=epsilon, steps=30, levels=256)(
            problem.network, images, labels, randomness=randomness(16)
        )
        levels = points.double() * 255
        assert float((levels - levels.round()).abs().max()) < 1e-4
        if epsilon is not None:
            assert bool((distance(points.double() - images.double(), "l2") <= epsilon).all())


def test_rounding_would_break_the_budget_without_care():
    """Three pixels moved by 0.6 levels round to 1 level each, which is too far."""
    images, labels = torch.full((1, 3), 128 / 255), torch.tensor([0])
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]]))
        layer.bias.zero_()
    epsilon = 0.6 * 3**0.5 / 255
    points = DDN(epsilon=epsilon, steps=5, levels=256)(
        layer, images, labels, randomness=BatchRandomness(0, "attack")
    )
    assert float(distance(points - images, "l2")) <= epsilon


def test_the_number_of_levels_matters(linear, randomness):
    points = [
        DDN(steps=20, levels=levels)(linear.network, linear.images, linear.labels, randomness=randomness(16))
        for levels in (None, 256, 4)
    ]
    assert not torch.equal(points[0], points[1])
    moved = (points[2] - linear.images) * 3
    inside = (points[2] > 0) & (points[2] < 1)
    torch.testing.assert_close(moved[inside], moved[inside].round(), rtol=0, atol=1e-5)


def test_an_image_that_is_already_misclassified_is_not_changed(linear, randomness):
    points = DDN()(linear.network, linear.images, 1 - linear.labels, randomness=randomness(16))
    assert torch.equal(points, linear.images)


def test_a_failure_is_the_strongest_point_or_the_clean_image(linear, randomness):
    epsilon = 0.5 * float(linear.distances.min())  # no attack can succeed
    points = {
        choice: DDN(epsilon=epsilon, on_failure=choice, levels=None)(
            linear.network, linear.images, linear.labels, randomness=randomness(16)
        )
        for choice in ("strongest", "clean")
    }
    assert torch.equal(points["clean"], linear.images)
    lengths = distance(points["strongest"] - linear.images, "l2")
    torch.testing.assert_close(lengths, torch.full_like(lengths, epsilon), rtol=1e-3, atol=0)


def test_top_k_removes_the_label_from_the_first_k(randomness):
    network = nn.Sequential(nn.Flatten(), nn.Linear(20, 10))
    images = linear_problem().images
    labels = network(images).argmax(1)
    lengths = []
    for topk in (1, 3):
        points = DDN(steps=100, topk=topk)(network, images, labels, randomness=randomness(16))
        best = network(points).topk(topk, dim=1).indices
        assert not bool((best == labels[:, None]).any())
        lengths.append(distance(points - images, "l2"))
    assert bool((lengths[1] > lengths[0]).all())


def test_the_smoothed_classifiers_closest_point(linear, randomness):
    """Gaussian smoothing leaves a linear decision boundary where it is."""
    attack = DDN(steps=300, levels=None, objective=PlugIn(), sigma=0.1, num_noise=4000, copies_per_pass=None)
    few = slice(0, 4)
    points = attack(linear.network, linear.images[few], linear.labels[few], randomness=randomness(4))
    lengths = distance(points - linear.images[few], "l2")
    torch.testing.assert_close(lengths, linear.distances[few], rtol=0.05, atol=0.005)


def test_budgets_of_smoothadv_ddn_differ():
    """With a first norm of 1 and 5 % a step, two steps never reach a budget above 1.1."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(400, 10))
    images = torch.rand(8, 1, 20, 20)
    labels = network(images).argmax(1)
    published = DDN(epsilon=1.0, steps=2, init_norm=None, on_failure="clean", levels=256)
    found = [
        published.with_epsilon(epsilon)(network, images, labels, randomness=BatchRandomness(0, "attack"))
        for epsilon in (0.25, 0.5, 1.0, 2.0, 4.0)
    ]
    for first, second in itertools.combinations(found, 2):
        assert not torch.equal(first, second)
    fixed = replace(published, init_norm=1.0)
    small, large = (
        fixed.with_epsilon(epsilon)(network, images, labels, randomness=BatchRandomness(0, "attack"))
        for epsilon in (2.0, 4.0)
    )
    assert torch.equal(small, large)  # the effect of the option


def test_the_norm_starts_and_changes_as_set(linear, randomness):
    lengths = []

    def network(points):
        lengths.append(distance(points.detach() - linear.images, "l2"))
        return linear.network(points)

    attack = DDN(steps=4, init_norm=0.01, norm_decay=0.5, levels=None)
    attack(network, linear.images, linear.labels, randomness=randomness(16))
    path = torch.stack(lengths)
    fails = linear.distances > 0.1  # never a success on this path
    assert bool(fails.any())
    for step, norm in enumerate([0.0, 0.015, 0.0225, 0.03375, 0.050625]):
        torch.testing.assert_close(
            path[step, fails], torch.full_like(path[step, fails], norm), rtol=1e-3, atol=1e-6
        )
