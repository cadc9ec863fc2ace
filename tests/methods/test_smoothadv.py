"""SmoothAdvModule and AdversarialModule: Pseudocode 1, and the arguments of the attack."""

from dataclasses import dataclass, field, replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from robustsmooth.attacks import DDN, PGD, Plain, PlugIn, Stein
from robustsmooth.data import UNLABELED, Batch
from robustsmooth.methods import AdversarialModule, SmoothAdvModule

SGD = partial(torch.optim.SGD, lr=0.1)
PGD_L2 = PGD(norm="l2", epsilon=0.5, steps=2, objective=PlugIn())
SIZE = 6


class Network(nn.Module):
    num_classes = 3

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.layer = nn.Linear(16, 3)
        self.calls = []

    def forward(self, images):
        self.calls.append((images.detach().clone(), self.training, torch.is_grad_enabled()))
        return self.layer(self.norm(images).flatten(1))


@dataclass(frozen=True)
class Spy:
    """An attack that shifts the images and records its arguments."""

    epsilon: float = 0.5
    seen: list = field(default_factory=list)

    def __call__(self, network, images, labels, *, randomness, noises=None):
        self.seen.append((self.epsilon, labels, noises))
        return images + 0.25

    def with_epsilon(self, epsilon):
        return replace(self, epsilon=epsilon)


def batch(labels=(0, 1, 2, 0, 1, 2)):
    images = torch.rand(SIZE, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    return Batch(images, torch.tensor(labels), torch.arange(SIZE))


def module(**options):
    return SmoothAdvModule(Network(), SGD, **{"sigma": 0.25, "attack": Spy(), "copies": 3, **options})


def test_pseudocode_1_the_attack_and_the_step_share_their_noises():
    method = module()
    result = method.training_loss(batch())
    (_, _, noises), (inputs, training, _) = method.attack.seen[0], method.network.calls[-1]
    assert noises.shape == (3, SIZE, 1, 4, 4)
    assert noises.std() == pytest.approx(0.25, rel=0.1)
    torch.testing.assert_close(inputs.unflatten(0, (3, SIZE)), batch().images + 0.25 + noises)
    assert training
    expected = cross_entropy(method.network(inputs), batch().labels.repeat(3))
    torch.testing.assert_close(result["loss"], expected)


def test_one_noisy_copy_in_the_loss_while_the_attack_uses_all():
    method = module(multi_noise=False)
    method.training_loss(batch())
    (_, _, noises), (inputs, _, _) = method.attack.seen[0], method.network.calls[-1]
    assert len(noises) == 3
    torch.testing.assert_close(inputs, batch().images + 0.25 + noises[0])


@pytest.mark.parametrize("attack", [PGD_L2, DDN(epsilon=0.5, steps=2, objective=PlugIn())])
def test_the_attack_runs_in_eval_mode_and_leaves_no_gradients(attack):
    method = module(attack=attack)
    before = {key: value.clone() for key, value in method.network.norm.state_dict().items()}
    method.training_loss(batch())
    *attacking, (_, training, _) = method.network.calls
    assert attacking
    assert not any(mode for _, mode, _ in attacking)
    assert training
    assert method.network.layer.weight.grad is None
    assert method.network.norm.num_batches_tracked == before["num_batches_tracked"] + 1


def test_stein_needs_no_gradient_of_the_network():
    method = module(attack=replace(PGD_L2, objective=Stein()))
    method.training_loss(batch())
    assert [enabled for _, _, enabled in method.network.calls] == [False, False, True]


def test_vanilla_attacks_the_base_classifier():
    method = module(attack=replace(PGD_L2, objective=Plain()), copies=1)
    method.training_loss(batch())
    torch.testing.assert_close(method.network.calls[0][0], batch().images)  # no noise at the first step


def test_epsilon_warms_up(monkeypatch):
    method = module(warmup_epochs=4)
    logged = []
    for epoch in range(6):
        monkeypatch.setattr(SmoothAdvModule, "current_epoch", epoch)
        logged.append(method.training_loss(batch())["epsilon"].item())
    assert logged == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5, 0.5])
    assert [epsilon for epsilon, _, _ in method.attack.seen] == pytest.approx(logged)


