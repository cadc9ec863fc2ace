"""The networks: published sizes, gradients of every parameter, independence of the batch."""

import pytest
import torch
from torch import nn

from robustsmooth.commands import explain
from robustsmooth.models import (
    CifarResNet,
    SmallCNN,
    WideResNet,
    build_classifier,
    resnet32x32,
    timm_network,
    torchvision_network,
)


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


# Exact counts: by hand for the 6n+2 family (see `count_by_hand`), and as published for the others.
PUBLISHED = {
    "ResNet-20": (lambda: CifarResNet(20, 10), 269_722),  # "0.27M", He et al. 2016, Table 6
    "ResNet-32": (lambda: CifarResNet(32, 10), 464_154),  # "0.46M"
    "ResNet-44": (lambda: CifarResNet(44, 10), 658_586),  # "0.66M"
    "ResNet-56": (lambda: CifarResNet(56, 10), 853_018),  # "0.85M"
    "ResNet-110": (lambda: CifarResNet(110, 10), 1_727_962),  # "1.7M"
    "ResNet-110, Cohen's": (lambda: CifarResNet(110, 10, shortcut="projection"), 1_730_714),
    "ResNet-18, 32x32": (lambda: resnet32x32(18, 10), 11_173_962),
    "ResNet-34, 32x32": (lambda: resnet32x32(34, 10), 21_282_122),
    "WRN-16-4": (lambda: WideResNet(16, 4, 10), 2_748_890),  # "2.7M"
    "WRN-28-10": (
        lambda: WideResNet(28, 10, 10),
        36_479_194,
    ),  # "36.5M", Zagoruyko and Komodakis 2016, Table 4
    "ResNet-50": (lambda: torchvision_network("resnet50", 1000), 25_557_032),  # "25.6M", torchvision
    "digits": (lambda: SmallCNN(10), 65_834),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_size(name):
    make, count = PUBLISHED[name]
    with torch.device("meta"):  # shapes only
        assert parameters(make()) == count


def count_by_hand(depth, classes, projection):
    """Convolutions without bias, two numbers per channel and BatchNorm, a linear layer."""
    n = (depth - 2) // 6
    total, inside = 3 * 16 * 9 + 2 * 16, 16
    for outside in (16, 32, 64):
        for _ in range(n):
            total += inside * outside * 9 + outside * outside * 9 + 4 * outside
            if projection and inside != outside:
                total += inside * outside + 2 * outside
            inside = outside
    return total + 64 * classes + classes


@pytest.mark.parametrize("depth", [8, 20, 56, 110])
@pytest.mark.parametrize("shortcut", ["identity", "projection"])
def test_size_by_hand(depth, shortcut):
    network = CifarResNet(depth, num_classes=100, shortcut=shortcut)
    assert parameters(network) == count_by_hand(depth, 100, shortcut == "projection")
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len([layer for layer in layers if getattr(layer, "kernel_size", 0) != (1, 1)]) == depth


SMALL = {
    "digits": (lambda: SmallCNN(10), (1, 8, 8)),
    "mnist": (lambda: SmallCNN(10), (1, 28, 28)),
    "resnet": (lambda: CifarResNet(20, 10), (3, 32, 32)),
    "resnet projection": (lambda: CifarResNet(14, 10, shortcut="projection"), (3, 32, 32)),
    "resnet grey": (lambda: CifarResNet(8, 10, in_channels=1), (1, 28, 28)),
    "resnet 32x32": (lambda: resnet32x32(18, 10), (3, 32, 32)),
    "resnet 32x32 grey": (lambda: resnet32x32(18, 10, in_channels=1), (1, 32, 32)),
    "wide": (lambda: WideResNet(10, 2, 10), (3, 32, 32)),
    "torchvision": (lambda: torchvision_network("resnet18", 10), (3, 64, 64)),
    "timm": (lambda: timm_network("resnet10t", 10), (3, 64, 64)),
}


@pytest.fixture(params=SMALL)
def network_and_shape(request):
    if request.param == "timm":
        pytest.importorskip("timm")
    make, shape = SMALL[request.param]
    return make(), shape


def settle(network, shape):
    """A forward pass in training, so that BatchNorm has its own statistics."""
    network.train()(torch.randn(16, *shape))
    return network.eval()


def test_the_same_alone_or_in_a_batch(network_and_shape):
    network, shape = network_and_shape
    settle(network, shape)
    images = torch.randn(5, *shape)
    with torch.no_grad():
        together = network(images)
        alone = torch.cat([network(image[None]) for image in images])
        assert together.shape == (5, 10)
        assert torch.allclose(together, alone, atol=1e-4 * together.abs().max())
        last = network.to(memory_format=torch.channels_last)(
            images.contiguous(memory_format=torch.channels_last)
        )
        assert torch.allclose(together, last, atol=1e-4 * together.abs().max())


def test_gradient_reaches_every_parameter_and_the_image(network_and_shape):
    network, shape = network_and_shape
    for name, parameter in network.named_parameters():
        if name.endswith("weight") and not parameter.any():
            nn.init.ones_(parameter)  # timm initialises its residual branches with zero
    images = torch.randn(8, *shape, requires_grad=True)
    nn.functional.cross_entropy(network(images), torch.arange(8)).backward()
    assert images.grad.abs().amax(dim=(1, 2, 3)).min() > 0
    for name, parameter in network.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_activations_keep_their_scale_at_the_start():
    """He initialisation: activations neither vanish nor explode in a deep network."""
    logits = CifarResNet(110, 10).train()(torch.randn(16, 3, 32, 32))
    assert 0.05 < logits.std() < 20


def test_identity_shortcut_by_hand():
    """Option A of He et al.: every second pixel, the channels between zeros."""
    network = CifarResNet(8, 10).eval()
    features = torch.rand(2, 16, 8, 8)
    shortcut = network.layer2[0].downsample(features)
    assert shortcut.shape == (2, 32, 4, 4)
    assert torch.equal(shortcut[:, 8:24], features[:, :, ::2, ::2])
    assert shortcut[:, :8].abs().sum() + shortcut[:, 24:].abs().sum() == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CifarResNet(21, 10), r"`depth` must be 6n \+ 2 \(20, 32, 44, 56, 110...\), got 21"),
        (lambda: CifarResNet(20, 10, shortcut="A"), "`shortcut` must be 'identity' or 'projection', got 'A'"),
        (lambda: WideResNet(27, 10, 10), r"`depth` must be 6n \+ 4"),
        (lambda: WideResNet(28, 0, 10), "`width` must be at least 1"),
        (lambda: resnet32x32(20, 10), "`depth` must be 18, 34, 50, 101 or 152, got 20"),
        (
            lambda: torchvision_network("resnet51", 1000),
            "torchvision has no network 'resnet51' .* did you mean resnet50",
        ),
        (lambda: torchvision_network("inception_v3", 10), "torchvision's inception_v3 has .* use timm's"),
        (
            lambda: torchvision_network("googlenet", 10),
            "torchvision's googlenet has .* use timm's inception_v3",
        ),
        (
            lambda: timm_network("vit_smal_patch16_224", 1000),
            "timm has no network .* did you mean vit_small_patch16_224",
        ),
    ],
)
def test_bad_choices(make, message):
    if "timm" in message:
        pytest.importorskip("timm")
    with pytest.raises(ValueError, match=message):
        make()


