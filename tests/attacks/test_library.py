"""Attacks from libraries: results that are known in closed form (their contract: test_contract.py)."""

import importlib
import logging

import pytest
import torch
from torch import nn

from robustsmooth.attacks import AutoAttack, CarliniWagner, PlugIn, distance
from robustsmooth.attacks.library import _import

pytest.importorskip("foolbox")
pytest.importorskip("pyautoattack")


def test_carlini_wagner_is_near_the_closest_point(linear, randomness):
    attack = CarliniWagner(steps=100, search_steps=8, step_size=0.05, initial_weight=0.1)
    points = attack(linear.network, linear.images, linear.labels, randomness=randomness(16))
    lengths = distance(points - linear.images, "l2")
    assert bool((linear.network(points).argmax(1) != linear.labels).all())
    assert bool((lengths >= linear.distances - 1e-6).all())
    assert float((lengths / linear.distances).median()) < 1.1


def test_carlini_wagner_with_a_target(randomness):
    network = nn.Sequential(nn.Flatten(), nn.Linear(20, 5))
    images = torch.rand(8, 1, 4, 5)
    targets = (network(images).argmax(1) + 2) % 5
    attack = CarliniWagner(steps=100, search_steps=5, step_size=0.05, initial_weight=1.0, targeted=True)
    points = attack(network, images, targets, randomness=randomness(8))
    assert int((network(points).argmax(1) == targets).sum()) >= 6


def test_carlini_wagner_without_success_returns_the_image(linear, randomness):
    def stubborn(points):
        logits = linear.network(points)
        return logits + 100 * nn.functional.one_hot(linear.labels, 2)

    points = CarliniWagner(steps=3, search_steps=1)(
        stubborn, linear.images, linear.labels, randomness=randomness(16)
    )
    assert torch.equal(points, linear.images)


def test_carlini_wagner_counts_only_what_is_in_the_budget(linear, randomness):
    epsilon = float(linear.distances.median())
    attack = CarliniWagner(steps=60, search_steps=5, step_size=0.05, initial_weight=0.1, epsilon=epsilon)
    points = attack(linear.network, linear.images, linear.labels, randomness=randomness(16))
    assert bool((distance(points - linear.images, "l2") <= epsilon).all())
    wrong = linear.network(points).argmax(1) != linear.labels
    assert 0 < int(wrong.sum()) <= 8


@pytest.mark.parametrize("norm", [pytest.param("l2", marks=pytest.mark.slow), "linf"])
def test_autoattack_succeeds_exactly_where_it_is_possible(linear, randomness, norm):
    """On a linear model the attack succeeds if and only if the distance is within the budget."""
    weight = linear.weight.double()
    lengths = linear.margins.abs() / (weight.norm() if norm == "l2" else weight.abs().sum())
    epsilon = float(lengths.sort().values[7:9].mean())  # half of them
    points = AutoAttack(norm=norm, epsilon=epsilon, one_by_one=False)(
        linear.network, linear.images, linear.labels, randomness=randomness(16)
    )
    wrong = linear.network(points).argmax(1) != linear.labels
    assert torch.equal(wrong, lengths < epsilon)


def test_autoattack_one_by_one_does_not_depend_on_the_batch(linear, randomness):
    attack = AutoAttack(norm="linf", epsilon=0.2)
    arguments = linear.images[:3], linear.labels[:3]
    together = attack(linear.network, *arguments, randomness=randomness(3))
    alone = attack(linear.network, linear.images[2:3], linear.labels[2:3], randomness=randomness(1, first=2))
    assert torch.equal(together[2:3], alone)


def test_autoattack_on_a_smoothed_classifier(linear, randomness, caplog):
    smoothed = {"objective": PlugIn(), "sigma": 0.1, "num_noise": 4, "one_by_one": False}
    with caplog.at_level(logging.WARNING):
        points = AutoAttack(norm="l2", epsilon=0.5, **smoothed)(
            linear.network, linear.images, linear.labels, randomness=randomness(16)
        )
    assert "randomized" not in caplog.text  # the noise is fixed: the function is deterministic
    assert float((linear.network(points).argmax(1) != linear.labels).float().mean()) > 0.8


def test_a_missing_library_is_one_sentence(monkeypatch):
    def absent(name, *arguments):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ValueError, match=r"CarliniWagner needs foolbox.*'robustsmooth\[attacks\]'"):
        _import("foolbox", CarliniWagner())


def test_early_abort_saves_passes_and_images_stay_independent(linear, randomness):
    """foolbox stops a whole batch at once; therefore each image is a batch of its own here."""
    pytest.importorskip("foolbox")
    looked = []

    def network(points):
        looked.append(len(points))
        return linear.network(points)

    few = slice(0, 3)
    images, labels = linear.images[few], linear.labels[few]
    seen = {}
    for abort in (False, True):
        looked.clear()
        attack = CarliniWagner(steps=50, search_steps=4, abort_early=abort)
        points = attack(network, images, labels, randomness=randomness(3))
        seen[abort] = sum(looked)
        assert bool((linear.network(points).argmax(1) != labels).all())
    assert seen[True] < 0.7 * seen[False]
    alone = attack(network, images[:1], labels[:1], randomness=randomness(1))
    assert torch.equal(alone, points[:1])
