"""The module behind certify, predict, attack and measure: what it refuses, and clean accuracy."""

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from robustsmooth.data import Batch, DigitsDataModule
from robustsmooth.evaluation import EvaluationModule
from robustsmooth.methods import GaussianModule


class Fixed(nn.Module):
    """Returns the same logits for every batch."""

    num_classes = 6

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images):
        return self.logits[: len(images)]


def batch_of(images):
    labels = torch.zeros(len(images), dtype=torch.int64)
    return Batch(images, labels, torch.arange(len(images)))


def test_an_answer_of_nan_is_not_the_first_class(monkeypatch):
    logits = torch.zeros(4, 6)
    logits[0, 0] = 1.0
    logits[1] = math.nan
    logits[2] = -math.inf
    logits[3, 5] = 1.0  # class 0 ties with the others behind it
    module = EvaluationModule(Fixed(logits))
    monkeypatch.setattr(module, "log_dict", lambda *_, **__: None)
    module.test_step(batch_of(torch.rand(4, 1, 2, 2)), 0)
    assert float(module.top1.compute()) == 0.25
    assert float(module.top5.compute()) == 0.5


@pytest.mark.parametrize("images", [torch.rand(2, 1, 2, 2) * 255, torch.rand(2, 1, 2, 2) - 0.5])
def test_data_sets_of_other_values_are_refused_by_evaluation_and_training(images):
    network = Fixed(torch.zeros(4, 6))
    with pytest.raises(ValueError, match="the data set's images must be finite and in"):
        EvaluationModule(network).test_step(batch_of(images), 0)
    module = GaussianModule(network, partial(torch.optim.SGD, lr=0.1), sigma=0.25)
    module._trainer = SimpleNamespace(current_epoch=0, global_rank=0)
    with pytest.raises(ValueError, match="the data set's images must be finite and in"):
        module.on_train_batch_start(batch_of(images), 0)


def test_stored_pixels_are_bytes():
    with pytest.raises(TypeError, match=r"stored pixels as uint8, got torch.float32"):
        DigitsDataModule().convert(batch_of(torch.rand(2, 1, 8, 8)))
