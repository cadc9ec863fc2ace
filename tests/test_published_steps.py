"""The published loops in `benchmarks/train_step.py` take our steps where the algorithms agree."""

import copy

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from benchmarks.published_steps import PUBLISHED
from robustsmooth.attacks import PGD, PlugIn
from robustsmooth.losses import CrossEntropy, HeatLoss, MACERLoss
from robustsmooth.methods import copies_loss

SIGMA, COPIES, RATE = 0.25, 2, 0.1
CONFIG = OmegaConf.create(
    {
        "method": {"sigma": SIGMA, "copies": COPIES},
        "attack": {"steps": 3, "epsilon": 0.5},
        "loss": {
            "robust_weight": 12.0,
            "inverse_temperature": 2.0,
            "margin": 8.0,
            "num_probes": 3,
            "difference_step": 0.1,
            "penalty_weight": 5.0,
        },
    }
)


def network():
    torch.manual_seed(0)  # without BatchNorm, whose batches would differ
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 6))


def ours(name, student, images, labels, normal):
    """Our loss, with the random numbers of the published loop."""
    if name == "heat":
        loss = HeatLoss(fidelity="logits", num_probes=3, difference_step=0.1, penalty_weight=5.0)
        probes = torch.stack(normal)
        with torch.no_grad():
            targets = copy.deepcopy(student)(images)
        return loss(student, images, targets, sigma=SIGMA, probes=lambda like, copies: probes)
    copies = 1 if name == "gaussian" else COPIES
    noises = SIGMA * normal[0].unflatten(0, (len(images), copies)).transpose(0, 1)
    if name == "smoothadv":
        attack = PGD(norm="l2", epsilon=0.5, steps=3, objective=PlugIn())
        images = attack(student, images, labels, noises=noises)
    loss = MACERLoss(inverse_temperature=2.0) if name == "macer" else CrossEntropy()
    return copies_loss(student, loss, images, noises, labels, sigma=SIGMA)


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_is_our_step(name, monkeypatch):
    drawn = []

    def randn_like(like):
        drawn.append(torch.randn(like.shape))
        return drawn[-1]

    monkeypatch.setattr(torch, "randn_like", randn_like)
    student, published = network(), network()
    images, labels = torch.rand(6, 3, 2, 2), torch.randint(6, (6,))
    step = PUBLISHED[name](published, torch.optim.SGD(published.parameters(), lr=RATE), CONFIG)
    step(images, labels)
    optimizer = torch.optim.SGD(student.parameters(), lr=RATE)
    parts = COPIES if name == "smoothadv" else 1  # a separate step of the published loop
    for part, (some, own) in enumerate(zip(images.chunk(parts), labels.chunk(parts), strict=True)):
        loss = ours(name, student, some, own, drawn[part:])["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    start = nn.utils.parameters_to_vector(network().parameters())
    one, other = (nn.utils.parameters_to_vector(net.parameters()) for net in (student, published))
    assert (one - start).norm() > 1e-3
    assert (one - other).norm() < 1e-3 * (one - start).norm()
