"""SmoothMix, CAT-RS and Sun et al.: the step is the formula; images are dropped and drawn as stated."""

from copy import deepcopy
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import beta, norm
from torch import nn

from robustsmooth.attacks import PGD, NoisePGD, PlugIn, project
from robustsmooth.data import Batch, DigitsDataModule, TrainingSampler
from robustsmooth.losses import bottom_cross_entropy, mixing_divergence, worst_divergence
from robustsmooth.methods import AdversarialModule, CATRSModule, SmoothMixModule, Sun2025Module
from robustsmooth.methods.sun2025 import certainty_weights
from robustsmooth.smoothing.addressing import BatchRandomness

SGD = partial(torch.optim.SGD, lr=0.1)
MIX = PGD(norm="l2", epsilon=float("inf"), steps=3, step_size=0.4, objective=PlugIn())
NOISE = NoisePGD(steps=2, step_size=0.2, keep="first_success")
MOMENTS = NoisePGD(steps=2, epsilon=0.5, restore="moments")


class Network(nn.Module):
    num_classes = 3

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, images):
        return self.layers(images)


def batch(size=6):
    images = torch.rand(size, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    return Batch(images, torch.arange(size) % 3, torch.arange(size))


def copies_of(network, images, noises):
    return torch.stack([network(images + noise) for noise in noises])


def at_epoch(monkeypatch, kind, epoch):
    monkeypatch.setattr(kind, "current_epoch", epoch)


# ------------------------------------------------------------------ SmoothMix


@pytest.mark.parametrize("one_step", [False, True])
def test_smoothmix_is_its_formula(one_step, monkeypatch):
    method = SmoothMixModule(
        Network(), SGD, sigma=0.2, attack=MIX, copies=2, mix_weight=3.0, one_step=one_step, warmup_epochs=10
    )
    at_epoch(monkeypatch, SmoothMixModule, 3)
    images, labels, _ = batch()
    noises = method.noises(images, 2)
    path = [images]
    for _ in range(3):  # plain steps along the gradient of -log of the mean softmax
        leaf = path[-1].clone().requires_grad_(True)
        mean = copies_of(method.network, leaf, noises).softmax(2).mean(0)
        (gradient,) = torch.autograd.grad(-mean.gather(1, labels[:, None]).log().sum(), leaf)
        unit = gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        path.append((path[-1] + 0.4 * unit).clamp(0, 1))
    start = project(path[1], images, 0.4 * 0.4, "l2") if one_step else images  # 4 of 10 epochs of warm-up
    u = 0.5 * method.randomness("mix").uniform(images[:, 0, 0, 0])[0]
    mixed = start + u.view(-1, 1, 1, 1) * (path[-1] - start)
    logits = copies_of(method.network, start, noises)
    divergence = mixing_divergence(logits, copies_of(method.network, mixed, noises), labels, u)
    expected = (
        nn.functional.cross_entropy(logits.flatten(0, 1), labels.repeat(2)) + 3 * 0.4 * divergence.mean()
    )
    assert divergence.sum() > 0
    torch.testing.assert_close(method.training_loss(batch())["loss"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attack": PGD(norm="linf", epsilon=1.0, step_size=0.1)}, "PGD in l2"),
        ({"attack": PGD(norm="l2", epsilon=1.0)}, r"`attack\.step_size`"),
        ({"attack": NOISE}, "moves the noise"),
        ({"attack": replace(MIX, sigma=0.3)}, r"`attack\.sigma` has no effect"),
        ({"attack": PGD(norm="l2", epsilon=1.0, step_size=0.1), "one_step": True}, r"must be \.inf"),
        ({"mix_weight": -1.0}, "`method.mix_weight`"),
        ({"warmup_epochs": -1}, "`method.warmup_epochs`"),
        ({"copies": 0}, "`method.copies`"),
        ({"sigma": 0.0}, "`method.sigma` must be positive"),
    ],
)
def test_smoothmix_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        SmoothMixModule(Network(), SGD, **{"sigma": 0.2, "attack": MIX, **options})


def test_pgd_without_a_budget_needs_a_step_size():
    with pytest.raises(ValueError, match="with an infinite `epsilon` PGD needs a `step_size`"):
        PGD(norm="l2", epsilon=float("inf"))


# ------------------------------------------------------------------ CAT-RS


@pytest.fixture
def votes(tmp_path):
    rows = [f"{index}\t{index % 3}:{9 - index},{(index + 1) % 3}:{1 + index}" for index in range(6)]
    (tmp_path / "predict.tsv").write_text("\n".join(["idx\tcounts", *rows]) + "\n")
    return tmp_path


def cat_rs(votes, **options):
    return CATRSModule(
        Network(), SGD, **{"sigma": 0.2, "attack": MOMENTS, "targets": str(votes), "copies": 3, **options}
    )


@pytest.mark.parametrize("mask", [False, True])
def test_cat_rs_is_its_formula(votes, mask):
    method = cat_rs(votes, robust_weight=2.0, confidence_mask=mask)
    images, labels, indices = batch()
    targets = method.targets.shares(indices)
    noises = method.noises(images, 3)
    attacked = MOMENTS(
        method.network, images, targets, noises=noises, randomness=BatchRandomness(0, "unused")
    )
    logits = copies_of(method.network, images, noises)
    own = targets[torch.arange(6), labels] if mask else (logits.argmax(2) == labels).float().mean(0)
    lots = method.randomness("binomial").uniform(own, 3)
    kept = (lots < own).sum(0).clamp(min=1)
    high = worst_divergence(copies_of(method.network, images, attacked), targets) * (kept == 3)
    expected = bottom_cross_entropy(logits, labels, kept).mean() + 2 * high.mean()
    result = method.training_loss(batch())
    torch.testing.assert_close(result["loss"], expected, rtol=1e-4, atol=1e-5)
    assert result["sure"] == (kept == 3).float().mean()


def test_k_is_binomial_and_at_least_one(votes):
    method = cat_rs(votes, copies=4, confidence_mask=True)
    targets = torch.tensor([[0.3, 0.7, 0.0]]).expand(20000, 3)
    kept = method._kept(torch.empty(4, 20000, 3), torch.zeros(20000, dtype=torch.long), targets)
    share = (kept == 4).float().mean().item()
    assert share == pytest.approx(0.3**4, abs=4 * (0.3**4 / 20000) ** 0.5)
    low = (kept == 1).float().mean().item()  # nothing or one
    assert low == pytest.approx(0.7**4 + 4 * 0.3 * 0.7**3, abs=4 * (0.25 / 20000) ** 0.5)


def test_epsilon_grows_at_its_epoch(votes, monkeypatch):
    method = cat_rs(votes, epsilon_factor=2.0, epsilon_epoch=3)
    assert method._attack().epsilon == 0.5
    at_epoch(monkeypatch, CATRSModule, 3)
    assert method._attack().epsilon == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": None}, r"data\.subset\.split=train prediction\.n=10000"),
        ({"targets": "nowhere"}, "there are no votes in"),
        ({"attack": MIX}, "an attack that moves the noise"),
        ({"robust_weight": -1.0}, "`method.robust_weight`"),
        ({"epsilon_factor": 0.0}, "`method.epsilon_factor`"),
    ],
)
def test_cat_rs_refuses(votes, options, message):
    with pytest.raises(ValueError, match=message):
        cat_rs(votes, **options)


