"""The engine refuses wrong input before the first vote, in one sentence."""

import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from robustsmooth.models import Normalize
from robustsmooth.smoothing import (
    Cohen,
    GaussianNoise,
    Numerics,
    Predict,
    SmoothedClassifier,
    VoteEngine,
    check_images,
    checks,
)
from tests.comparing import written

NOISE = GaussianNoise(0.25)
CERTIFICATE = Cohen(n=100, batch_size=16)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()


def images(count=3):
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def broken(change):
    batch = images()
    change(batch)
    return batch


@pytest.mark.parametrize(
    ("given", "kind", "sentence"),
    [
        (images() * 255, ValueError, r"in \[0, 1\], got values from .* to 25\d"),
        ((images() - 0.5) / 0.25, ValueError, r"in \[0, 1\], got values from -"),
        (images() + 1e-3, ValueError, r"in \[0, 1\]"),
        (broken(lambda batch: batch[1, 0, 0].fill_(math.nan)), ValueError, "finite and in .*, got NaN"),
        (broken(lambda batch: batch[1, 0, 0].fill_(math.inf)), ValueError, "finite and in"),
        ((images() * 255).to(torch.uint8), TypeError, r"got torch.uint8; 8-bit .* images.float\(\) / 255"),
        (torch.ones(3, 3, 8, 8, dtype=torch.int64), TypeError, "got torch.int64"),
        (images().numpy(), TypeError, "got ndarray; see torch.from_numpy"),
        ([0.5], TypeError, "got list"),
        (images()[0], ValueError, r"got the shape \(3, 8, 8\)"),
        (
            torch.rand(3, 1, 8, 8),
            ValueError,
            r"images of shape \(C, H, W\) = \(1, 8, 8\)",
        ),
        (
            torch.rand(3, 3, 9, 9),
            ValueError,
            r"images of shape \(C, H, W\) = \(3, 9, 9\)",
        ),
        (torch.rand(3, 8, 8, 3), ValueError, "does not take float32 images of shape"),
    ],
)
def test_wrong_images_are_refused_in_one_sentence(given, kind, sentence):
    classifier = SmoothedClassifier(network(), NOISE)
    for call in (
        lambda: classifier.certify(given, CERTIFICATE),
        lambda: classifier.predict(given, Predict(n=50)),
        lambda: VoteEngine(network(), NOISE, CERTIFICATE).submit(given, torch.arange(3)),
    ):
        with pytest.raises(kind, match=sentence) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_the_ends_of_the_range_and_an_empty_batch_are_accepted():
    check_images(torch.tensor([0.0, 1.0]).view(1, 1, 1, 2))
    check_images(torch.rand(0, 3, 8, 8))
    assert SmoothedClassifier(network(), NOISE).certify(torch.rand(0, 3, 8, 8), CERTIFICATE) == []


def test_votes_on_no_images_are_refused():
    with pytest.raises(ValueError, match="`images` must hold at least one image"):
        SmoothedClassifier(network(), NOISE).votes(torch.rand(0, 3, 8, 8), 10)


def test_numbers_of_every_precision_are_certified_in_single_precision():
    plain = SmoothedClassifier(network(), NOISE).certify(images().half().float(), CERTIFICATE)
    for dtype in (torch.float64, torch.float16):
        given = SmoothedClassifier(network(), NOISE).certify(images().half().to(dtype), CERTIFICATE)
        assert written(given) == written(plain)


class Odd(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, batch):
        return self.answer(batch.flatten(1)[:, :2])


def keeps_a_result():
    odd = Odd(lambda scores: scores)
    odd.kept = torch.ones(1, requires_grad=True) * 2
    return odd


@pytest.mark.parametrize(
    ("made", "kind", "sentence"),
    [
        (
            Odd(lambda scores: scores[:, :1]),
            ValueError,
            r"at least two classes, .* \(8, 1\).*cat\(",
        ),
        (Odd(lambda scores: scores + np.random.rand()), ValueError, r"manual_seed does not determine"),
        (keeps_a_result(), ValueError, r"cannot be copied .*Detach tensors"),
        (network().double(), ValueError, r"does not take float32 images"),
        (lambda batch: batch.flatten(1), TypeError, r"must be a torch\.nn\.Module .*got a function"),
    ],
)
def test_networks_that_cannot_be_certified_are_refused_with_the_reason(made, kind, sentence):
    with pytest.raises(kind, match=sentence) as caught:
        SmoothedClassifier(made, NOISE).certify(images(), CERTIFICATE)
    assert "\n" not in str(caught.value)


def test_a_scripted_network_has_the_same_certificates():
    scripted = torch.jit.script(network())
    plain = SmoothedClassifier(network(), NOISE).certify(images(), CERTIFICATE)
    assert written(SmoothedClassifier(scripted, NOISE).certify(images(), CERTIFICATE)) == written(plain)


class Member(nn.Module):
    """Answers one of two classes in each pass, by chance."""

    def __init__(self, coin):
        super().__init__()
        self.coin = coin

    def forward(self, batch):
        return nn.functional.one_hot(torch.full((len(batch),), int(self.coin())), 2).float()


