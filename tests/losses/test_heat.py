"""HeatSmoothing's loss against closed forms: linear and quadratic models, and a NumPy twin."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd.function import once_differentiable

from robustsmooth.losses import HeatLoss, directions, fidelity, gaussian_probes, jacobian_penalty
from robustsmooth.smoothing.addressing import BatchRandomness

CLASSES, PIXELS, BATCH = 5, 12, 4


@pytest.fixture
def images():
    return torch.rand(BATCH, 3, 2, 2, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, CLASSES)).double()


class Quadratic(nn.Module):
    """v_k(x) = x^T A_k x / 2 + b_k . x, whose Jacobian's row k is A_k x + b_k."""

    def __init__(self):
        super().__init__()
        a = torch.randn(CLASSES, PIXELS, PIXELS, dtype=torch.float64)
        self.a = nn.Parameter((a + a.mT) / 2)
        self.b = nn.Parameter(torch.randn(CLASSES, PIXELS, dtype=torch.float64))

    def forward(self, images):
        x = images.flatten(1)
        return 0.5 * torch.einsum("bi,kij,bj->bk", x, self.a, x) + x @ self.b.T


def orthonormal():
    frame, _ = torch.linalg.qr(torch.randn(BATCH, CLASSES, CLASSES, dtype=torch.float64))
    return frame.transpose(0, 1).contiguous()


def penalty_of(network, images, probes, step):
    images = images.clone().requires_grad_()
    return jacobian_penalty(network, images, network(images), probes, step)


def normal(like, copies):
    return BatchRandomness(0, "test").normal(like, copies)


# --- the penalty ------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0.01, 0.1, 10.0])
def test_linear_model_with_orthonormal_probes_gives_the_frobenius_norm_exactly(images, step):
    network = linear()
    expected = network[1].weight.square().sum()
    torch.testing.assert_close(penalty_of(network, images, orthonormal(), step), expected.expand(BATCH))


def test_quadratic_model_with_orthonormal_probes(images):
    network = Quadratic()
    jacobian = torch.einsum("kij,bj->bki", network.a, images.flatten(1)) + network.b
    # A vanishing step gives the norm of the Jacobian ...
    near = penalty_of(network, images, orthonormal(), 1e-7)
    torch.testing.assert_close(near, jacobian.square().sum(dim=(1, 2)), rtol=1e-5, atol=0)
    # ... and a finite one adds delta/2 times the curvature along the direction, exactly.
    probes, step = orthonormal(), 0.1
    gradient = torch.einsum("pbk,bki->pbi", probes, jacobian)
    unit = gradient / gradient.norm(dim=2, keepdim=True)
    curvature = torch.einsum("pbk,kij,pbi,pbj->pb", probes, network.a, unit, unit)
    expected = (gradient.norm(dim=2) + step / 2 * curvature).square().sum(dim=0)
    torch.testing.assert_close(penalty_of(network, images, probes, step), expected)


def test_gaussian_probes_estimate_kappa_over_k_of_the_norm(images):
    network, copies = linear(), 20_000
    probes = gaussian_probes(torch.randn(copies, 1, CLASSES, dtype=torch.float64))
    gram = network[1].weight @ network[1].weight.T
    mean, std = gram.trace() / CLASSES, (2 * gram.square().sum()).sqrt() / CLASSES
    estimate = penalty_of(network, images[:1], probes, 0.1) / copies
    assert abs(estimate - mean) < 4 * std / copies**0.5


def test_unbiased_scaling_and_sum_as_published(images):
    network, sigma, count = linear(), 0.3, 7
    target = network(images).detach()
    norm = network[1].weight.square().sum()
    for scaling, factor in (("sum", count / CLASSES), ("unbiased", 1.0)):
        loss = HeatLoss(num_probes=count, probe_scaling=scaling, penalty_weight=2.0)
        values = [
            loss(network, images, target, sigma=sigma, time_step=0.5, probes=draw)["penalty"].detach()
            for draw in (lambda like, n, s=s: BatchRandomness(s, "t").normal(like, n) for s in range(300))
        ]
        expected = 2.0 * 0.5 * sigma**2 / 2 * factor * norm
        error = torch.stack(values).std() / len(values) ** 0.5
        assert abs(torch.stack(values).mean() - expected) < 4 * error
        assert error < 0.05 * expected


def test_probes_in_one_pass_equal_one_pass_per_probe(images):
    network = nn.Sequential(
        nn.Conv2d(3, 6, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6, CLASSES)
    ).double()
    network(images)
    network.eval()
    probes = gaussian_probes(torch.randn(6, BATCH, CLASSES, dtype=torch.float64))
    together = penalty_of(network, images, probes, 0.1)
    apart = sum(penalty_of(network, images, probes[j : j + 1], 0.1) for j in range(6))
    torch.testing.assert_close(together, apart, rtol=1e-12, atol=0)