def labeler():
    network = Network()
    nn.init.zeros_(network.layer.weight)
    with torch.no_grad():
        network.layer.bias.copy_(torch.tensor([0.0, 0.0, 1.0]))  # says 2
    return network


def test_self_training_labels_and_weighs_the_extra_images():
    method = module(labeler=labeler(), extra_weight=0.1, copies=1)
    mixed = batch((0, 1, 2, UNLABELED, UNLABELED, 0))
    result = method.training_loss(mixed)
    (_, labels, _), (inputs, _, _) = method.attack.seen[0], method.network.calls[-1]
    assert labels.tolist() == [0, 1, 2, 2, 2, 0]
    losses = cross_entropy(method.network(inputs), labels, reduction="none")
    weights = torch.tensor([1, 1, 1, 0.1, 0.1, 1])
    torch.testing.assert_close(result["loss"], (weights * losses).sum() / 4.2)
    (_, training, enabled) = method.labeler.calls[0]
    assert not training
    assert not enabled
    assert "logits" not in result  # pseudo-labels do not count for train/top1
    assert not any(parameter.requires_grad for parameter in method.labeler.parameters())
    assert len(method.parameter_groups()) == 4  # the labeler is not trained


def test_with_extra_weight_one_all_images_count_equally_and_with_zero_none():
    mixed = batch((0, 1, 2, UNLABELED, UNLABELED, UNLABELED))
    losses = []
    for weight in (0.0, 1.0):
        torch.manual_seed(1)
        method = module(labeler=labeler(), extra_weight=weight, copies=1)
        losses.append(method.training_loss(mixed)["loss"].item())
        inputs, labels = method.network.calls[-1][0], method.attack.seen[0][1]
        item = cross_entropy(method.network(inputs), labels, reduction="none")
        assert losses[-1] == pytest.approx(item[: 3 if weight == 0 else 6].mean().item(), rel=1e-5)
    assert losses[0] != losses[1]


def test_a_batch_of_no_weight_changes_nothing():
    """The last batch of an epoch may hold extra images only."""
    method = module(labeler=Network(), extra_weight=0.0)
    loss = method.training_loss(batch((UNLABELED,) * SIZE))["loss"]
    loss.backward()
    assert loss == 0
    assert all(not parameter.grad.any() for parameter in method.network.parameters())


def test_adversarial_training_is_cross_entropy_of_the_attacked_images():
    attack = PGD(norm="linf", epsilon=0.1, steps=3, random_start=True)
    method = AdversarialModule(Network(), SGD, attack=attack)
    result = method.training_loss(batch())
    inputs, training, _ = method.network.calls[-1]
    assert training
    assert not any(mode for _, mode, _ in method.network.calls[:-1])
    assert 0 < (inputs - batch().images).abs().max() <= 0.1 + 1e-6
    torch.testing.assert_close(result["loss"], cross_entropy(method.network(inputs), batch().labels))
    assert method.sigma == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0.0}, "`method.sigma` must be positive, got 0.0"),
        ({"copies": 0}, "`method.copies` must be at least 1, got 0"),
        ({"warmup_epochs": -1}, "`method.warmup_epochs` must be at least 0, got -1"),
        ({"extra_weight": -0.5}, "`method.extra_weight` must be at least 0, got -0.5"),
        ({"attack": DDN(objective=PlugIn())}, "`attack.epsilon` must be given"),
        ({"attack": replace(PGD_L2, targeted=True)}, "`attack.targeted` must be false"),
        ({"attack": replace(PGD_L2, sigma=0.5)}, r"`attack\.sigma` has no effect with this method, got 0\.5"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        module(**options)


def test_adversarial_training_refuses_an_attack_towards_the_labels():
    with pytest.raises(ValueError, match=r"`attack\.targeted` must be false"):
        AdversarialModule(Network(), SGD, attack=PGD(norm="l2", epsilon=0.5, targeted=True))