def test_randomness_is_noticed_where_two_passes_happen_to_agree():
    for seed in range(12):
        torch.manual_seed(seed)
        classifier = SmoothedClassifier(Member(lambda: torch.rand(()) < 0.1), NOISE)
        classifier.certify(images(), CERTIFICATE)
        assert classifier.random_inside is True


@pytest.mark.parametrize("coin", [lambda: random.random() < 0.1, lambda: np.random.rand() < 0.1])
def test_random_numbers_that_cannot_be_repeated_are_refused_where_passes_happen_to_agree(coin):
    for _ in range(12):
        with pytest.raises(ValueError, match=r"torch\.manual_seed does not determine"):
            SmoothedClassifier(Member(coin), NOISE).certify(images(), CERTIFICATE)


def test_another_threads_random_numbers_during_one_pass_do_not_matter():
    passes = []

    def scores(values):
        passes.append(values)
        if len(passes) == 1:
            random.random()
        return values

    SmoothedClassifier(Odd(scores), NOISE).certify(images(), CERTIFICATE)
    assert len(passes) > 1


@pytest.mark.parametrize("kind", ["mps", "xpu"])
def test_the_generator_of_any_device_is_watched(kind, monkeypatch):
    state = torch.zeros(1, dtype=torch.uint8)
    module = SimpleNamespace(get_rng_state=lambda *device: state + len(device))
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    (_, own), _ = checks._generators(torch.device(kind))
    assert own == bytes([kind == "xpu"])  # torch.mps.get_rng_state takes no device


@pytest.mark.parametrize("noise", [0.25, None, "gaussian"])
def test_a_number_in_place_of_a_noise_is_refused(noise):
    with pytest.raises(TypeError, match=r"must be a Noise such as GaussianNoise\(0.25\)"):
        SmoothedClassifier(network(), noise)
    with pytest.raises(TypeError, match="must be a Noise"):
        VoteEngine(network(), noise, CERTIFICATE)


def test_one_channel_is_not_used_as_three():
    normalized = nn.Sequential(Normalize([0.5] * 3, [0.2] * 3), network())
    with pytest.raises(ValueError, match="takes images of 3 channels, got 1"):
        SmoothedClassifier(normalized, NOISE).certify(torch.rand(2, 1, 8, 8), CERTIFICATE)


def test_every_image_needs_an_index_and_a_label():
    engine = VoteEngine(network(), NOISE, CERTIFICATE)
    with pytest.raises(ValueError, match="3 images, 2 indices and 2 labels"):
        engine.submit(images(), torch.arange(2))


class BatchMean(nn.Module):
    """Answers that depend on the mean over the batch."""

    def __init__(self):
        super().__init__()
        self.inner = network()

    def forward(self, batch):
        logits = self.inner(batch)
        return logits - logits.mean(0)


class Neighbour(BatchMean):
    """Adds a small multiple of the row before."""

    def forward(self, batch):
        logits = self.inner(batch)
        return logits + 0.1 * logits.roll(1, 0)


def batch_norm():
    return nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), network())


@pytest.mark.parametrize("make", [BatchMean, Neighbour, batch_norm])
@pytest.mark.parametrize("random_inside", [None, False, True])
def test_a_network_whose_rows_depend_on_each_other_is_refused(make, random_inside):
    engine = VoteEngine(make(), NOISE, CERTIFICATE, random_inside=random_inside)
    with pytest.raises(ValueError, match="depends on the other images of the batch"):
        engine.submit(images(), torch.arange(3))


@pytest.mark.parametrize(
    "make",
    [
        network,
        lambda: nn.Sequential(nn.BatchNorm2d(3), network()),
        lambda: nn.Sequential(nn.InstanceNorm2d(3), network()),
        lambda: nn.Sequential(nn.GroupNorm(1, 3), network()),
    ],
)
def test_networks_that_treat_images_separately_are_accepted(make):
    for precision in ("32-true", "bf16-mixed"):
        classifier = SmoothedClassifier(make().eval(), NOISE, numerics=Numerics(precision))
        assert len(classifier.certify(images(), CERTIFICATE)) == 3
        assert classifier.random_inside is False


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_network_without_answers_is_refused_before_the_first_vote(value):
    class Diverged(nn.Module):
        def forward(self, batch):
            return torch.full((len(batch), 3), value)

    with pytest.raises(ValueError, match="gives no answer"):
        SmoothedClassifier(Diverged(), NOISE).certify(images(), CERTIFICATE)


@pytest.mark.parametrize(
    "output", [lambda batch: batch, lambda batch: {"logits": batch}, lambda batch: batch[:1, 0, 0]]
)
def test_outputs_that_are_not_logits_are_refused(output):
    class Odd(nn.Module):
        def forward(self, batch):
            return output(batch)

    with pytest.raises((TypeError, ValueError), match=r"must return logits \(B, K\), got"):
        SmoothedClassifier(Odd(), NOISE).certify(images(), CERTIFICATE)
