import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from robustsmooth.attacks import FGSM, PGD, Expectation, Plain, PlugIn, distance
from robustsmooth.attacks.base import START_DRAW
from robustsmooth.smoothing.addressing import BatchRandomness, ImageRandomness
from tests.attacks.conftest import linear_problem


def lowest_margin(problem, epsilon, norm):
    """The label's worst-case logit difference in the ball (inside the box), in closed form."""
    dual = problem.weight.double().norm() if norm == "l2" else problem.weight.double().abs().sum()
    return problem.margins.abs() - epsilon * dual


def signed_margin(problem, points):
    sign = 2.0 * problem.labels - 1
    return problem.network(points).detach().double()[:, 1] * sign


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("steps", [1, 5])
def test_pgd_reaches_the_exact_worst_case(linear, randomness, norm, steps):
    epsilon = 0.1
    attack = PGD(norm=norm, epsilon=epsilon, steps=steps)
    points = attack(linear.network, linear.images, linear.labels, randomness=randomness(16))
    torch.testing.assert_close(
        signed_margin(linear, points), lowest_margin(linear, epsilon, norm), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_fgsm_reaches_it_in_one_step(linear, randomness, norm):
    attack = FGSM(norm=norm, epsilon=0.1)
    points = attack(linear.network, linear.images, linear.labels, randomness=randomness(16))
    torch.testing.assert_close(
        signed_margin(linear, points), lowest_margin(linear, 0.1, norm), rtol=0, atol=1e-5
    )


def test_pgd_reaches_the_worst_case_in_a_corner_of_the_box(randomness):
    """At a corner of the box, the worst case in linf clips each pixel separately."""
    problem = linear_problem(seed=3)
    images = torch.rand_like(problem.images)
    labels = problem.network(images).argmax(1)
    attack = PGD(norm="linf", epsilon=0.4, steps=10)
    points = attack(problem.network, images, labels, randomness=randomness(16))
    sign = (1 - 2.0 * labels)[:, None, None, None]
    best = (images + 0.4 * sign * problem.weight.reshape(1, 1, 5, 4).sign()).clamp(0, 1)
    torch.testing.assert_close(points, best, rtol=0, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(["l2", "linf"]), st.floats(0.01, 0.4), st.floats(1.0, 3.0))
def test_a_larger_budget_never_raises_the_accuracy(seed, norm, epsilon, factor):
    problem = linear_problem(images=20, seed=seed)
    randomness = ImageRandomness(0, "attack", torch.arange(20))
    correct = []
    for budget in (epsilon, factor * epsilon):
        attack = PGD(norm=norm, epsilon=budget, steps=3)
        points = attack(problem.network, problem.images, problem.labels, randomness=randomness)
        correct.append(int((problem.network(points).argmax(1) == problem.labels).sum()))
    assert correct[1] <= correct[0]


def test_targeted_reaches_the_target(randomness):
    network = nn.Sequential(nn.Flatten(), nn.Linear(20, 5))
    images = linear_problem().images
    targets = (network(images).argmax(1) + 1 + torch.arange(16) % 4) % 5
    attack = PGD(norm="l2", epsilon=3.0, steps=40, targeted=True)
    points = attack(network, images, targets, randomness=randomness(16))
    assert float((network(points).argmax(1) == targets).float().mean()) > 0.9
    assert float((network(images).argmax(1) == targets).float().mean()) == 0.0


def test_epgd_with_one_sample_is_pgd_on_the_noisy_model(linear, randomness):
    noise = 0.2 * randomness(16, seed=5).normal(linear.images)
    epgd = PGD(norm="linf", epsilon=0.1, steps=4, step_size=0.04, random_start=True, objective=Expectation())
    pgd = dataclasses.replace(epgd, objective=Plain())
    network = nonlinear()
    one = epgd(network, linear.images, linear.labels, randomness=randomness(16), noises=noise)
    other = pgd(lambda x: network(x + noise[0]), linear.images, linear.labels, randomness=randomness(16))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    without = pgd(network, linear.images, linear.labels, randomness=randomness(16))
    assert not torch.allclose(one, without, atol=1e-3)


def test_smoothadv_without_noise_is_pgd(linear, randomness):
    network = nonlinear()
    pgd = PGD(norm="l2", epsilon=0.5, steps=6)
    smoothadv = dataclasses.replace(pgd, objective=PlugIn(), sigma=0.0, num_noise=5, copies_per_pass=2)
    torch.testing.assert_close(
        smoothadv(network, linear.images, linear.labels, randomness=randomness(16)),
        pgd(network, linear.images, linear.labels, randomness=randomness(16)),
        rtol=0,
        atol=1e-4,
    )


def test_the_callers_noises_are_used_at_every_step(linear, randomness):
    """SmoothAdv, Pseudocode 1: the noises of the attack are those of the training step."""
    noises = 0.2 * randomness(16, seed=9).normal(linear.images, copies=3)
    seen = []

    def network(points):
        seen.append(points.detach().clone())
        return linear.network(points)

    attack = PGD(norm="l2", epsilon=0.5, steps=4, objective=PlugIn(), fixed_noise=False)
    attack(network, linear.images, linear.labels, randomness=randomness(16), noises=noises)
    assert len(seen) == 4
    for points in seen:
        copies = points.unflatten(0, (3, 16))
        centre = (copies - noises).mean(0)
        torch.testing.assert_close(copies - centre, noises, rtol=0, atol=1e-6)


@pytest.mark.parametrize("fixed", [True, False])
def test_the_attacks_own_noises_are_fixed_or_new_in_every_step(linear, randomness, fixed):
    seen = []

    def network(points):
        copies = points.detach().unflatten(0, (6, 16))
        seen.append(copies - copies.mean(0))
        return linear.network(points)

    attack = PGD(
        norm="l2", epsilon=0.5, steps=3, objective=PlugIn(), sigma=0.25, num_noise=6, fixed_noise=fixed
    )
    attack(network, linear.images, linear.labels, randomness=randomness(16))
    assert torch.allclose(seen[0], seen[1], atol=1e-5) is fixed
    assert torch.allclose(seen[1], seen[2], atol=1e-5) is fixed
    assert float(torch.stack(seen).std()) == pytest.approx(0.25 * (5 / 6) ** 0.5, rel=0.03)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_random_starts_fill_the_ball(norm):
    images = torch.full((4000, 1, 2, 2), 0.5)
    attack = PGD(norm=norm, epsilon=0.2, steps=1, step_size=1e-9, random_start=True)
    randomness = BatchRandomness(0, "start")
    labels = torch.zeros(4000, dtype=torch.long)
    points = attack(
        lambda x: torch.stack([x.sum((1, 2, 3)), -x.sum((1, 2, 3))], 1), images, labels, randomness=randomness
    )
    # Uniform in four dimensions: (distance / epsilon)^4 is uniform in [0, 1].
    share = (distance(points - images, norm) / 0.2) ** 4
    assert float(share.max()) <= 1.0
    assert float(share.mean()) == pytest.approx(0.5, abs=4.5 * 0.289 / 4000**0.5)
    assert float(share.var()) == pytest.approx(1 / 12, rel=0.1)
    assert float((points - images).mean()) == pytest.approx(0.0, abs=0.005)


def test_restarts_start_elsewhere_and_keep_the_best(randomness):
    """The gradient is zero on a plateau: only a start outside of it makes progress."""

    def network(points):
        x = points.flatten(1)[:, 0]
        logit = 5 - 100 * nn.functional.relu(x - 0.55)  # flat at the image, x = 0.5
        return torch.stack([logit, torch.zeros_like(logit)], 1)

    images, labels = torch.full((8, 1, 1, 1), 0.5), torch.zeros(8, dtype=torch.long)
    success = {}
    for restarts in (1, 20):
        attack = PGD(norm="linf", epsilon=0.2, steps=5, restarts=restarts)
        points = attack(network, images, labels, randomness=randomness(8))
        success[restarts] = int((network(points).argmax(1) == 1).sum())
    assert success == {1: 0, 20: 8}


def test_no_two_restarts_use_the_same_draw():
    draws = [START_DRAW - 2 * restart - part for restart in range(50) for part in (0, 1)]
    assert len(set(draws)) == 100
    assert max(draws) < -2


def test_closest_keeps_the_first_success_on_the_way(linear, randomness):
    last = PGD(norm="l2", epsilon=2.0, steps=40)
    closest = dataclasses.replace(last, keep="closest")
    far = last(linear.network, linear.images, linear.labels, randomness=randomness(16))
    near = closest(linear.network, linear.images, linear.labels, randomness=randomness(16))
    lengths = distance(near - linear.images, "l2")
    assert bool((linear.network(near).argmax(1) != linear.labels).all())
    assert bool((lengths <= distance(far - linear.images, "l2") + 1e-6).all())
    assert bool((lengths >= linear.distances - 1e-6).all())
    assert bool((lengths <= linear.distances + 0.1 + 1e-5).all())  # a step is 0.1 long


def test_strongest_is_at_least_as_strong_as_the_last(randomness):
    problem = linear_problem(seed=2)
    network = nonlinear()
    labels = network(problem.images).argmax(1)
    last = PGD(norm="l2", epsilon=0.5, steps=5, step_size=0.45)  # the step is too long and overshoots
    strongest = dataclasses.replace(last, keep="strongest")
    losses = [
        nn.functional.cross_entropy(
            network(attack(network, problem.images, labels, randomness=randomness(16))),
            labels,
            reduction="none",
        )
        for attack in (last, strongest)
    ]
    assert bool((losses[1] >= losses[0] - 1e-6).all())
    assert bool((losses[1] > losses[0]).any())


def test_targeted_and_untargeted_directions(linear, randomness):
    def move(**changes):
        attack = PGD(epsilon=10.0, steps=1, step_size=0.01, **changes)
        return attack(linear.network, linear.images, linear.labels, randomness=randomness(16)) - linear.images

    torch.testing.assert_close(move(norm="l2"), move(norm="linf", direction="normalized"))
    torch.testing.assert_close(move(norm="linf"), move(norm="l2", direction="sign"))
    assert distance(move(norm="l2"), "l2").max() == pytest.approx(0.01, rel=1e-4)
    assert distance(move(norm="linf"), "linf").max() == pytest.approx(0.01, rel=1e-4)


def test_another_budget_keeps_the_step_in_proportion():
    given = PGD(norm="l2", epsilon=1.0, step_size=0.25).with_epsilon(0.5)
    assert (given.epsilon, given.step_size) == (0.5, 0.125)
    assert PGD(norm="l2", epsilon=1.0).with_epsilon(0.5).step_size is None
    assert FGSM(norm="l2", epsilon=1.0).with_epsilon(0.5).step_size == 0.5
    for one, other in ((0.5, math.inf), (math.inf, 0.5), (math.inf, math.inf)):
        assert PGD(norm="l2", epsilon=one, step_size=0.1).with_epsilon(other).step_size == 0.1


def nonlinear() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(nn.Flatten(), nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 2))


def test_pgd_without_a_budget_needs_a_step_size():
    with pytest.raises(ValueError, match="with an infinite `epsilon` PGD needs a `step_size`"):
        PGD(norm="l2", epsilon=float("inf"))
    with pytest.raises(ValueError, match="with an infinite `epsilon`"):
        FGSM(norm="l2", epsilon=float("inf"))
