"""Attacks on the noise: the norm or moments are kept, the loss increases, nothing else changes."""

import pytest
import torch
from torch import nn

from robustsmooth.attacks import Expectation, NoisePGD, Plain, PlugIn, Stein
from robustsmooth.attacks.geometry import distance
from robustsmooth.evaluation import AttackEvaluation, SinglePass
from robustsmooth.instantiation import instantiate
from robustsmooth.methods import AdversarialModule
from robustsmooth.smoothing.addressing import BatchRandomness
from tests.methods.small import SGD, Network

RANDOMNESS = BatchRandomness(0, "attack")
CAT_RS = NoisePGD(steps=4, epsilon=1.0, restore="moments")
SUN = NoisePGD(steps=3, step_size=0.25, keep="first_success")


@pytest.fixture
def network():
    torch.manual_seed(1)
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5)]
    return nn.Sequential(*layers, nn.Linear(288, 4)).train()


@pytest.fixture
def batch():
    source = torch.Generator().manual_seed(2)
    return torch.rand(5, 1, 6, 6, generator=source), 0.3 * torch.randn(3, 5, 1, 6, 6, generator=source)


def cross_entropy(network, images, targets, noises):
    """The loss of every noisy image, in eval mode, ``(m, B)``."""
    logits = network.eval()((images + noises).flatten(0, 1)).log_softmax(1).unflatten(0, noises.shape[:2])
    return -(targets * logits).sum(2)


@pytest.mark.parametrize("attack", [CAT_RS, SUN], ids=["cat_rs", "sun2025"])
def test_it_raises_the_loss_and_changes_nothing_else(attack, network, batch):
    images, noises = batch
    labels = network.eval()(images).argmax(1)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    copies = images.clone(), noises.clone()
    network.train()
    state = torch.get_rng_state()
    moved = attack(network, images, labels, noises=noises, randomness=RANDOMNESS)
    assert torch.equal(state, torch.get_rng_state())
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(images, copies[0])
    assert torch.equal(noises, copies[1])
    assert moved.shape == noises.shape
    assert not moved.requires_grad
    hot = nn.functional.one_hot(labels, 4).float()
    assert (
        cross_entropy(network, images, hot, moved).mean() > cross_entropy(network, images, hot, noises).mean()
    )


def test_moments_of_every_noise_are_restored(network, batch):
    images, noises = batch
    targets = torch.softmax(torch.randn(5, 4), 1)
    moved = CAT_RS(network, images, targets, noises=noises, randomness=RANDOMNESS)
    for power in (1, 2):
        torch.testing.assert_close(
            moved.flatten(2).pow(power).mean(2), noises.flatten(2).pow(power).mean(2), atol=1e-6, rtol=1e-5
        )
    assert not torch.allclose(moved, noises, atol=0.01)