def test_timm_missing(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        timm_network("resnet18", 1000)
    said, status = explain(caught.value)
    assert (said, status) == ("timm is not installed; install it with: pip install 'robustsmooth[timm]'", 1)


def test_timm_image_size():
    pytest.importorskip("timm")
    network = timm_network("vit_tiny_patch16_224", 7, image_size=32)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


class TestBuildClassifier:
    def test_normalisation_is_the_first_layer(self):
        mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
        network = CifarResNet(8, 10).eval()
        classifier = build_classifier(network, 10, {"mean": mean, "std": std}).eval()
        images = torch.rand(3, 3, 32, 32)
        by_hand = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        assert torch.equal(classifier(images), network(by_hand))
        assert {"normalize.mean", "normalize.std"} <= classifier.state_dict().keys()
        assert not [name for name, _ in classifier.named_parameters() if "normalize" in name]

    def test_by_name_or_none(self):
        by_name = build_classifier(CifarResNet(8, 10), 10, "cifar10").normalize
        assert by_name.std.flatten().tolist() == pytest.approx([0.2023, 0.1994, 0.2010])
        center = build_classifier(CifarResNet(8, 10), 10, "cifar10_center").normalize
        assert center.std.flatten().tolist() == [1, 1, 1]
        images = torch.rand(2, 3, 32, 32)
        network = CifarResNet(8, 10).eval()
        for none in (None, "none"):
            assert torch.equal(build_classifier(network, 10, none).eval()(images), network(images))

    def test_channels_last(self):
        network = CifarResNet(8, 10).eval()
        images = torch.rand(4, 3, 32, 32)
        before = build_classifier(network, 10, "cifar10").eval()(images)
        after = build_classifier(network, 10, "cifar10", channels_last=True).eval()
        assert network.conv1.weight.is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(after(images), before, atol=1e-4)

    @pytest.mark.parametrize(
        ("normalization", "message"),
        [
            ("cifar", "`normalization` must be one of none, cifar10,"),
            ({"mean": [0.0]}, "must have exactly mean and std, got mean"),
            ({"mean": [0.0], "std": [0.0]}, "`std` must be positive"),
        ],
    )
    def test_bad_normalisation(self, normalization, message):
        with pytest.raises(ValueError, match=message):
            build_classifier(CifarResNet(8, 10), 10, normalization)

    def test_networks_of_torchvision_take_three_channels(self):
        grey = {"mean": [0.3], "std": [0.4]}
        with pytest.raises(
            ValueError, match=r"resnet18 takes images of 3 channels, .* have 1; choose model=timm"
        ):
            build_classifier(torchvision_network("resnet18", 10), 10, grey)
        build_classifier(resnet32x32(18, 10, in_channels=1), 10, grey)
