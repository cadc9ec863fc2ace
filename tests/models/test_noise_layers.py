"""Noise layers: each formula against a NumPy reference, and what they must not change."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from robustsmooth.commands import conf_dir
from robustsmooth.instantiation import instantiate
from robustsmooth.models.classifier import Classifier, Normalize, SmallCNN
from robustsmooth.models.noise_layers import (
    NoiseLayers,
    NoisyConv2d,
    NoisyLinear,
    is_random,
    noise_parameters,
    silenced,
)
from robustsmooth.models.parametric_noise import ParametricNoise
from robustsmooth.models.resnet import CifarResNet

DRAWS = 20_000


def classifier(width: int = 4) -> Classifier:
    torch.manual_seed(0)
    network = SmallCNN(num_classes=3, in_channels=1, width=width)
    return Classifier(network, Normalize([0.3], [0.4]), num_classes=3).eval()


def images(count: int = 5) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def perturbations(noise: ParametricNoise, value: torch.Tensor, one_by_one: bool) -> np.ndarray:
    """Draws of the noise, ``(DRAWS, n)``: one per pass as for a weight, or one per image of a batch."""
    torch.manual_seed(3)
    with torch.no_grad():
        if one_by_one:
            rows = torch.stack([noise(value) - value for _ in range(DRAWS)])
        else:
            rows = noise(value.expand(DRAWS, *value.shape)) - value
    return rows.flatten(1).double().numpy()


def covariance_twin(noise: ParametricNoise, value: np.ndarray) -> np.ndarray:
    """The covariance as the papers write it, entry by entry and in NumPy."""
    n = value.size
    spread = np.sqrt(np.mean((value - value.mean()) ** 2))
    strength = np.broadcast_to(noise.scale.detach().numpy(), value.shape).reshape(n)
    covariance = np.zeros((n, n))
    for i in range(n):
        covariance[i, i] = strength[i] ** 2
    if noise.scaling == "std":
        covariance *= spread**2
    if noise.scaling == "published":
        covariance *= spread
    if noise.rank:
        factor = noise.factor.detach().numpy().reshape(n, noise.rank)
        outer = np.array([[np.dot(factor[i], factor[j]) for j in range(n)] for i in range(n)])
        covariance += outer * (spread**2 if noise.scaling == "std" else 1)
    return covariance


@pytest.mark.parametrize("scaling", ["std", "published", "absolute"])
@pytest.mark.parametrize(
    ("granularity", "rank"), [("layer", 0), ("channel", 0), ("element", 0), ("element", 2)]
)
def test_sampled_covariance_is_d_plus_l_lt(granularity, rank, scaling):
    noise = ParametricNoise((3, 2), granularity=granularity, rank=rank, scaling=scaling)
    torch.manual_seed(0)
    for parameter in noise.parameters():
        nn.init.normal_(parameter, std=0.5)
    value = torch.randn(3, 2) + 1
    sample = perturbations(noise, value, one_by_one=(granularity, rank, scaling) == ("element", 2, "std"))
    expected = covariance_twin(noise, value.numpy())
    found = sample.T @ sample / DRAWS
    # standard error of a Gaussian covariance's entry: sqrt((c_ii c_jj + c_ij^2) / N)
    variances = np.diag(expected)
    error = np.sqrt((np.outer(variances, variances) + expected**2) / DRAWS)
    assert np.all(np.abs(found - expected) < 5 * error)
    assert np.all(np.abs(sample.mean(0)) < 5 * np.sqrt(variances / DRAWS))
    if rank:
        assert np.any(np.abs(expected - np.diag(variances)) > 20 * error), "no correlation was found"


def test_pni_is_alpha_times_normal_noise_of_the_weights_spread():
    weight = torch.randn(8, 4)
    noise = ParametricNoise(weight.shape)
    torch.manual_seed(5)
    found = noise(weight)
    torch.manual_seed(5)
    draw = np.float32(torch.randn(8, 4).numpy())
    expected = weight.numpy() + 0.25 * weight.numpy().std() * draw
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-6)


def test_gradients_of_the_strengths_are_those_of_the_formula():
    value = torch.randn(3, 2, dtype=torch.float64)
    noise = ParametricNoise((3, 2), granularity="element", rank=2).double()

    def loss() -> torch.Tensor:
        torch.manual_seed(7)
        return (noise(value) ** 3).sum()

    loss().backward()
    for parameter in noise.parameters():
        for index in np.ndindex(*parameter.shape):
            kept = parameter.data[index].item()
            values = []
            for step in (1e-6, -1e-6):
                parameter.data[index] = kept + step
                values.append(loss().item())
            parameter.data[index] = kept
            assert parameter.grad[index].item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4)


@pytest.mark.parametrize("scaling", ["std", "published", "absolute"])
def test_zero_strengths_are_the_plain_network_with_finite_gradients(scaling):
    plain = classifier()
    coloured = partial(ParametricNoise, granularity="element", rank=2, scale=0.0, factor=0.0, scaling=scaling)
    noisy = NoiseLayers(coloured, coloured, coloured, coloured, image_shape=(1, 8, 8))(classifier())
    assert torch.equal(plain(images()), noisy(images()))
    noisy(images()).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in noisy.parameters() if p.grad is not None)


@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("place", ["weight", "input", "output"])
def test_gradients_reach_every_strength(place, rank):
    factory = partial(ParametricNoise, granularity="element", rank=rank)
    network = NoiseLayers(**{place: factory}, image_shape=(1, 8, 8))(classifier())
    network(images()).pow(2).sum().backward()
    strengths = noise_parameters(network)
    assert len(strengths) == 5 * (2 if rank else 1)
    for parameter in strengths:
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_noise_stays_on_in_evaluation_and_can_be_silenced():
    plain, noisy = classifier(), NoiseLayers(ParametricNoise)(classifier()).eval()
    assert not torch.equal(noisy(images()), noisy(images()))
    assert is_random(noisy)
    assert not is_random(plain)
    with silenced(noisy):
        assert not is_random(noisy)
        assert torch.equal(noisy(images()), plain(images()))
    assert is_random(noisy)


def test_silenced_comes_back_after_an_error():
    noisy = NoiseLayers(ParametricNoise)(classifier())
    with pytest.raises(KeyError), silenced(noisy):
        raise KeyError
    assert is_random(noisy)


def test_same_seed_same_output():
    noisy = NoiseLayers(ParametricNoise)(classifier())
    outputs = []
    for _ in range(2):
        torch.manual_seed(11)
        outputs.append(noisy(images()))
    assert torch.equal(*outputs)


def test_one_weight_draw_per_pass_and_one_activation_draw_per_image():
    one = images(1).repeat(4, 1, 1, 1)
    weights = NoiseLayers(weight=ParametricNoise)(classifier())(one)
    assert torch.equal(weights, weights[:1].expand_as(weights))
    activations = NoiseLayers(output=ParametricNoise)(classifier())(one)
    assert len({tuple(row.tolist()) for row in activations}) == 4


def test_activation_noise_does_not_depend_on_the_other_images():
    """The strength of an image's noise does not depend on the other images."""
    noisy = NoiseLayers(input=ParametricNoise, output=ParametricNoise)(classifier())
    answers = []
    for neighbours in (images(3), 1000 * images(3)):
        torch.manual_seed(2)
        answers.append(noisy(torch.cat([images(1), neighbours]))[0])
    assert torch.equal(*answers)


