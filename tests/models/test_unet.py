"""The UNet of diffusion models: its layers against a written list, its output against a slow reference."""

import numpy as np
import pytest
import torch
from torch import nn

from robustsmooth.instantiation import instantiate
from robustsmooth.models import OneStepDiffusion, UNet, load_denoiser
from robustsmooth.models.unet import timestep_features

# cifar10_uncond_50M_500K of openai/improved-diffusion: width 128, multipliers 1 2 2 2, 3 residual blocks,
# attention at 16x16 and 8x8, a learned variance. What a line stands for is in LAYERS.
CIFAR10 = """
input_blocks.0.0 convolution 3 128
input_blocks.1.0 residual 128 128
input_blocks.2.0 residual 128 128
input_blocks.3.0 residual 128 128
input_blocks.4.0.op convolution 128 128
input_blocks.5.0 residual 128 256
input_blocks.5.1 attention 256
input_blocks.6.0 residual 256 256
input_blocks.6.1 attention 256
input_blocks.7.0 residual 256 256
input_blocks.7.1 attention 256
input_blocks.8.0.op convolution 256 256
input_blocks.9.0 residual 256 256
input_blocks.9.1 attention 256
input_blocks.10.0 residual 256 256
input_blocks.10.1 attention 256
input_blocks.11.0 residual 256 256
input_blocks.11.1 attention 256
input_blocks.12.0.op convolution 256 256
input_blocks.13.0 residual 256 256
input_blocks.14.0 residual 256 256
input_blocks.15.0 residual 256 256
middle_block.0 residual 256 256
middle_block.1 attention 256
middle_block.2 residual 256 256
output_blocks.0.0 residual 512 256
output_blocks.1.0 residual 512 256
output_blocks.2.0 residual 512 256
output_blocks.3.0 residual 512 256
output_blocks.3.1.conv convolution 256 256
output_blocks.4.0 residual 512 256
output_blocks.4.1 attention 256
output_blocks.5.0 residual 512 256
output_blocks.5.1 attention 256
output_blocks.6.0 residual 512 256
output_blocks.6.1 attention 256
output_blocks.7.0 residual 512 256
output_blocks.7.1 attention 256
output_blocks.7.2.conv convolution 256 256
output_blocks.8.0 residual 512 256
output_blocks.8.1 attention 256
output_blocks.9.0 residual 512 256
output_blocks.9.1 attention 256
output_blocks.10.0 residual 512 256
output_blocks.10.1 attention 256
output_blocks.11.0 residual 384 256
output_blocks.11.1 attention 256
output_blocks.11.2.conv convolution 256 256
output_blocks.12.0 residual 384 128
output_blocks.13.0 residual 256 128
output_blocks.14.0 residual 256 128
output_blocks.15.0 residual 256 128
out.0 norm 128
out.2 convolution 128 6
time_embed.0 linear 128 512
time_embed.2 linear 512 512
"""


def layers(kind, *sizes):
    """The parameters of a line of the list, with their shapes."""
    if kind == "residual":
        inner, outer = sizes
        shapes = {"in_layers.0": (inner,), "in_layers.2": (outer, inner, 3, 3), "out_layers.0": (outer,)}
        shapes |= {"emb_layers.1": (2 * outer, 512), "out_layers.3": (outer, outer, 3, 3)}
        if inner != outer:
            shapes["skip_connection"] = (outer, inner, 1, 1)
    elif kind == "attention":
        (size,) = sizes
        shapes = {"norm": (size,), "qkv": (3 * size, size, 1), "proj_out": (size, size, 1)}
    else:
        shape = {"convolution": (*sizes[::-1], 3, 3), "linear": sizes[::-1], "norm": sizes}[kind]
        shapes = {"": shape}
    return shapes


