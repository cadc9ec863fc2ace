"""A network of a few weights and a batch of small images, for tests that compare a step with its formula."""

from functools import partial

import torch
from torch import nn

from robustsmooth.attacks import PGD, NoisePGD, PlugIn
from robustsmooth.data import Batch

__all__ = ["MOVES_IMAGES", "MOVES_NOISE", "SGD", "Network", "at_epoch", "batch", "copies_of"]

SGD = partial(torch.optim.SGD, lr=0.1)
MOVES_IMAGES = PGD(norm="l2", epsilon=float("inf"), steps=3, step_size=0.4, objective=PlugIn())
MOVES_NOISE = NoisePGD(steps=2, step_size=0.2, keep="first_success")


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
