"""Exported files hold the same function, and what is needed to build the network again."""

import json
import random

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from safetensors import safe_open
from torch import nn

from robustsmooth.models import (
    CifarResNet,
    Ensemble,
    NoiseLayers,
    OneStepDiffusion,
    ParametricNoise,
    SmallCNN,
    UNet,
    build_classifier,
    read_checkpoint,
    save_onnx,
    save_safetensors,
)

STATISTICS = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}


def trained(channels_last=False):
    network = build_classifier(CifarResNet(8, 10), 10, STATISTICS, channels_last=channels_last)
    network.train()(torch.rand(8, 3, 32, 32))  # BatchNorm with its own statistics
    return network.eval()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("images", [1, 5])
def test_onnx_computes_the_same(tmp_path, channels_last, images):
    """Compared with ONNX's reference implementation in NumPy, for several numbers of images."""
    network = trained(channels_last)
    save_onnx(network, (3, 32, 32), tmp_path / "new" / "a.onnx")
    model = onnx.load(tmp_path / "new" / "a.onnx")
    onnx.checker.check_model(model)
    pixels = torch.rand(images, 3, 32, 32)
    (logits,) = ReferenceEvaluator(model).run(["logits"], {"images": pixels.numpy()})
    with torch.no_grad():
        assert np.allclose(logits, network(pixels).numpy(), atol=1e-4)


def test_onnx_of_the_digits_network(tmp_path):
    network = build_classifier(SmallCNN(10), 10, {"mean": [0.3], "std": [0.4]}).eval()
    save_onnx(network, (1, 8, 8), tmp_path / "a.onnx")
    pixels = torch.rand(3, 1, 8, 8)
    (logits,) = ReferenceEvaluator(str(tmp_path / "a.onnx")).run(None, {"images": pixels.numpy()})
    with torch.no_grad():
        assert np.allclose(logits, network(pixels).numpy(), atol=1e-4)


@pytest.mark.parametrize("consensus", [None, 2])
def test_onnx_of_an_ensemble(tmp_path, consensus):
    """Its shortcut depends on the batch, and is not in the file."""
    networks = [nn.Sequential(nn.Flatten(), nn.Linear(64, 3)) for _ in range(3)]
    members = [build_classifier(network, 3, {"mean": [0.5], "std": [0.1]}).eval() for network in networks]
    ensemble = Ensemble(members, consensus)
    save_onnx(ensemble, (1, 8, 8), tmp_path / "a.onnx")
    pixels = torch.rand(64, 1, 8, 8)
    (logits,) = ReferenceEvaluator(str(tmp_path / "a.onnx")).run(None, {"images": pixels.numpy()})
    with torch.no_grad():
        answers = torch.stack([member(pixels).argmax(1) for member in members[:2]])
        assert 0 < (answers[0] == answers[1]).sum() < 64
        assert np.allclose(logits, ensemble(pixels).numpy(), atol=1e-4)


class Reading(nn.Module):
    """A network whose code depends on the values of its images."""

    def __init__(self, read):
        super().__init__()
        self.layer, self.read = nn.Linear(9, 2), read

    def forward(self, images):
        return self.layer(images.flatten(1)) * (2 if self.read(images) else 1)


@pytest.mark.parametrize(
    "read", [lambda x: x.mean() > 0.5, lambda x: x.mean().item() > 0.5, lambda x: int(x.sum())]
)
def test_onnx_refuses_networks_that_depend_on_values(tmp_path, read):
    with pytest.raises(ValueError, match=r"depends on values of its tensors.*torch\.where"):
        save_onnx(Reading(read), (1, 3, 3), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_onnx_of_a_network_that_depends_on_sizes(tmp_path):
    """Such as a vision transformer, which compares them with those that it was made for."""
    network = Reading(lambda images: images.shape[1] == 1).eval()
    save_onnx(network, (1, 3, 3), tmp_path / "a.onnx")
    pixels = torch.rand(5, 1, 3, 3)
    (logits,) = ReferenceEvaluator(str(tmp_path / "a.onnx")).run(None, {"images": pixels.numpy()})
    with torch.no_grad():
        assert np.allclose(logits, network(pixels).numpy(), atol=1e-5)


@pytest.mark.parametrize("resampling", ["convolution", "block"])
@pytest.mark.parametrize("rescale", [True, False])
def test_onnx_of_a_diffusion_denoiser(tmp_path, resampling, rescale):
    unet = UNet(1, width=32, multipliers=[1, 2], blocks=1, attention=[2], heads=2, resampling=resampling)
    for parameter in unet.parameters():
        nn.init.normal_(parameter, std=0.1)
    denoiser = OneStepDiffusion(unet, 0.25, rescale_timesteps=rescale)
    network = build_classifier(SmallCNN(10), 10, {"mean": [0.3], "std": [0.01]}, denoiser=denoiser).eval()
    save_onnx(network, (1, 8, 8), tmp_path / "a.onnx")
    pixels = torch.rand(3, 1, 8, 8)
    (logits,) = ReferenceEvaluator(str(tmp_path / "a.onnx")).run(None, {"images": pixels.numpy()})
    with torch.no_grad():
        expected = network(pixels).numpy()
        assert np.abs(network.classify(pixels).numpy() - expected).max() > 0.01
    assert np.allclose(logits, expected, atol=1e-4)


def test_onnx_refuses_random_networks(tmp_path):
    noisy = build_classifier(CifarResNet(8, 10), 10, None, noise_layers=NoiseLayers(weight=ParametricNoise))
    with pytest.raises(ValueError, match=r"noise layers cannot be exported to ONNX; use format=safetensors"):
        save_onnx(noisy, (3, 32, 32), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_safetensors_hold_the_network_and_its_config(tmp_path):
    network, config = (
        trained(channels_last=True),
        {"model": {"normalization": STATISTICS}, "data": {}, "seed": 3},
    )
    path = tmp_path / "new" / "a.safetensors"
    save_safetensors(network, path, config)
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["robustsmooth"]) == config
    assert read_checkpoint(path).config == config
    again = build_classifier(CifarResNet(8, 10), 10, None, str(path)).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(again(images), network(images), atol=1e-5)


def test_a_damaged_safetensors_file_is_refused_and_a_complete_one_is_readable_by_others(tmp_path):
    path = tmp_path / "a.safetensors"
    network = build_classifier(SmallCNN(10), 10)
    save_safetensors(network, path, {"model": {}, "data": {}})
    (tmp_path / "usual").touch()
    assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode
    whole, chance = path.read_bytes(), random.Random(0)
    for trial in range(40):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole)) if trial % 2 else chance.randrange(2000)] ^= 1 << trial % 8
        path.write_bytes(damaged)
        try:
            found = read_checkpoint(path)
        except ValueError:
            continue
        state = network.state_dict()
        assert found.config == {"model": {}, "data": {}}
        assert all(torch.equal(found.tensors[key], state[key]) for key in state)
    for length in range(0, len(whole), len(whole) // 9):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="damaged"):
            read_checkpoint(path)