def test_the_penalty_is_computed_in_pixel_space(images):
    """Dividing the images by std inside the network multiplies the squared norm by 1 / std^2."""

    class Normalize(nn.Module):
        def forward(self, x):
            return (x - 0.5) / 0.2

    network = linear()
    outside = penalty_of(network, images, orthonormal(), 0.1)
    inside = penalty_of(nn.Sequential(Normalize(), network), images, orthonormal(), 0.1)
    torch.testing.assert_close(inside, 25 * outside)


# --- the direction ----------------------------------------------------------------------------


class OnceDifferentiable(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return 3 * ctx.saved_tensors[0] ** 2 * grad


def test_direction_needs_no_second_derivative(images):
    body = linear()
    network = nn.Sequential()
    network.forward = lambda x: OnceDifferentiable.apply(body(x))
    penalty_of(network, images, orthonormal(), 0.1).sum().backward()
    assert body[1].weight.grad.isfinite().all()
    assert body[1].weight.grad.abs().sum() > 0


def test_direction_is_a_constant_of_the_gradient(images):
    """The parameters' gradient equals finite differences of the penalty with the directions held."""
    network, step = Quadratic(), 0.1
    probes = orthonormal()
    leaf = images.clone().requires_grad_()
    held = directions(leaf, network(leaf), probes)
    assert not held.requires_grad

    def with_held_directions():
        moved = network((images + step * held).flatten(0, 1)).unflatten(0, (CLASSES, BATCH))
        return (((moved - network(images)) * probes).sum(2) / step).square().sum()

    penalty_of(network, images, probes, step).sum().backward()
    for parameter in (network.a, network.b):
        flat, grad = parameter.data.view(-1), parameter.grad.view(-1)
        for index in (0, 7, flat.numel() - 1):
            value = flat[index].item()
            ends = []
            for sign in (1, -1):
                flat[index] = value + sign * 1e-6
                ends.append(with_held_directions().item())
            flat[index] = value
            assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(grad[index].item(), rel=1e-5)


def test_directions_have_unit_length(images):
    network = Quadratic()
    leaf = images.clone().requires_grad_()
    found = directions(leaf, network(leaf), orthonormal())
    assert found.shape == (CLASSES, *images.shape)
    torch.testing.assert_close(found.flatten(2).norm(dim=2), torch.ones(CLASSES, BATCH, dtype=torch.float64))


def test_zero_gradient_gives_no_nan(images):
    network = linear()
    nn.init.zeros_(network[1].weight)
    leaf = images.clone().requires_grad_()
    assert (directions(leaf, network(leaf), orthonormal()) == 0).all()
    terms = HeatLoss(num_probes=3)(network, images, network(images) + 1, sigma=0.5, probes=normal)
    terms["loss"].backward()
    assert terms["penalty"] == 0
    assert network[1].weight.grad.isfinite().all()


# --- the whole loss ---------------------------------------------------------------------------


def test_sigma_zero_is_the_pure_fidelity(images):
    network, calls = linear(), []
    network.register_forward_hook(lambda *_: calls.append(1))
    target = torch.randn(BATCH, CLASSES, dtype=torch.float64)
    terms = HeatLoss()(network, images, target, sigma=0.0, probes=normal)
    assert len(calls) == 1
    expected = 0.5 * (network(images).softmax(1) - target.softmax(1)).square().sum(1).mean()
    torch.testing.assert_close(terms["loss"], expected)
    assert terms["penalty"] == 0


def test_fidelities_against_numpy():
    student, teacher = np.random.default_rng(0).normal(size=(2, BATCH, CLASSES))
    p, q = (np.exp(v) / np.exp(v).sum(1, keepdims=True) for v in (student, teacher))
    expected = {
        "logits": ((student - teacher) ** 2).sum(1) / 2,
        "softmax": ((p - q) ** 2).sum(1) / 2,
        "kl": (q * np.log(q / p)).sum(1),
    }
    for kind, value in expected.items():
        ours = fidelity(torch.from_numpy(student), torch.from_numpy(teacher), kind)
        np.testing.assert_allclose(ours.numpy(), value, rtol=1e-12)
        same = fidelity(torch.from_numpy(student), torch.from_numpy(student), kind)
        np.testing.assert_allclose(same.numpy(), 0, atol=1e-15)


def test_against_a_slow_twin_in_numpy():
    """Algorithm 1, image by image and probe by probe, on v(x) = A tanh(B x + c)."""
    rng = np.random.default_rng(1)
    a, b, c = rng.normal(size=(CLASSES, 7)), rng.normal(size=(7, PIXELS)), rng.normal(size=7)
    x, f = rng.uniform(size=(BATCH, PIXELS)), rng.normal(size=(BATCH, CLASSES))
    probes, sigma, step, h = rng.normal(size=(6, BATCH, CLASSES)), 0.25, 0.1, 0.2

    def v(point):
        return a @ np.tanh(b @ point + c)

    total = 0.0
    for i in range(BATCH):
        distance = 0.5 * np.sum((v(x[i]) - f[i]) ** 2)
        total += distance
        jacobian = a @ np.diag(1 - np.tanh(b @ x[i] + c) ** 2) @ b
        for j in range(6):
            w = probes[j, i] / np.sqrt(CLASSES)
            g = w @ jacobian
            g = g / np.linalg.norm(g)
            total += h * sigma**2 / (2 * step**2) * (w @ v(x[i] + step * g) - w @ v(x[i])) ** 2
    first, second = nn.Linear(PIXELS, 7).double(), nn.Linear(7, CLASSES, bias=False).double()
    with torch.no_grad():
        first.weight.copy_(torch.from_numpy(b))
        first.bias.copy_(torch.from_numpy(c))
        second.weight.copy_(torch.from_numpy(a))
    network = nn.Sequential(nn.Flatten(), first, nn.Tanh(), second)
    ours = HeatLoss(fidelity="logits", num_probes=6, difference_step=step)(
        network,
        torch.from_numpy(x).view(BATCH, 3, 2, 2),
        torch.from_numpy(f),
        sigma=sigma,
        time_step=h,
        probes=lambda like, copies: torch.from_numpy(probes),
    )
    assert ours["loss"].item() == pytest.approx(total / BATCH, rel=1e-12)
    torch.testing.assert_close(ours["loss"], ours["fidelity"] + ours["penalty"])


def test_inputs_and_teacher_are_not_changed(images):
    """The images, their gradients and the teacher stay as they are, also inside no_grad."""
    network = linear()
    target = network(images)
    before = images.clone()
    with torch.no_grad():
        terms = HeatLoss(num_probes=2)(network, images, target, sigma=0.1, probes=normal)
    terms["loss"].backward()
    assert torch.equal(images, before)
    assert images.grad is None
    assert not images.requires_grad


@pytest.mark.parametrize(("statistics", "batches"), [("clean", 1), ("all", 2), ("frozen", 0)])
def test_running_statistics(images, statistics, batches):
    norm = nn.BatchNorm2d(3).double()
    network = nn.Sequential(norm, linear())
    seen, before = [], norm.running_mean.clone()
    norm.register_forward_hook(lambda module, args, out: seen.append((args[0].detach(), out.detach())))
    target = torch.zeros(BATCH, CLASSES, dtype=torch.float64)
    HeatLoss(num_probes=3, statistics=statistics)(network, images, target, sigma=0.25, probes=normal)
    assert norm.num_batches_tracked == batches
    expected = before
    for batch, _ in seen[:batches]:
        expected = 0.9 * expected + 0.1 * batch.mean(dim=(0, 2, 3))
    torch.testing.assert_close(norm.running_mean, expected)
    assert norm.training
    assert norm.track_running_stats
    # Every pass of a train-mode BatchNorm normalises by its own batch.
    for _, out in seen:
        assert (out.mean(dim=(0, 2, 3)).abs().max() < 1e-9) == (statistics != "frozen")


def test_autocast_does_not_round_the_difference(images):
    network, images = linear().float(), images.float()
    target = network(images).detach().bfloat16()  # the teacher's pass is under autocast
    loss, gradients = HeatLoss(num_probes=2, difference_step=0.01), []
    for enabled in (False, True):
        network.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            terms = loss(network, images, target, sigma=0.1, probes=normal)
        assert terms["loss"].dtype == torch.float32
        terms["loss"].backward()
        gradients.append(network[1].weight.grad.clone())
    assert torch.equal(*gradients)


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("fidelity", "mse", "`fidelity` must be one of softmax, logits, kl, got 'mse'"),
        ("probe_scaling", "mean", "`probe_scaling` must be one of sum, unbiased, got 'mean'"),
        ("statistics", "train", "`statistics` must be one of clean, all, frozen, got 'train'"),
        ("num_probes", 0, "`num_probes` must be at least 1, got 0"),
        ("difference_step", 0.0, "`difference_step` must be positive, got 0.0"),
        ("penalty_weight", -1.0, "`penalty_weight` must not be negative, got -1.0"),
    ],
)
def test_bad_options_are_one_sentence(argument, value, message):
    with pytest.raises(ValueError, match=message):
        HeatLoss(**{argument: value})


def test_every_option_changes_the_loss(images):
    network, target = linear(), torch.randn(BATCH, CLASSES, dtype=torch.float64)
    network = nn.Sequential(nn.BatchNorm2d(3).double(), network, nn.Tanh())
    network(images)
    variants = [
        {},
        {"fidelity": "logits"},
        {"fidelity": "kl"},
        {"num_probes": 4},
        {"difference_step": 0.5},
        {"penalty_weight": 5.0},
        {"probe_scaling": "unbiased"},
        {"statistics": "frozen"},
    ]
    values = []
    for options in variants:
        terms = HeatLoss(**options)(network, images, target, sigma=1.0, probes=normal)
        values.append(terms["loss"].item())
    assert all(abs(x - y) > 1e-9 for x, y in itertools.combinations(values, 2))
