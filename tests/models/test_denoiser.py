"""Denoisers in front of a classifier: composition, checkpoints, training."""

from functools import partial

import pytest
import torch
from torch import nn

from robustsmooth.data import Batch
from robustsmooth.methods import DenoiserModule
from robustsmooth.models import (
    Classifier,
    DnCNN,
    MemNet,
    Normalize,
    SmallCNN,
    build_classifier,
    load_denoiser,
)

ADAM = partial(torch.optim.Adam, lr=1e-3)


def small():
    return DnCNN(channels=1, depth=4, width=4)


def randomised(denoiser):
    torch.manual_seed(5)
    for parameter in denoiser.parameters():
        nn.init.normal_(parameter, std=0.3)
    return denoiser


def classifier(denoiser=None):
    torch.manual_seed(3)
    return Classifier(SmallCNN(10, 1, 4), Normalize([0.3], [0.4]), num_classes=10, denoiser=denoiser).eval()


IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_an_untrained_denoiser_changes_nothing():
    assert torch.equal(small()(IMAGES), IMAGES)
    torch.testing.assert_close(classifier(small().eval())(IMAGES), classifier()(IMAGES))


def test_the_published_network_has_its_layers():
    names = DnCNN().state_dict()
    assert names["dncnn.0.weight"].shape == (64, 3, 3, 3)
    assert names["dncnn.0.bias"].shape == (64,)
    assert "dncnn.2.bias" not in names
    assert names["dncnn.47.weight"].shape == (3, 64, 3, 3)  # 2 + 15 * 3
    assert DnCNN().dncnn[3].eps == 1e-4


def test_memnet_has_the_published_layers():
    found = {key: tuple(value.shape) for key, value in MemNet().named_parameters()}
    expected = {}

    def layer(name, incoming, outgoing, kernel=3):
        expected[f"{name}.bn.weight"] = expected[f"{name}.bn.bias"] = (incoming,)
        expected[f"{name}.conv.weight"] = (outgoing, incoming, kernel, kernel)

    layer("feature_extractor", 3, 64)
    layer("reconstructor", 64, 3)
    for block in range(3):
        for unit in range(6):
            layer(f"dense_memory.{block}.recursive_unit.{unit}.relu_conv1", 64, 64)
            layer(f"dense_memory.{block}.recursive_unit.{unit}.relu_conv2", 64, 64)
        layer(f"dense_memory.{block}.gate_unit", (7 + block) * 64, 64, kernel=1)
    assert found == expected


def test_memnet_gates_see_the_units_and_then_the_earlier_blocks():
    """The order of the channels at a gate is that of the published code; BatchNorm is at its start."""
    network = MemNet(channels=1, width=2, blocks=2, units=2).eval()
    seen = []
    for block in network.dense_memory:
        block.gate_unit.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    features = []
    for part in (network.feature_extractor, *network.dense_memory):
        part.register_forward_hook(lambda module, given, result: features.append(result))
    units = []
    for block in network.dense_memory:
        for unit in block.recursive_unit:
            unit.register_forward_hook(lambda module, given, result: units.append(result))
    with torch.no_grad():
        result = network(IMAGES)
        torch.testing.assert_close(result, IMAGES + network.reconstructor(features[2]))
    assert torch.equal(seen[0], torch.cat([units[0], units[1], features[0]], 1))
    assert torch.equal(seen[1], torch.cat([units[2], units[3], features[0], features[1]], 1))
    conv, norm = network.dense_memory[0].recursive_unit[0].relu_conv1.conv, features[0] / (1 + 1e-5) ** 0.5
    first = nn.functional.conv2d(norm.relu(), conv.weight, padding=1) / (1 + 1e-5) ** 0.5
    second = network.dense_memory[0].recursive_unit[0].relu_conv2.conv
    torch.testing.assert_close(
        units[0], features[0] + nn.functional.conv2d(first.relu(), second.weight, padding=1)
    )


def test_the_composition_is_denoise_normalise_classify():
    denoiser = randomised(small()).eval()
    whole = classifier(denoiser)
    torch.testing.assert_close(whole(IMAGES), whole.network((denoiser(IMAGES) - 0.3) / 0.4))
    torch.testing.assert_close(whole.classify(IMAGES), whole.network((IMAGES - 0.3) / 0.4))