def test_votes_on_the_training_images_are_those_that_train():
    data = DigitsDataModule(channels=1, val_images=180, subset=SimpleNamespace(split="train", select=range))
    assert data.evaluated == "train"
    assert list(data.test_indices) == data.train_positions


# ------------------------------------------------------------------ Sun et al.


def sun(**options):
    return Sun2025Module(Network(), SGD, **{"sigma": 0.2, "attack": NOISE, "copies": 2, **options})


def test_sun_attacks_the_noise_from_its_epoch_on(monkeypatch):
    method = sun(warmup_epochs=2)
    images, labels, _ = batch()
    noises = method.noises(images, 2)
    plain = nn.functional.cross_entropy(
        copies_of(method.network, images, noises).flatten(0, 1), labels.repeat(2)
    )
    torch.testing.assert_close(method.training_loss(batch())["loss"], plain)
    at_epoch(monkeypatch, Sun2025Module, 2)
    attacked = NOISE(method.network, images, labels, noises=noises, randomness=BatchRandomness(0, "unused"))
    expected = nn.functional.cross_entropy(
        copies_of(method.network, images, attacked).flatten(0, 1), labels.repeat(2)
    )
    assert expected > plain
    torch.testing.assert_close(method.training_loss(batch())["loss"], expected)


def test_weights_are_radii_of_clipped_votes():
    right = torch.tensor([0.0, 3.0, 12.0, 14.0, 16.0])
    expected = [norm.ppf(beta.ppf(0.1, k, 16 - k + 1)) for k in (12, 12, 12, 14, 16)]
    np.testing.assert_allclose(certainty_weights(right, 16, 0.75, 0.1).numpy(), expected, rtol=1e-9)
    assert expected[-1] == pytest.approx(norm.ppf(0.1 ** (1 / 16)))