def test_a_step_is_projected_before_the_norm_is_restored(batch):
    _, noises = batch
    attack = NoisePGD(steps=5, step_size=0.4, epsilon=0.3, restore="norm")
    far = (noises + torch.randn_like(noises)).flatten(0, 1)
    start = noises.flatten(0, 1)
    away = (far - start) * 0.3 / (far - start).flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    expected = start + away
    expected *= (start.flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    torch.testing.assert_close(attack._held(far, start), expected)


def test_the_path_of_cat_rs_is_that_of_a_slow_twin(network, batch):
    """Noise by noise: step, projection, and the moments restored, four times."""
    images, noises = batch
    targets = torch.softmax(torch.randn(5, 4, generator=torch.Generator().manual_seed(4)), 1)
    moved = CAT_RS(network, images, targets, noises=noises, randomness=RANDOMNESS)
    network.eval()
    for copy in range(3):
        for image in range(5):
            start = noises[copy, image]
            noise = start
            for _ in range(4):
                leaf = noise.clone().requires_grad_(True)
                output = network((images[image] + leaf)[None]).log_softmax(1)[0]
                divergence = (targets[image] * (targets[image].log() - output)).sum()
                (gradient,) = torch.autograd.grad(divergence, leaf)
                noise = noise + 2 * 1.0 / 4 * gradient / gradient.norm()
                away = noise - start
                noise = start + away / max(1.0, away.norm().item() / 1.0)
                noise = (noise - noise.mean()) / noise.std() * start.std() + start.mean()
            torch.testing.assert_close(moved[copy, image], noise, atol=1e-5, rtol=1e-4)


def test_norms_are_kept_and_the_first_success_stays(network, batch):
    images, noises = batch
    labels = network.eval()(images).argmax(1)
    right = network((images + noises).flatten(0, 1)).argmax(1).view(3, 5) == labels
    assert not right.all()  # otherwise this shows nothing
    moved = SUN(network, images, labels, noises=noises, randomness=RANDOMNESS)
    torch.testing.assert_close(
        distance(moved.flatten(0, 1), "l2"), distance(noises.flatten(0, 1), "l2"), rtol=1e-5, atol=0
    )
    for copy in range(3):
        for image in range(5):
            stayed = torch.equal(moved[copy, image], noises[copy, image])
            assert stayed == (not bool(right[copy, image]))


def test_the_path_equals_that_of_a_slow_reference(network, batch):
    """One noise and one step at a time, as the paper of Sun et al. describes it."""
    images, noises = batch
    labels = network.eval()(images).argmax(1)
    moved = SUN(network, images, labels, noises=noises, randomness=RANDOMNESS)
    for copy in range(3):
        for image in range(5):
            noise = noises[copy, image : image + 1]
            for _ in range(SUN.steps):
                leaf = noise.clone().requires_grad_(True)
                logits = network(images[image : image + 1] + leaf)
                if logits.argmax() != labels[image]:
                    break
                loss = nn.functional.cross_entropy(logits, labels[image : image + 1])
                (gradient,) = torch.autograd.grad(loss, leaf)
                noise = noise + SUN.step_size * gradient / gradient.norm()
                noise = noise * noises[copy, image].norm() / noise.norm()
            torch.testing.assert_close(moved[copy, image], noise[0], atol=1e-5, rtol=1e-4)


def test_soft_targets_increase_the_divergence(batch):
    """For a linear network the gradient is known: the sum over k of (p_k - target_k) w_k."""
    images, noises = batch
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    targets = torch.tensor([[0.7, 0.1, 0.1, 0.1]]).expand(5, 4)
    one = NoisePGD(steps=1, step_size=0.1, restore="moments", epsilon=5.0)
    moved, _ = one._climb(network, images, targets, noises)
    p = network((images + noises).flatten(0, 1)).softmax(1)
    expected = (p - targets.repeat(3, 1)) @ network[1].weight / 3  # the mean over three noises
    torch.testing.assert_close(moved.flatten(1), expected.detach(), atol=1e-6, rtol=1e-4)


def test_plug_in_averages_over_the_noises(network, batch):
    images, noises = batch
    labels = torch.zeros(5, dtype=torch.long)
    alone = SUN._climb(network.eval(), images, labels, noises)[0]
    pooled = NoisePGD(objective=PlugIn(), step_size=0.1)._climb(network, images, labels, noises)[0]
    assert not torch.allclose(alone, pooled, rtol=0.01)


def test_a_zero_gradient_does_not_change_the_noise(batch):
    images, noises = batch
    dead = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    dead[1].weight.data.zero_()
    moved = CAT_RS(dead, images, torch.zeros(5, dtype=torch.long), noises=noises, randomness=RANDOMNESS)
    torch.testing.assert_close(moved, noises, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "a `step_size` or an `epsilon`"),
        ({"epsilon": -1.0}, "`epsilon` must be > 0"),
        ({"step_size": 1.0, "steps": 0}, "`steps` must be > 0"),
        ({"step_size": 1.0, "keep": "best"}, "`keep` must be last or first_success"),
        ({"step_size": 1.0, "restore": "all"}, "`restore` must be moments or norm"),
        ({"step_size": 1.0, "objective": Plain()}, "expectation or plug_in"),
        ({"step_size": 1.0, "objective": Stein()}, "expectation or plug_in"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        NoisePGD(**options)


@pytest.mark.parametrize(("name", "expected"), [("noise_cat_rs", CAT_RS), ("noise_sun2025", SUN)])
def test_the_configs_are_those_of_the_papers(name, expected, compose):
    assert instantiate(compose("train", f"attack={name}").attack) == expected
    other = instantiate(compose("train", f"attack={name}", "attack/objective=plug_in").attack)
    assert isinstance(other.objective, PlugIn)
    assert isinstance(expected.objective, Expectation)


def test_the_attack_command_refuses_attacks_on_the_noise(tmp_path):
    with pytest.raises(ValueError, match="NoisePGD perturbs the noise in training and not the image"):
        AttackEvaluation(CAT_RS, SinglePass(), tmp_path)


def test_methods_that_attack_images_refuse_attacks_on_the_noise():
    with pytest.raises(ValueError, match="moves the noise, and this method needs one that moves the images"):
        AdversarialModule(Network(), SGD, attack=SUN)


def test_float16_does_not_weaken_it_on_a_confident_network(network, batch):
    images, noises = batch
    labels = network.eval()(images).argmax(1)
    logits = network((images + noises).flatten(0, 1)).detach().topk(2).values
    factor = 19.0 / float((logits[:, 0] - logits[:, 1]).max())

    def confident(points):
        return factor * network(points)

    exact = CAT_RS(confident, images, labels, noises=noises, randomness=RANDOMNESS)
    with torch.autocast("cpu", dtype=torch.float16):
        rounded = CAT_RS(confident, images, labels, noises=noises, randomness=RANDOMNESS)
    ways = [(moved - noises).flatten(0, 1).flatten(1) for moved in (exact, rounded)]
    assert (torch.cosine_similarity(*ways) > 0.99).all()
