"""Checkpoints in the formats of published code, against networks written by hand here."""

import argparse
import logging
import pickle
import re
import subprocess
import sys
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from robustsmooth.models import (
    CifarResNet,
    NoiseLayers,
    ParametricNoise,
    WideResNet,
    build_classifier,
    load_checkpoint,
    read_checkpoint,
    resnet32x32,
    torchvision_network,
)

CIFAR = {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.2010]}
OTHER = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}


# ------------------------------------------------------------------ state dicts and a hand-written reference


def conv(state, name, inside, outside, kernel):
    state[f"{name}.weight"] = torch.randn(outside, inside, kernel, kernel) / (kernel * inside**0.5)


def norm(state, name, channels):
    state[f"{name}.weight"] = torch.rand(channels) + 0.5
    state[f"{name}.bias"] = torch.randn(channels) / 4
    state[f"{name}.running_mean"] = torch.randn(channels) / 4
    state[f"{name}.running_var"] = torch.rand(channels) + 0.5
    state[f"{name}.num_batches_tracked"] = torch.tensor(7)


def published(widths, blocks, shortcut="downsample", head="fc", classes=10, projection=True):
    """A residual network's state dict with the names that its publishers use."""
    state = {}
    conv(state, "conv1", 3, widths[0], 3)
    norm(state, "bn1", widths[0])
    inside = widths[0]
    for stage, outside in enumerate(widths, start=1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            conv(state, f"{name}.conv1", inside, outside, 3)
            norm(state, f"{name}.bn1", outside)
            conv(state, f"{name}.conv2", outside, outside, 3)
            norm(state, f"{name}.bn2", outside)
            if projection and inside != outside:
                conv(state, f"{name}.{shortcut}.0", inside, outside, 1)
                norm(state, f"{name}.{shortcut}.1", outside)
            inside = outside
    state[f"{head}.weight"] = torch.randn(classes, widths[-1]) / widths[-1] ** 0.5
    state[f"{head}.bias"] = torch.randn(classes)
    return state


def reference(state, images, shortcut="downsample", head="fc"):
    """The same network, written out: stages of two-convolution blocks, mean over pixels, linear layer."""

    def batch_norm(name, features):
        statistics = [state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(features, *statistics)

    out = functional.conv2d(images, state["conv1.weight"], padding=1)
    out = functional.relu(batch_norm("bn1", out))
    stages = sorted({int(key[5]) for key in state if key.startswith("layer")})
    for stage in stages:
        blocks = {int(key.split(".")[1]) for key in state if key.startswith(f"layer{stage}.")}
        for block in sorted(blocks):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            inside = functional.conv2d(out, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            inside = functional.relu(batch_norm(f"{name}.bn1", inside))
            inside = batch_norm(
                f"{name}.bn2", functional.conv2d(inside, state[f"{name}.conv2.weight"], padding=1)
            )
            if f"{name}.{shortcut}.0.weight" in state:
                out = functional.conv2d(out, state[f"{name}.{shortcut}.0.weight"], stride=stride)
                out = batch_norm(f"{name}.{shortcut}.1", out)
            elif stride == 2:
                zeros = torch.zeros_like(out[:, : out.shape[1] // 2, ::2, ::2])
                out = torch.cat([zeros, out[:, :, ::2, ::2], zeros], dim=1)
            out = functional.relu(inside + out)
    return functional.linear(out.mean(dim=(2, 3)), state[f"{head}.weight"], state[f"{head}.bias"])


def prefixed(prefix, state):
    return {f"{prefix}{key}": value for key, value in state.items()}


def column(values):
    return torch.tensor(values).view(3, 1, 1)


def normalized(images, mean, std):
    return (images - column(mean)) / column(std)


IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
COHEN = {"widths": [16, 32, 64], "blocks": 1}
PROJECTION = {"depth": 8, "num_classes": 10, "shortcut": "projection"}


def logits(path, network, normalization, classes=10, **options):
    with torch.no_grad():
        return build_classifier(network, classes, normalization, str(path), **options).eval()(IMAGES)


def close(actual, expected):
    assert torch.allclose(actual, expected, atol=1e-4 * expected.abs().max())


# ------------------------------------------------------------------ formats of published code


@pytest.mark.parametrize(
    "prefix", ["", "module.", "1.", "1.module.", "model.", "module.model.", "_orig_mod."]
)
@pytest.mark.parametrize("under", [None, "state_dict", "model", "net", "model_state_dict"])
def test_prefixes_and_places(tmp_path, prefix, under):
    state = published(**COHEN)
    content = prefixed(prefix, state)
    torch.save(content if under is None else {"epoch": 3, under: content}, tmp_path / "c.pth")
    close(logits(tmp_path / "c.pth", CifarResNet(**PROJECTION), None), reference(state, IMAGES))


def test_cohen(tmp_path):
    """Sequential(NormalizeLayer, network); the layer's tensors are attributes and not in the file."""
    state = published(**COHEN)
    content = {
        "epoch": 89,
        "arch": "cifar_resnet110",
        "state_dict": prefixed("1.", state),
        "optimizer": {"state": {}},
    }
    torch.save(content, tmp_path / "checkpoint.pth.tar")
    expected = reference(state, normalized(IMAGES, **CIFAR))
    close(logits(tmp_path / "checkpoint.pth.tar", CifarResNet(**PROJECTION), "cifar10"), expected)


def test_salman(tmp_path):
    """Sequential(InputCenterLayer, network): the mean is subtracted, nothing is divided."""
    state = published(**COHEN)
    torch.save({"state_dict": prefixed("1.module.", state)}, tmp_path / "checkpoint.pth.tar")
    expected = reference(state, IMAGES - column(CIFAR["mean"]))
    close(logits(tmp_path / "checkpoint.pth.tar", CifarResNet(**PROJECTION), "cifar10_center"), expected)


def test_macer(tmp_path):
    """No normalisation, the state dict under "net"."""
    state = published(**COHEN)
    torch.save({"net": state, "epoch": 440}, tmp_path / "440.pth")
    close(logits(tmp_path / "440.pth", CifarResNet(**PROJECTION), "none"), reference(state, IMAGES))


def test_robustness_library(tmp_path, caplog):
    """AttackerModel: normaliser, model, an attacker that holds both again; ``shortcut`` and ``linear``."""
    state = published([64, 128, 256, 512], 2, shortcut="shortcut", head="linear")
    statistics = {"new_mean": column(OTHER["mean"]), "new_std": column(OTHER["std"])}
    decoy = {key: torch.zeros_like(value) for key, value in state.items()}
    content = {
        **prefixed("module.normalizer.", statistics),
        **prefixed("module.model.", state),
        **prefixed("module.attacker.normalize.", {key: value + 5 for key, value in statistics.items()}),
        **prefixed("module.attacker.model.", decoy),
    }
    torch.save({"model": content, "epoch": 149}, tmp_path / "cifar_l2_0_5.pt")
    expected = reference(state, normalized(IMAGES, **OTHER), "shortcut", "linear")
    with caplog.at_level(logging.WARNING):
        close(logits(tmp_path / "cifar_l2_0_5.pt", resnet32x32(18, 10), "cifar10"), expected)
    assert "was trained with the normalisation mean [0.1, 0.2, 0.3], std [0.4, 0.5, 0.6]" in caplog.text
    close(logits(tmp_path / "cifar_l2_0_5.pt", resnet32x32(18, 10), None), expected)


def test_the_cifar_zoo(tmp_path, caplog):
    """akamaster's ResNets: DataParallel, ``linear``, shortcuts without parameters, normalised outside."""
    state = published([16, 32, 64], 3, head="linear", projection=False)
    torch.save({"state_dict": prefixed("module.", state), "best_prec1": 91.7}, tmp_path / "resnet20.th")
    imagenet = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    expected = reference(state, normalized(IMAGES, **imagenet), head="linear")
    close(logits(tmp_path / "resnet20.th", CifarResNet(20, 10), "imagenet"), expected)
    assert caplog.text == ""


def test_the_zoo_with_projections(tmp_path):
    state = published(**COHEN, shortcut="shortcut", head="linear")
    torch.save(state, tmp_path / "c.pt")
    expected = reference(state, IMAGES, "shortcut", "linear")
    close(logits(tmp_path / "c.pt", CifarResNet(**PROJECTION), None), expected)


def test_trades(tmp_path):
    """A WideResNet with its published names, and the block that its code creates and never uses."""
    state = {}
    conv(state, "conv1", 3, 16, 3)
    inside = 16
    for number, outside in enumerate((32, 64, 128), start=1):
        name = f"block{number}.layer.0"
        norm(state, f"{name}.bn1", inside)
        conv(state, f"{name}.conv1", inside, outside, 3)
        norm(state, f"{name}.bn2", outside)
        conv(state, f"{name}.conv2", outside, outside, 3)
        conv(state, f"{name}.convShortcut", inside, outside, 1)
        inside = outside
    norm(state, "bn1", 128)
    state |= {"fc.weight": torch.randn(10, 128) / 11, "fc.bias": torch.randn(10)}

    def norm_relu(name, features):
        statistics = [state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        return functional.relu(functional.batch_norm(features, *statistics))

    out = functional.conv2d(IMAGES, state["conv1.weight"], padding=1)
    for number in (1, 2, 3):
        name, stride = f"block{number}.layer.0", 1 if number == 1 else 2
        out = norm_relu(f"{name}.bn1", out)
        deep = functional.conv2d(out, state[f"{name}.conv1.weight"], stride=stride, padding=1)
        deep = functional.conv2d(norm_relu(f"{name}.bn2", deep), state[f"{name}.conv2.weight"], padding=1)
        out = deep + functional.conv2d(out, state[f"{name}.convShortcut.weight"], stride=stride)
    expected = functional.linear(norm_relu("bn1", out).mean(dim=(2, 3)), state["fc.weight"], state["fc.bias"])
    unused = {
        key.replace("block1.", "sub_block1."): value for key, value in state.items() if "block1." in key
    }
    torch.save({**prefixed("module.", state), **prefixed("module.", unused)}, tmp_path / "trades.pt")
    close(logits(tmp_path / "trades.pt", WideResNet(10, 2, 10), "none"), expected)


@pytest.mark.parametrize(
    ("mean", "std"), [("0.mean", "0.std"), ("mean", "std"), ("normalize.mean", "normalize.std")]
)
def test_statistics_beside_the_network(tmp_path, mean, std):
    state = published(**COHEN)
    prefix = "1." if mean[0] == "0" else "model." if "." in mean else ""
    content = {mean: column(OTHER["mean"]), std: column(OTHER["std"]), **prefixed(prefix, state)}
    torch.save(content, tmp_path / "c.pt")
    expected = reference(state, normalized(IMAGES, **OTHER))
    close(logits(tmp_path / "c.pt", CifarResNet(**PROJECTION), OTHER), expected)
    close(logits(tmp_path / "c.pt", CifarResNet(**PROJECTION), None), expected)


class Own(nn.Module):
    """A network with statistics of its own."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.rand(3, 1, 1))
        self.register_buffer("std", torch.rand(3, 1, 1) + 1)
        self.layer = nn.Linear(3, 10)

    def forward(self, images):
        return self.layer(((images - self.mean) / self.std).mean(dim=(2, 3)))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_statistics_of_the_network_itself(tmp_path, prefix):
    trained = Own()
    torch.save(prefixed(prefix, trained.state_dict()), tmp_path / "c.pt")
    with torch.no_grad():
        close(logits(tmp_path / "c.pt", Own(), OTHER), trained(normalized(IMAGES, **OTHER)))


def test_a_centre_layer_beside_the_network(tmp_path):
    """Salman's layer where it was made a buffer: a mean and no deviation."""
    state = published(**COHEN)
    torch.save({"0.means": column(OTHER["mean"]), **prefixed("1.", state)}, tmp_path / "c.pt")
    expected = reference(state, IMAGES - column(OTHER["mean"]))
    close(logits(tmp_path / "c.pt", CifarResNet(**PROJECTION), "cifar10"), expected)


@pytest.mark.parametrize(
    ("one", "two"),
    [("student.", "teacher."), ("net.", "net_ema."), ("", "ema."), ("model.", "average.module.")],
)
def test_of_two_networks_none_is_chosen(tmp_path, one, two):
    """For example a running average of the weights beside the network itself."""
    state, average = published(**COHEN), published(**COHEN)
    torch.save({**prefixed(two, average), **prefixed(one, state)}, tmp_path / "c.pt")
    named = f"{f'`{one}`' if one else 'no prefix'} and with `{two}`"
    with pytest.raises(ValueError, match=rf"different networks that fit equally well.*{re.escape(named)}"):
        logits(tmp_path / "c.pt", CifarResNet(**PROJECTION), None)


def test_two_copies_of_one_network_are_one_network(tmp_path):
    state = published(**COHEN)
    torch.save({**prefixed("model.", state), **prefixed("copy.", state)}, tmp_path / "c.pt")
    close(logits(tmp_path / "c.pt", CifarResNet(**PROJECTION), None), reference(state, IMAGES))


def test_of_two_networks_the_one_with_the_shapes(tmp_path):
    state, wider = published(**COHEN), published([32, 64, 128], 1)
    torch.save({**prefixed("teacher.", wider), **prefixed("network.", state)}, tmp_path / "c.pt")
    close(logits(tmp_path / "c.pt", CifarResNet(**PROJECTION), None), reference(state, IMAGES))


def test_safetensors(tmp_path):
    state = published(**COHEN)
    save_file(prefixed("module.", state), tmp_path / "model.safetensors")
    close(logits(tmp_path / "model.safetensors", CifarResNet(**PROJECTION), None), reference(state, IMAGES))


def test_old_files_without_counters_and_in_half_precision(tmp_path):
    state = published(**COHEN)
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    close(logits(tmp_path / "old.pth", CifarResNet(**PROJECTION), None), reference(state, IMAGES))
    torch.save({key: value.half() for key, value in old.items()}, tmp_path / "half.pth")
    half = logits(tmp_path / "half.pth", CifarResNet(**PROJECTION), None)
    assert half.dtype == torch.float32
    assert torch.allclose(half, reference(state, IMAGES), atol=0.1)


def test_torchvision_weights(monkeypatch):
    """torchvision's own table of weights, with a stub in place of the download."""
    from torchvision.models import ResNet18_Weights, resnet18

    theirs, asked = resnet18(), []

    def state_dict(weights, **_):
        asked.append(weights)
        return theirs.state_dict()

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", state_dict)
    imagenet = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    for place in ("torchvision:ResNet18_Weights.IMAGENET1K_V1", "torchvision:IMAGENET1K_V1"):
        classifier = build_classifier(torchvision_network("resnet18", 1000), 1000, "cifar10", place).eval()
        with torch.no_grad():
            close(classifier(IMAGES), theirs.eval()(normalized(IMAGES, **imagenet)))
    assert asked == [ResNet18_Weights.IMAGENET1K_V1] * 2
    with pytest.raises(ValueError, match=r"torchvision has no weights 'torchvision:V1' for this network"):
        load_checkpoint(classifier, "torchvision:V1")
    with pytest.raises(ValueError, match=r"torchvision has no weights 'torchvision:IMAGENET1K_V1' for this"):
        build_classifier(CifarResNet(8, 10), 10, None, "torchvision:IMAGENET1K_V1")


def test_no_network_connection(monkeypatch):
    def unreachable(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    with pytest.raises(ValueError, match=r"could not download https://.*no route to host.*fetch it by hand"):
        read_checkpoint("torchvision:ResNet18_Weights.IMAGENET1K_V1")


def test_timm_weights(monkeypatch):
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("resnet10t", pretrained=False)
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: theirs)
    place = "timm:resnet10t.c3_in1k"
    classifier = build_classifier(timm.models.resnet10t(), 1000, None, place).eval()
    facts = {key: list(theirs.pretrained_cfg[key]) for key in ("mean", "std")}
    with torch.no_grad():
        close(classifier(IMAGES), theirs.eval()(normalized(IMAGES, **facts)))


# ------------------------------------------------------------------ our own


def test_our_lightning_checkpoint_and_run_folder(tmp_path):
    trained = build_classifier(CifarResNet(8, 10), 10, OTHER).eval()
    content = {
        "state_dict": {**prefixed("network.", trained.state_dict()), "mapping.weight": torch.zeros(3)},
        "robustsmooth": {"config": {"model": {"normalization": OTHER}}},
        "pytorch-lightning_version": "2.6.6",
    }
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    torch.save(content, tmp_path / "run" / "checkpoints" / "last.ckpt")
    (tmp_path / "run" / "summary.json").touch()
    with torch.no_grad():
        expected = trained(IMAGES)
    for place in (tmp_path / "run", tmp_path / "run" / "checkpoints" / "last.ckpt"):
        assert torch.equal(logits(place, CifarResNet(8, 10), OTHER), expected)
        assert torch.equal(logits(place, CifarResNet(8, 10), "cifar10"), expected)
        assert torch.equal(logits(place, CifarResNet(8, 10), None), expected)
    assert read_checkpoint(tmp_path / "run").config == {"model": {"normalization": OTHER}}


def test_our_checkpoint_without_normalisation_says_so(tmp_path, caplog):
    trained = build_classifier(CifarResNet(8, 10), 10, None).eval()
    content = {
        "state_dict": prefixed("network.", trained.state_dict()),
        "robustsmooth": {"config": {"seed": 0}},
    }
    torch.save(content, tmp_path / "c.ckpt")
    with torch.no_grad():
        assert torch.allclose(
            logits(tmp_path / "c.ckpt", CifarResNet(8, 10), OTHER), trained(IMAGES), atol=1e-5
        )
    assert "mean [0.0, 0.0, 0.0], std [1.0, 1.0, 1.0]" in caplog.text


# ------------------------------------------------------------------ noise layers and new heads


def weight_noise():
    return NoiseLayers(weight=ParametricNoise)


def test_a_plain_checkpoint_fits_a_network_with_noise_layers(tmp_path):
    state = published(**COHEN)
    torch.save(state, tmp_path / "c.pt")
    classifier = build_classifier(
        CifarResNet(**PROJECTION), 10, None, str(tmp_path / "c.pt"), noise_layers=weight_noise()
    )
    scales = {key: value for key, value in classifier.named_parameters() if "weight_noise" in key}
    assert len(scales) == 7 + 2 + 1
    assert all((value == 0.25).all() for value in scales.values())
    assert torch.equal(classifier.network.conv1.weight, state["conv1.weight"])


def test_noise_strengths_are_loaded_where_the_file_has_them(tmp_path):
    images = NoiseLayers(weight=ParametricNoise, images=ParametricNoise)
    trained = build_classifier(CifarResNet(8, 10), 10, OTHER, noise_layers=images)
    with torch.no_grad():
        for key, value in trained.named_parameters():
            value.fill_(0.125) if "noise" in key else None
    torch.save(trained.state_dict(), tmp_path / "c.pt")
    again = build_classifier(CifarResNet(8, 10), 10, OTHER, str(tmp_path / "c.pt"), noise_layers=images)
    assert again.state_dict().keys() == trained.state_dict().keys()
    assert all(torch.equal(value, trained.state_dict()[key]) for key, value in again.state_dict().items())


def test_noise_layers_that_are_not_configured_are_named(tmp_path):
    noisy = build_classifier(CifarResNet(8, 10), 10, None, noise_layers=weight_noise())
    torch.save(noisy.state_dict(), tmp_path / "c.pt")
    with pytest.raises(ValueError, match=r"weight_noise.scale.*It has noise layers: set model.noise_layers"):
        logits(tmp_path / "c.pt", CifarResNet(8, 10), None)


def test_a_new_head(tmp_path):
    state = published(**COHEN, classes=1000)
    torch.save(state, tmp_path / "c.pt")
    network = CifarResNet(**PROJECTION)
    initial = network.fc.weight.clone()
    build_classifier(network, 10, None, str(tmp_path / "c.pt"), new_head=True)
    assert torch.equal(network.fc.weight, initial)
    assert torch.equal(network.layer3[0].conv2.weight, state["layer3.0.conv2.weight"])
    with pytest.raises(
        ValueError, match=r"fc.weight is 1000x64 in the file and 10x64 here.*model.new_head=true"
    ):
        logits(tmp_path / "c.pt", CifarResNet(**PROJECTION), None)


# ------------------------------------------------------------------ what does not fit


def message(path, network):
    with pytest.raises(ValueError, match=r"does not fit the network") as caught:
        logits(path, network, None)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_mismatches_are_listed(tmp_path):
    torch.save(published(**COHEN), tmp_path / "c.pt")
    shortcut = message(tmp_path / "c.pt", CifarResNet(8, 10))
    assert "12 keys that the network does not have (layer2.0.downsample.0.weight," in shortcut
    assert shortcut.endswith(
        "and 8 more). Its shortcuts are projections: set model.network.shortcut=projection"
    )
    deeper = message(tmp_path / "c.pt", CifarResNet(14, 10, shortcut="projection"))
    assert "30 keys missing in the file (layer1.1.bn1.bias, layer1.1.bn1.running_mean," in deeper
    assert "Is it for another depth, width or network?" in deeper
    torch.save(published(**COHEN, projection=False), tmp_path / "identity.pt")
    assert message(tmp_path / "identity.pt", CifarResNet(**PROJECTION)).endswith(
        "set model.network.shortcut=identity"
    )
    wider = message(tmp_path / "c.pt", resnet32x32(18, 10))
    assert "of another shape (conv1.weight is 16x3x3x3 in the file and 64x3x3x3 here" in wider


def test_a_new_head_does_not_help_with_other_channels(tmp_path):
    torch.save(published(**COHEN), tmp_path / "c.pt")
    text = message(tmp_path / "c.pt", CifarResNet(**PROJECTION, in_channels=1))
    assert "conv1.weight is 16x3x3x3 in the file and 16x1x3x3 here" in text
    assert "model.new_head" not in text
    torch.save(published(**COHEN, classes=100), tmp_path / "c.pt")
    assert "model.new_head" in message(tmp_path / "c.pt", CifarResNet(**PROJECTION))
    assert "model.new_head" not in message(tmp_path / "c.pt", CifarResNet(**PROJECTION, in_channels=1))


def test_a_file_of_another_network(tmp_path):
    torch.save({"encoder.weight": torch.zeros(3), "decoder.bias": torch.zeros(2)}, tmp_path / "c.pt")
    text = message(tmp_path / "c.pt", CifarResNet(8, 10))
    assert "2 keys that the network does not have (decoder.bias, encoder.weight)" in text


def test_other_channels(tmp_path):
    torch.save(build_classifier(CifarResNet(8, 10), 10, OTHER).state_dict(), tmp_path / "c.pt")
    grey = {"mean": [0.5, 0.5], "std": [1.0, 1.0]}
    with pytest.raises(ValueError, match=r"is for images of 3 channels, not of 2"):
        build_classifier(CifarResNet(8, 10), 10, grey, str(tmp_path / "c.pt"))


def test_missing(tmp_path):
    for place in (tmp_path / "no.pt", tmp_path):
        with pytest.raises(ValueError, match=r"there is no checkpoint at|is not a run folder"):
            read_checkpoint(place)


@pytest.mark.parametrize("name", ["c.pt", "c.safetensors"])
def test_truncated(tmp_path, name):
    state = published(**COHEN)
    save_file(state, tmp_path / name) if name.endswith("safetensors") else torch.save(state, tmp_path / name)
    content = (tmp_path / name).read_bytes()
    for length in (len(content) // 2, 100):
        (tmp_path / name).write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"truncated or damaged|is damaged"):
            read_checkpoint(tmp_path / name)


def test_truncated_in_the_old_format(tmp_path):
    """As in many published files: before PyTorch 1.6 a checkpoint was not a zip archive."""
    path = tmp_path / "checkpoints" / "last.ckpt"
    path.parent.mkdir()
    torch.save({"state_dict": published(**COHEN)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    for length in range(1, len(content), len(content) // 40):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"damaged|would execute code"):
            read_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"<html>Not found</html>", b"\x00" * 300])
def test_no_checkpoint_at_all(tmp_path, content):
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged"):
        read_checkpoint(tmp_path / "c.pt")


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], {"state_dict": {}}])
def test_no_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(ValueError, match=r"has no state dict|not a state dict"):
        read_checkpoint(tmp_path / "c.pt")


class Trap:
    def __reduce__(self):
        import os

        return os.system, ("touch executed",)


@pytest.mark.parametrize("protocol", ["zip", "legacy", "pickle"])
def test_code_is_not_executed(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    content = {"model": published(**COHEN), "args": Trap()}
    if protocol == "pickle":
        (tmp_path / "c.pt").write_bytes(pickle.dumps(content))
    else:
        torch.save(content, tmp_path / "c.pt", _use_new_zipfile_serialization=protocol == "zip")
    with pytest.raises(
        ValueError, match=r"would execute code when it is read; convert it once, on a machine"
    ):
        read_checkpoint(tmp_path / "c.pt")
    assert not (tmp_path / "executed").exists()


def test_the_advice_for_such_files_works(tmp_path, monkeypatch):
    """A file that needs code to be read: convert it as the message says, then load it."""
    monkeypatch.chdir(tmp_path)
    stand_in = "from pickle import *\n__version__ = '1.0'\n\ndef extend(use_dill):\n    pass\n"
    (tmp_path / "dill.py").write_text(stand_in)
    state = published(**COHEN)
    torch.save({"model": prefixed("module.model.", state), "args": argparse.Namespace(lr=0.1)}, "c.pt")
    with pytest.raises(ValueError, match=r"convert it once") as caught:
        read_checkpoint("c.pt")
    program = str(caught.value).split('python -c "')[1].removesuffix('"')
    subprocess.run([sys.executable, "-c", program], check=True)
    close(logits("converted.pt", CifarResNet(**PROJECTION), None), reference(state, IMAGES))


def test_reference_is_not_the_network_itself():
    """The hand-written reference agrees with the module on random weights, so that it can judge it."""
    network = CifarResNet(**PROJECTION).eval()
    state = published(**COHEN)
    network.load_state_dict(state)
    with torch.no_grad():
        close(network(IMAGES), reference(state, IMAGES))
    assert isinstance(network, nn.Module)
