"""A method can train with any loss of noisy copies and any noise; the values are those of the formulas."""

from copy import deepcopy
from functools import partial

import pytest
import torch

from robustsmooth.attacks import PGD
from robustsmooth.instantiation import instantiate
from robustsmooth.losses import Consistency, Terms, mean_terms
from robustsmooth.methods import AdversarialModule, GaussianModule, NaturalModule, SmoothAdvModule
from robustsmooth.smoothing import GaussianNoise, GridGaussianNoise, NoNoise, UniformNoise
from robustsmooth.smoothing.addressing import BatchRandomness
from tests.methods.test_sodm import SGD, Network, batch


def seen(method):
    """The inputs of the network in a training step."""
    method.training_loss(batch())
    return [inputs for inputs, _, _ in method.network.calls]


def test_gaussian_noise_equals_the_addressed_normal_numbers_exactly():
    (inputs,) = seen(GaussianModule(Network(), SGD, sigma=0.3, copies=2, seed=5))
    numbers = BatchRandomness(5, "train/noise", 0, 0, 0).normal(batch().images, 2)
    assert torch.equal(inputs, (batch().images + 0.3 * numbers).flatten(0, 1))


def test_a_method_can_train_with_uniform_noise():
    method = GaussianModule(Network(), SGD, sigma=0.3, copies=200, noise=UniformNoise)
    noises = seen(method)[0].unflatten(0, (200, 6)) - batch().images
    assert noises.abs().max() <= 3**0.5 * 0.3 + 1e-6
    assert noises.std() == pytest.approx(0.3, rel=0.01)


def test_grid_noise_stays_on_the_grid():
    method = GaussianModule(Network(), SGD, sigma=0.3, copies=50, noise=partial(GridGaussianNoise, levels=16))
    noises = 16 * (seen(method)[0].unflatten(0, (50, 6)) - batch().images)
    torch.testing.assert_close(noises, noises.round(), atol=1e-4, rtol=0)
    assert (noises / 16).std() == pytest.approx(0.3, rel=0.05)


def test_no_noise_draws_zeros():
    assert torch.equal(
        NoNoise().draw(batch().images, 3, BatchRandomness(0, "x")), torch.zeros(3, *batch().images.shape)
    )


def test_a_level_of_the_smoothing_group_is_refused_in_training():
    with pytest.raises(ValueError, match=r"set method\.sigma=0\.5"):
        GaussianModule(Network(), SGD, sigma=0.25, noise=partial(GaussianNoise, sigma=0.5))


@pytest.mark.parametrize("method", ["gaussian", "heat", "cpni", "natural", "sodm"])
def test_every_method_takes_the_smoothing_group(method, compose):
    cfg = compose("train", f"method={method}", "smoothing=uniform", "method.sigma=0.25")
    if "start" in cfg.method:
        cfg.method.start = "anywhere"
    assert instantiate(cfg.method).noise == UniformNoise(0.25)


def test_consistency_on_smoothadvs_images(compose):
    cfg = compose("train", "method=smoothadv", "loss=consistency", "method.copies=3", "attack.steps=1")
    module = instantiate(cfg.method)
    twin = deepcopy(module)  # the step moves BatchNorm's statistics
    images, labels = torch.rand(4, 1, 8, 8), torch.arange(4)
    module.on_train_batch_start(batch(), 0)
    result = module.training_loss(type(batch())(images, labels, labels))
    noises = twin.noises(images, 3)
    attacked = twin._attack()(
        twin.network, images, labels, randomness=twin.randomness("attack"), noises=noises
    )
    assert not torch.equal(attacked, images)
    logits = twin.network((attacked + noises).flatten(0, 1)).unflatten(0, (3, 4))
    expected = mean_terms(twin.loss(logits, labels, sigma=0.25))
    for name in ("loss", "classification", "consistency", "entropy"):
        torch.testing.assert_close(result[name], expected[name])


def test_stability_evaluates_the_clean_images_in_a_separate_pass(compose):
    method = GaussianModule(
        Network(), SGD, sigma=0.25, loss=instantiate(compose("train", "loss=stability").loss)
    )
    clean, noisy = seen(method)
    assert torch.equal(clean, batch().images)
    assert clean.shape == noisy.shape


def test_warmup_scales_the_step_size_too(compose):
    cfg = compose(
        "train", "method=smoothadv", "attack.step_size=0.2", "attack.epsilon=0.4", "method.warmup_epochs=4"
    )
    attack = instantiate(cfg.method)._attack()  # the first of four epochs
    assert attack.epsilon == pytest.approx(0.1)
    assert attack.step_size == pytest.approx(0.05)


def test_a_loss_that_compares_copies_needs_two():
    loss = Terms({"consistency": Consistency()})
    with pytest.raises(ValueError, match=r"`method\.copies` must be at least 2 for this loss"):
        GaussianModule(Network(), SGD, sigma=0.25, loss=loss)
    with pytest.raises(ValueError, match="must be at least 2 for this loss"):
        AdversarialModule(Network(), SGD, loss=loss, attack=object())
    options = {"loss": loss, "attack": PGD(norm="l2", epsilon=1.0), "copies": 4, "multi_noise": False}
    with pytest.raises(ValueError, match=r"method\.multi_noise=true"):
        SmoothAdvModule(Network(), SGD, sigma=0.25, **options)


@pytest.mark.parametrize(
    ("sigma", "copies", "sentence"),
    [
        (0.0, 1, r"`method\.sigma` is 0 and this method trains on noise"),
        (0.25, 0, "must be at least 1, got 0"),
    ],
)
def test_a_zero_noise_level_and_zero_copies_are_refused(sigma, copies, sentence):
    """For example in a user's own method that forgets its noise level."""
    method = NaturalModule(Network(), SGD, sigma=sigma)
    with pytest.raises(ValueError, match=sentence):
        method.noises(batch().images, copies)