def test_layers_are_chosen_by_name():
    network = NoiseLayers(ParametricNoise, layers=["features.*"], skip=["features.0"])(classifier())
    kinds = {
        name: type(m) for name, m in network.network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)
    }
    assert kinds == {
        "features.0": nn.Conv2d,
        "features.3": NoisyConv2d,
        "features.6": NoisyConv2d,
        "features.9": NoisyConv2d,
        "head": nn.Linear,
    }


def test_any_network_grouped_strided_and_biased():
    network = nn.Sequential(
        nn.Conv2d(4, 8, (3, 2), stride=2, padding=1, dilation=2, groups=2, padding_mode="reflect"),
        nn.Flatten(),
        nn.LazyLinear(3),
    )
    inputs = torch.randn(2, 4, 9, 9)
    expected = network(inputs)
    weight = network[0].weight
    noisy = NoiseLayers(partial(ParametricNoise, scale=0.0))(network)
    assert isinstance(noisy[2], NoisyLinear)
    assert noisy[0].weight is weight, "the optimiser's and the checkpoint's parameter is the same object"
    assert torch.equal(noisy(inputs), expected)


@pytest.mark.parametrize(
    "build", [lambda: CifarResNet(8, 5), lambda: torchvision.models.resnet18(num_classes=5)]
)
def test_networks_of_the_field(build):
    """Every convolution and linear layer is replaced, and nothing else changes."""
    network = build().eval()
    inputs = torch.rand(2, 3, 32, 32)
    expected = network(inputs)
    names = [name for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    plain_keys = network.state_dict().keys()
    coloured = partial(ParametricNoise, granularity="element", rank=2, scale=0.0, factor=0.0)
    noisy = NoiseLayers(coloured, output=coloured, image_shape=(3, 32, 32))(network)
    kinds = (NoisyConv2d, NoisyLinear)
    assert names == [name for name, layer in noisy.named_modules() if isinstance(layer, kinds)]
    assert plain_keys == {key for key in noisy.state_dict() if "_noise." not in key}
    assert torch.equal(noisy(inputs), expected)


def test_building_draws_no_random_numbers_and_keeps_modes():
    network = classifier()
    network.network.features[1].eval()
    network.network.head.train()
    statistics = copy.deepcopy(network.network.features[1].state_dict())
    before = torch.get_rng_state()
    modes = [module.training for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    NoiseLayers(output=partial(ParametricNoise, granularity="element"), image_shape=(1, 8, 8))(network)
    assert torch.equal(before, torch.get_rng_state())
    assert modes == [module.training for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert network.network.head.training
    after = network.network.features[1].state_dict()
    assert all(torch.equal(statistics[key], after[key]) for key in statistics)


def test_plain_checkpoint_loads_and_a_broken_noisy_one_does_not():
    plain = classifier()
    noisy = NoiseLayers(partial(ParametricNoise, granularity="element", rank=1))(classifier())
    noisy.load_state_dict(plain.state_dict())
    with silenced(noisy):
        assert torch.equal(noisy(images()), plain(images()))
    broken = noisy.state_dict()
    del broken["network.head.weight_noise.factor"]
    with pytest.raises(RuntimeError, match=r"weight_noise\.factor"):
        noisy.load_state_dict(broken)


def test_strengths_of_another_scaling_are_refused():
    trained = NoiseLayers(partial(ParametricNoise, scaling="published"))(classifier())
    with pytest.raises(ValueError, match="was trained with scaling=published, but is built with std"):
        NoiseLayers(ParametricNoise)(classifier()).load_state_dict(trained.state_dict())


def test_a_layer_under_two_names_stays_one_layer():
    shared = nn.Linear(3, 3)
    network = NoiseLayers(ParametricNoise)(nn.Sequential(shared, nn.ReLU(), shared))
    assert network[0] is network[2]
    assert len(noise_parameters(network)) == 1


def test_learned_input_noise_is_in_pixel_units_and_trained():
    network = NoiseLayers(images=partial(ParametricNoise, scaling="absolute", scale=0.24))(classifier())
    torch.manual_seed(9)
    found = network(images())
    plain = classifier()
    torch.manual_seed(9)
    expected = plain(images() + 0.24 * torch.randn(5, 1, 8, 8))
    torch.testing.assert_close(found, expected)
    found.pow(2).sum().backward()
    (strength,) = noise_parameters(network)
    assert strength.grad.abs() > 0
    network.load_state_dict(classifier().state_dict())


def test_images_of_another_size_pass_with_one_strength_per_channel():
    network = NoiseLayers(input=partial(ParametricNoise, granularity="channel"), layers=["features.3"])
    noisy = network(classifier())
    assert noisy.network.features[3].input_noise.scale.shape == (4, 1, 1)
    assert noisy(torch.rand(2, 1, 12, 12)).shape == (2, 3)


def test_half_precision_autocast_runs():
    noisy = NoiseLayers(partial(ParametricNoise, granularity="element", rank=2))(classifier())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.isfinite(noisy(images())).all()


def test_constant_activation_gives_no_nan():
    noisy = NoiseLayers(input=partial(ParametricNoise, scaling="published"))(classifier())
    black = torch.zeros(2, 1, 8, 8, requires_grad=True)
    noisy(black).sum().backward()
    assert torch.isfinite(black.grad).all()


@pytest.mark.parametrize("choice", sorted(path.stem for path in (conf_dir() / "noise_layers").glob("*.yaml")))
def test_every_config_makes_a_random_network(choice, compose):
    words = ["model.noise_layers.image_shape=[1,8,8]"] if "output" in choice else []
    cfg = compose("train", "method=natural", f"+noise_layers@model.noise_layers={choice}", *words)
    network = instantiate(cfg.model).eval()
    assert is_random(network)
    assert not torch.equal(network(images()), network(images()))
    with silenced(network):
        assert torch.equal(network(images()), network(images()))


class _OtherConv(nn.Conv2d):
    pass


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: NoiseLayers(), "all null"),
        (lambda: ParametricNoise((3,), granularity="pixel"), "`granularity` must be"),
        (lambda: ParametricNoise((3,), scaling="batch"), "`scaling` must be"),
        (lambda: ParametricNoise((3,), rank=-1), "`rank` must be"),
        (lambda: NoiseLayers(ParametricNoise, layers=["conv9"])(classifier()), "no layer is called 'conv9'"),
        (lambda: NoiseLayers(ParametricNoise)(nn.Sequential(_OtherConv(1, 1, 1))), "is a _OtherConv"),
        (lambda: NoiseLayers(output=partial(ParametricNoise, rank=1))(classifier()), "give `image_shape`"),
        (lambda: NoiseLayers(images=ParametricNoise)(SmallCNN(3)), "noise on `images` needs"),
    ],
)
def test_bad_input_is_one_sentence(build, message):
    with pytest.raises(ValueError, match=message):
        build()
