"""MACER and SODMModule: the loss of noisy copies, the schedule of beta, the optimiser of the mapping."""

from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import nn

from robustsmooth.data import Batch
from robustsmooth.losses import (
    DynamicMapping,
    MACERLoss,
    SODMLoss,
    SoftmaxMapping,
    mean_terms,
)
from robustsmooth.methods import GaussianModule, SODMModule

SGD = partial(torch.optim.SGD, lr=0.1)


class Network(nn.Module):
    num_classes = 3

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(16)
        self.layer = nn.Linear(16, 3)
        self.calls = []

    def forward(self, images):
        self.calls.append((images.detach().clone(), self.training, torch.is_grad_enabled()))
        return self.layer(self.norm(images.flatten(1)))


def batch():
    images = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    return Batch(images, torch.tensor([0, 1, 2, 0, 1, 2]), torch.arange(6))


def sodm(**options):
    defaults = {"sigma": 0.25, "loss": SODMLoss(), "mapping": SoftmaxMapping(), "copies": 4}
    return SODMModule(Network(), SGD, **{**defaults, **options})


def dynamic(**options):
    learner = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    return sodm(mapping=DynamicMapping(4), mapping_optimizer=learner, mapping_copies=10, **options)


def test_macer_is_its_loss_over_unclamped_noisy_copies():
    method = GaussianModule(Network(), SGD, sigma=0.5, loss=MACERLoss(), copies=5)
    result = method.training_loss(batch())
    ((inputs, training, _),) = method.network.calls
    assert inputs.shape == (30, 1, 4, 4)
    assert training
    assert inputs.min() < 0  # not clamped
    assert (inputs.unflatten(0, (5, 6)) - batch().images).std() == pytest.approx(0.5, rel=0.1)
    logits = method.network(inputs).unflatten(0, (5, 6))
    expected = mean_terms(MACERLoss()(logits, batch().labels, sigma=0.5))["loss"]
    torch.testing.assert_close(result["loss"], expected)


def test_sodm_is_its_loss_over_noisy_copies():
    method = sodm(robust_weight=3.0)
    result = method.training_loss(batch())
    ((inputs, _, _),) = method.network.calls
    scores = method.network(inputs).unflatten(0, (4, 6)).log_softmax(dim=2)
    torch.testing.assert_close(result["loss"], SODMLoss()(scores, batch().labels, robust_weight=3.0)["loss"])


def test_beta_grows_at_its_epoch_and_is_logged(monkeypatch):
    method = sodm(robust_weight=6.0, robust_weight_factor=10.0, robust_weight_epoch=2)
    logged = []
    for epoch in range(4):
        monkeypatch.setattr(SODMModule, "current_epoch", epoch)
        logged.append(method.training_loss(batch())["robust_weight"].item())
    assert logged == [6.0, 6.0, 60.0, 60.0]
    assert sodm(robust_weight_epoch=None).current_robust_weight() == 6.0


def test_mapping_learns_at_its_interval_only():
    method = dynamic(mapping_interval=3)
    changed = []
    for step in range(7):
        before = [parameter.clone() for parameter in method.mapping.parameters()]
        method._place = (0, step, 0)
        method.training_loss(batch())["loss"].backward()
        moved = [not torch.equal(a, b) for a, b in zip(before, method.mapping.parameters(), strict=True)]
        assert all(moved) or not any(moved)
        changed.append(any(moved))
    assert changed == [True, False, False, True, False, False, True]


def test_mapping_update_lowers_its_loss_and_touches_nothing_else():
    method = dynamic()
    network = {key: value.clone() for key, value in method.network.state_dict().items()}

    def loss():
        with torch.no_grad():
            scores = method.mapping(method._many_logits(batch().images))
            return method.loss(scores, batch().labels, robust_weight=6.0)["loss"]

    before = loss()
    method.network.calls.clear()
    method.update_mapping(batch())
    copies = [len(inputs) // 6 for inputs, _, _ in method.network.calls]
    assert copies == [4, 4, 2]  # 10 noisy copies, in passes of the size of a training step
    assert not any(training or enabled for _, training, enabled in method.network.calls)
    assert loss() < before
    assert all(torch.equal(value, network[key]) for key, value in method.network.state_dict().items())
    assert method.network.training
    assert all(not p.requires_grad and p.grad is None for p in method.mapping.parameters())
    assert method.network.layer.weight.grad is None


def test_mapping_draws_different_noise_in_every_pass():
    method = dynamic()
    method._many_logits(batch().images)
    first, second, _ = (inputs for inputs, _, _ in method.network.calls)
    assert not torch.equal(first, second)


def test_mapping_and_its_optimiser_survive_a_checkpoint():
    method = dynamic()
    method.update_mapping(batch())
    checkpoint = {}
    method.on_save_checkpoint(checkpoint)
    other = dynamic()
    other.load_state_dict(method.state_dict())
    other.on_load_checkpoint(deepcopy(checkpoint))
    other.on_train_start()
    for item in (method, other):
        item.update_mapping(batch())
    for one, two in zip(method.mapping.parameters(), other.mapping.parameters(), strict=True):
        assert torch.equal(one, two)
    assert "mapping_optimizer" not in _saved(sodm())


def _saved(method):
    checkpoint = {}
    method.on_save_checkpoint(checkpoint)
    return checkpoint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0.0}, "`method.sigma` must be positive, got 0.0"),
        ({"copies": 0}, "`method.copies` must be at least 1, got 0"),
        ({"mapping_copies": 0}, "`method.mapping_copies` must be at least 1, got 0"),
        ({"mapping_interval": 0}, "`method.mapping_interval` must be at least 1, got 0"),
        ({"robust_weight": -1.0}, "must not be negative, got -1.0 and 10.0"),
        ({"mapping": DynamicMapping()}, "`method.mapping_optimizer` must be given"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        sodm(**options)


def test_macer_bad_options():
    with pytest.raises(ValueError, match=r"`method.copies` must be at least 1, got 0"):
        GaussianModule(Network(), SGD, sigma=0.25, loss=MACERLoss(), copies=0)
    with pytest.raises(ValueError, match=r"`method.sigma` must be positive, got 0.0"):
        GaussianModule(Network(), SGD, sigma=0.0, loss=MACERLoss())