@pytest.mark.parametrize("prefix", ["", "module.", "0.module."])
def test_published_checkpoints_load(prefix, tmp_path):
    theirs = randomised(small())
    state = {f"{prefix}{key}": value for key, value in theirs.state_dict().items()}
    torch.save({"epoch": 3, "arch": "cifar_dncnn", "state_dict": state}, tmp_path / "checkpoint.pth.tar")
    ours = small()
    load_denoiser(ours, str(tmp_path / "checkpoint.pth.tar"))
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())


def test_another_depth_is_refused_in_a_sentence(tmp_path):
    torch.save(small().state_dict(), tmp_path / "file.pth")
    with pytest.raises(ValueError, match="does not fit the network: 10 keys missing"):
        load_denoiser(DnCNN(channels=1, depth=6, width=4), str(tmp_path / "file.pth"))


def save(network, path):
    torch.save({"state_dict": {f"network.{key}": value for key, value in network.state_dict().items()}}, path)
    return str(path)


def test_a_denoised_classifier_is_saved_and_loaded_as_a_whole(tmp_path):
    whole = classifier(randomised(small()).eval())
    place = save(whole, tmp_path / "whole.ckpt")
    statistics = {"mean": [0.3], "std": [0.4]}
    again = build_classifier(SmallCNN(10, 1, 4), 10, statistics, place, denoiser=small()).eval()
    torch.testing.assert_close(again(IMAGES), whole(IMAGES))
    with pytest.raises(ValueError, match=r"behind a denoiser: set model\.denoiser"):
        build_classifier(SmallCNN(10, 1, 4), 10, statistics, place)


def test_a_denoiser_goes_in_front_of_another_classifier(tmp_path):
    denoised, plain = classifier(randomised(small()).eval()), classifier()
    nn.init.zeros_(denoised.network.head.weight)
    places = save(denoised, tmp_path / "a.ckpt"), save(plain, tmp_path / "b.ckpt")
    new = build_classifier(
        SmallCNN(10, 1, 4),
        10,
        {"mean": [0.3], "std": [0.4]},
        places[1],
        denoiser=small(),
        denoiser_checkpoint=places[0],
    ).eval()
    torch.testing.assert_close(new(IMAGES), plain(denoised.denoiser(IMAGES)))
    with pytest.raises(ValueError, match=r"`model\.denoiser_checkpoint` needs model\.denoiser"):
        build_classifier(SmallCNN(10, 1, 4), 10, denoiser_checkpoint=places[0])


def method(objective, **options):
    network = classifier(randomised(small()))
    return DenoiserModule(
        network, ADAM, **{"sigma": 0.25, "start": "somewhere", **options}, objective=objective
    )


@pytest.mark.parametrize("objective", ["mse", "stability"])
def test_the_objectives_need_no_labels_and_train_only_the_denoiser(objective):
    module = method(objective).train()
    batch = Batch(IMAGES, torch.full((6,), -1), torch.arange(6))
    loss = module.training_loss(batch)["loss"]
    network = module.network
    assert network.training
    assert network.denoiser.training
    assert not any(part.training for part in (*network.network.modules(), network.normalize))
    denoised = network.denoiser(IMAGES + module.noises(IMAGES)[0])
    if objective == "mse":
        expected = (denoised - IMAGES).square().mean()
    else:
        expected = nn.functional.cross_entropy(network.classify(denoised), network.classify(IMAGES).argmax(1))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    trained = {id(parameter) for parameter in module.parameter_groups()}
    for parameter in network.parameters():
        assert (parameter.grad is not None) == (id(parameter) in trained)
    assert not module.needs_labels


def test_the_classifier_keeps_its_statistics():
    module = method("mse").train()
    before = {key: value.clone() for key, value in module.network.network.state_dict().items()}
    module.training_loss(Batch(IMAGES, torch.zeros(6, dtype=torch.long), torch.arange(6)))
    assert all(torch.equal(value, before[key]) for key, value in module.network.network.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": None}, "in front of a trained classifier"),
        ({"sigma": 0.0}, "`method.sigma` must be positive"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        method("mse", **options)
    with pytest.raises(ValueError, match="MemNet needs"):
        MemNet(units=0)
    with pytest.raises(ValueError, match=r"`method\.objective` must be mse or stability"):
        method("both")
    with pytest.raises(ValueError, match=r"`model\.denoiser` must be given"):
        DenoiserModule(classifier(), ADAM, sigma=0.25, start="somewhere")