def test_the_layers_are_those_of_the_published_file():
    expected = {}
    for line in CIFAR10.strip().splitlines():
        name, kind, *sizes = line.split()
        for part, shape in layers(kind, *map(int, sizes)).items():
            key = f"{name}.{part}".rstrip(".")
            expected |= {f"{key}.weight": shape, f"{key}.bias": shape[:1]}
    with torch.device("meta"):
        network = UNet()
    assert {key: tuple(value.shape) for key, value in network.state_dict().items()} == expected


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("diffusion_cifar10", 52.5),  # "50M" in the name of the file
        ("diffusion_imagenet64", 121.1),  # "100M" in the name of the file
        ("diffusion_imagenet", 552.8),  # as papers that use the file state it
    ],
)
def test_the_configs_have_the_published_numbers_of_parameters(name, millions, compose):
    words = ("method=gaussian", "data=cifar10", f"+denoiser@model.denoiser={name}")
    config = compose("train", *words, "model.denoiser.sigma=0.25").model.denoiser
    with torch.device("meta"):
        network = instantiate(config.network)
    assert sum(value.numel() for value in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
    assert {"schedule", "timesteps", "rescale_timesteps"} <= config.keys()


# ------------------------------------------------------------------ the slow reference, NumPy in float64


def normalised(features, weight, bias):
    """GroupNorm with 32 groups."""
    grouped = features.reshape(len(features), 32, -1)
    mean, variance = grouped.mean(2, keepdims=True), grouped.var(2, keepdims=True)
    flat = ((grouped - mean) / np.sqrt(variance + 1e-5)).reshape(features.shape)
    shape = (1, -1, *[1] * (features.ndim - 2))
    return flat * weight.reshape(shape) + bias.reshape(shape)


def convolved(features, weight, bias, stride=1):
    """A 3x3 convolution at zero padding, one offset after the other."""
    high, wide = features.shape[2:]
    padded = np.pad(features, ((0, 0), (0, 0), (1, 1), (1, 1)))
    total = sum(
        np.einsum("oc,bchw->bohw", weight[:, :, i, j], padded[:, :, i : i + high, j : j + wide])
        for i in range(3)
        for j in range(3)
    )
    return (total + bias.reshape(1, -1, 1, 1))[:, :, ::stride, ::stride]


def silu(values):
    return values / (1 + np.exp(-values))


def halved(features):
    return (
        features[..., ::2, ::2]
        + features[..., 1::2, ::2]
        + features[..., ::2, 1::2]
        + features[..., 1::2, 1::2]
    ) / 4


def doubled(features):
    return features.repeat(2, axis=2).repeat(2, axis=3)


def residual(features, embedding, get, resample=lambda same: same):
    hidden = resample(silu(normalised(features, *get("in_layers.0"))))
    hidden = convolved(hidden, *get("in_layers.2"))
    weight, bias = get("emb_layers.1")
    scale, shift = np.split((silu(embedding) @ weight.T + bias)[:, :, None, None], 2, axis=1)
    hidden = silu(normalised(hidden, *get("out_layers.0")) * (1 + scale) + shift)
    hidden = convolved(hidden, *get("out_layers.3"))
    shortcut = resample(features)
    if get("skip_connection") is not None:
        weight, bias = get("skip_connection")
        shortcut = np.einsum("oc,bchw->bohw", weight[:, :, 0, 0], shortcut) + bias.reshape(1, -1, 1, 1)
    return shortcut + hidden


def attention(features, get, heads):
    """Place by place: a head's 3c channels are its queries, its keys, its values."""
    batch, size, *_ = features.shape
    flat = features.reshape(batch, size, -1)
    weight, bias = get("qkv")
    every = np.einsum("oc,bct->bot", weight[:, :, 0], normalised(flat, *get("norm"))) + bias[:, None]
    each = size // heads
    seen = np.zeros_like(flat)
    for head in range(heads):
        first = 3 * each * head
        q, k, v = (every[:, first + at * each : first + (at + 1) * each] for at in range(3))
        for place in range(flat.shape[2]):
            scores = (q[:, :, place, None] * k).sum(1) / np.sqrt(each)
            shares = np.exp(scores - scores.max(1, keepdims=True))
            shares /= shares.sum(1, keepdims=True)
            seen[:, head * each : (head + 1) * each, place] = (v * shares[:, None]).sum(2)
    weight, bias = get("proj_out")
    projected = np.einsum("oc,bct->bot", weight[:, :, 0], seen) + bias[:, None]
    return (flat + projected).reshape(features.shape)


def tiny(**options):
    torch.manual_seed(2)
    given = {"width": 32, "multipliers": (1, 2), "blocks": 1, "attention": (2,), "heads": 2, **options}
    network = UNet(3, **given).double().eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.15)
    return network


def twin(network, images, times, heads, block=False):
    """The whole network of `tiny`, stage by stage, from its tensors alone."""
    tensors = {key: value.numpy() for key, value in network.state_dict().items()}

    def getter(prefix):
        def get(name):
            key = f"{prefix}.{name}".rstrip(".")
            return (tensors[f"{key}.weight"], tensors[f"{key}.bias"]) if f"{key}.weight" in tensors else None

        return get

    def linear(values, name):
        weight, bias = getter(name)("")
        return values @ weight.T + bias

    angles = times[:, None] * np.exp(-np.log(10_000) * np.arange(16) / 16)
    waves = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    embedding = linear(silu(linear(waves, "time_embed.0")), "time_embed.2")

    def block_at(features, name, resample=lambda same: same):
        return residual(features, embedding, getter(name), resample)

    def attend(features, name):
        return attention(features, getter(name), heads)

    zero = convolved(images, *getter("input_blocks.0.0")(""))
    one = block_at(zero, "input_blocks.1.0")
    if block:
        two = block_at(one, "input_blocks.2.0", halved)
    else:
        two = convolved(one, *getter("input_blocks.2.0.op")(""), stride=2)
    three = attend(block_at(two, "input_blocks.3.0"), "input_blocks.3.1")
    features = attend(block_at(three, "middle_block.0"), "middle_block.1")
    features = block_at(features, "middle_block.2")
    features = block_at(np.concatenate([features, three], 1), "output_blocks.0.0")
    features = attend(features, "output_blocks.0.1")
    features = block_at(np.concatenate([features, two], 1), "output_blocks.1.0")
    features = attend(features, "output_blocks.1.1")
    if block:
        features = block_at(features, "output_blocks.1.2", doubled)
    else:
        features = convolved(doubled(features), *getter("output_blocks.1.2.conv")(""))
    features = block_at(np.concatenate([features, one], 1), "output_blocks.2.0")
    features = block_at(np.concatenate([features, zero], 1), "output_blocks.3.0")
    return convolved(silu(normalised(features, *getter("out.0")(""))), *getter("out.2")(""))