def with_trainer(method, votes):
    """The module beside a data set of five images, with known votes."""
    method._right_votes = lambda network, n, purpose, epoch, kept: votes(purpose, epoch) * kept
    monkey = SimpleNamespace(datamodule=SimpleNamespace(train_positions=[3, 5, 8, 9, 11], extra=None))
    method._trainer = monkey
    type(method).trainer = property(lambda self: self._trainer)
    return method


def test_hard_images_are_dropped_for_good_and_easy_ones_drawn_more_often(monkeypatch):
    monkeypatch.setattr(Sun2025Module, "trainer", None)
    asked = []

    def votes(purpose, epoch):
        asked.append((purpose, epoch))
        return (
            torch.tensor([100.0, 49.0, 50.0, 80.0, 0.0])
            if purpose == "discard"
            else torch.tensor([16.0, 16.0, 4.0, 12.0, 16.0])
        )

    method = with_trainer(sun(warmup_epochs=2, reweight_every=3), votes)
    assert method.draw_weights(0) is None
    assert method.draw_weights(1) is None
    first = method.draw_weights(2)
    certain, floor = norm.ppf(0.1 ** (1 / 16)), norm.ppf(beta.ppf(0.1, 12, 5))
    np.testing.assert_allclose(first.numpy(), [certain, 0, floor, floor, 0], rtol=1e-9)
    for epoch in (3, 4, 5, 6, 8):
        method.draw_weights(epoch)
    assert asked == [("discard", 2), ("reweight", 2), ("reweight", 5), ("reweight", 8)]


def test_a_checkpoint_knows_the_weights(monkeypatch):
    monkeypatch.setattr(Sun2025Module, "trainer", None)
    method = with_trainer(
        sun(warmup_epochs=0), lambda purpose, epoch: torch.full((5,), 100.0 if purpose == "discard" else 16.0)
    )
    weights = method.draw_weights(3)
    checkpoint = {}
    method.on_save_checkpoint(checkpoint)
    other = sun(warmup_epochs=0)
    other.on_load_checkpoint(deepcopy(checkpoint))
    assert torch.equal(other.draw_weights(3), weights)  # without a trainer: no vote is cast


def test_nothing_left(monkeypatch):
    monkeypatch.setattr(Sun2025Module, "trainer", None)
    method = with_trainer(sun(warmup_epochs=0), lambda purpose, epoch: torch.zeros(5))
    with pytest.raises(ValueError, match="none is left to train on"):
        method.draw_weights(0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attack": MIX}, "an attack that moves the noise"),
        ({"discard_below": 1.5}, r"`method\.discard_below` must be in \[0, 1\]"),
        ({"share_floor": 0.3}, r"`method\.share_floor` is too small for 16 votes"),
        ({"alpha": 0.0}, r"`method\.alpha`"),
        ({"reweight_every": 0}, "`method.reweight_every`"),
        ({"warmup_epochs": -1}, "`method.warmup_epochs`"),
    ],
)
def test_sun_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        sun(**options)


def test_an_attack_on_the_noise_is_no_attack_on_images():
    with pytest.raises(ValueError, match="moves the noise, and this method needs one that moves the images"):
        AdversarialModule(Network(), SGD, attack=NOISE)


def test_the_sampler_draws_in_proportion_on_any_number_of_ranks():
    weights = torch.tensor([0.0, 1.0, 3.0, 0.0] * 5000)
    drawn = list(TrainingSampler(range(20000), 100, weights=lambda epoch: weights))
    assert len(drawn) == 20000
    values = weights[torch.tensor(drawn)]
    assert (values > 0).all()
    share = (values == 3).float().mean().item()
    assert share == pytest.approx(0.75, abs=4 * (0.75 * 0.25 / 20000) ** 0.5)
    ranks = [
        list(TrainingSampler(range(20000), 100, num_replicas=2, rank=rank, weights=lambda epoch: weights))
        for rank in range(2)
    ]
    assert sorted(ranks[0][:50] + ranks[1][:50]) == sorted(drawn[:100])
