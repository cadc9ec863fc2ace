"""A step of SmoothMix is its formula."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from robustsmooth.attacks import PGD, project
from robustsmooth.losses import mixing_divergence
from robustsmooth.methods import SmoothMixModule
from tests.methods.small import MOVES_IMAGES, MOVES_NOISE, SGD, Network, at_epoch, batch, copies_of


@pytest.mark.parametrize("one_step", [False, True])
def test_smoothmix_is_its_formula(one_step, monkeypatch):
    method = SmoothMixModule(
        Network(),
        SGD,
        sigma=0.2,
        attack=MOVES_IMAGES,
        copies=2,
        mix_weight=3.0,
        one_step=one_step,
        warmup_epochs=10,
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
        ({"attack": MOVES_NOISE}, "moves the noise"),
        ({"attack": replace(MOVES_IMAGES, sigma=0.3)}, r"`attack\.sigma` has no effect"),
        ({"attack": PGD(norm="l2", epsilon=1.0, step_size=0.1), "one_step": True}, r"must be \.inf"),
        ({"mix_weight": -1.0}, "`method.mix_weight`"),
        ({"warmup_epochs": -1}, "`method.warmup_epochs`"),
        ({"copies": 0}, "`method.copies`"),
        ({"sigma": 0.0}, "`method.sigma` must be positive"),
    ],
)
def test_smoothmix_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        SmoothMixModule(Network(), SGD, **{"sigma": 0.2, "attack": MOVES_IMAGES, **options})