@pytest.mark.parametrize("block", [False, True])
def test_it_is_its_slow_twin(block):
    options = {"resampling": "block", "heads": None, "head_channels": 16} if block else {}
    network = tiny(**options)
    images = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    times = torch.tensor([3.0, 71.25])
    with torch.no_grad():
        found = network(images, times)
        other = network.to(memory_format=torch.channels_last)(images, times)  # as classifiers run
    assert found.shape == (2, 6, 4, 4)
    torch.testing.assert_close(other, found)
    expected = twin(network, images.numpy(), times.double().numpy(), heads=4 if block else 2, block=block)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)  # the angles are float32
    assert not np.allclose(found[0], found[1], atol=0.01)


def test_the_features_of_a_timestep():
    found = timestep_features(torch.tensor([0, 1000]), 128).double()
    torch.testing.assert_close(found[0], torch.cat([torch.ones(64), torch.zeros(64)]).double())
    assert found[1, 0] == pytest.approx(np.cos(1000), abs=1e-4)
    assert found[1, 127] == pytest.approx(np.sin(1000 * 1e4 ** (-63 / 64)), abs=1e-5)


# ------------------------------------------------------------------ in front of a classifier


@pytest.mark.parametrize("prefix", ["", "module.", "network.denoiser.network."])
def test_a_published_file_or_a_run_of_ours_loads(prefix, tmp_path):
    theirs, ours = tiny().float(), OneStepDiffusion(tiny().float(), 0.25, "cosine", 4000)
    nn.init.normal_(theirs.out[2].weight)
    state = {f"{prefix}{key}": value for key, value in theirs.state_dict().items()}
    torch.save(state, tmp_path / "ema.pt")
    load_denoiser(ours, str(tmp_path / "ema.pt"))
    assert all(
        torch.equal(value, theirs.state_dict()[key]) for key, value in ours.network.state_dict().items()
    )
    del state[f"{prefix}time_embed.0.bias"]
    torch.save(state, tmp_path / "ema.pt")
    with pytest.raises(ValueError, match=r"1 keys missing in the file \(time_embed\.0\.bias\)"):
        load_denoiser(ours, str(tmp_path / "ema.pt"))


def test_the_command_certifies_behind_a_published_denoiser(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = ["trainer.max_epochs=1", "trainer.limit_train_batches=2", "model.network.width=4"]
    call("train", "method=natural", *quick, "hydra.run.dir=natural")
    size = {"width": 32, "multipliers": [1, 2], "blocks": 1, "attention": [2], "heads": 2}
    torch.save(UNet(1, **size).state_dict(), "ema.pt")
    words = [
        "checkpoint=natural/checkpoints/last.ckpt",
        "data=digits",
        "model=small_cnn",
        "model.network.width=4",
    ]
    words += ["+denoiser@model.denoiser=diffusion_cifar10", "model.denoiser_checkpoint=ema.pt"]
    words += [f"model.denoiser.network.{key}={value}".replace(" ", "") for key, value in size.items()]
    count = ["certificate.n0=4", "certificate.n=8", "data.subset.max=2"]
    call("certify", *words, *count, "smoothing.sigma=0.25", "hydra.run.dir=out")
    assert len((tmp_path / "out" / "certify.tsv").read_text().splitlines()) == 3


def test_the_level_of_a_denoiser_is_given_to_an_export(call, gaussian, tmp_path):
    """A certification has one."""
    torch.save({}, tmp_path / "ema.pt")
    words = [f"checkpoint={gaussian}", "+denoiser@model.denoiser=diffusion_cifar10"]
    words += [f"model.denoiser_checkpoint={tmp_path}/ema.pt", f"hydra.run.dir={tmp_path}/out"]
    text = call("export", *words, status=1)
    assert "`model.denoiser.sigma` must be given: OneStepDiffusion needs it" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 48}, "`width` of a UNet must be a multiple of 32, got 48"),
        ({"blocks": 0}, "needs `multipliers` and `blocks` of at least 1"),
        ({"heads": None}, "either `heads` or `head_channels`"),
        ({"heads": 0}, "either `heads` or `head_channels`, at least 1"),
        ({"heads": 3}, "the heads of a UNet must divide its 64 channels, got 3"),
        ({"heads": None, "head_channels": 48}, "the heads of a UNet must divide its 64 channels"),
        ({"resampling": "bilinear"}, "must be convolution or block"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options)
