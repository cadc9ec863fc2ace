"""A step of Sun et al. is its formula; images are dropped and drawn as stated."""

from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import beta, norm
from torch import nn

from robustsmooth.methods import Sun2025Module
from robustsmooth.methods.sun2025 import certainty_weights
from robustsmooth.smoothing.addressing import BatchRandomness
from tests.methods.small import MOVES_IMAGES, MOVES_NOISE, SGD, Network, at_epoch, batch, copies_of


def sun(**options):
    return Sun2025Module(Network(), SGD, **{"sigma": 0.2, "attack": MOVES_NOISE, "copies": 2, **options})


def test_sun_attacks_the_noise_from_its_epoch_on(monkeypatch):
    method = sun(warmup_epochs=2)
    images, labels, _ = batch()
    noises = method.noises(images, 2)
    plain = nn.functional.cross_entropy(
        copies_of(method.network, images, noises).flatten(0, 1), labels.repeat(2)
    )
    torch.testing.assert_close(method.training_loss(batch())["loss"], plain)
    at_epoch(monkeypatch, Sun2025Module, 2)
    attacked = MOVES_NOISE(
        method.network, images, labels, noises=noises, randomness=BatchRandomness(0, "unused")
    )
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


def test_a_checkpoint_holds_the_weights_of_the_images(monkeypatch):
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


def test_an_error_if_all_images_are_dropped(monkeypatch):
    monkeypatch.setattr(Sun2025Module, "trainer", None)
    method = with_trainer(sun(warmup_epochs=0), lambda purpose, epoch: torch.zeros(5))
    with pytest.raises(ValueError, match="none is left to train on"):
        method.draw_weights(0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attack": MOVES_IMAGES}, "an attack that moves the noise"),
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
