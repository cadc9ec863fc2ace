"""CPNIModule: the losses against NumPy references, and the arguments of the attack and the optimiser."""

from functools import partial
from math import sqrt
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from robustsmooth.attacks import PGD, Expectation
from robustsmooth.data import Batch
from robustsmooth.instantiation import instantiate
from robustsmooth.methods.callbacks import checkpoints
from robustsmooth.methods.cpni import CPNIModule
from robustsmooth.models import Classifier, NoiseLayers, Normalize, ParametricNoise, SmallCNN, silenced

SGD = partial(torch.optim.SGD, lr=0.1, weight_decay=0.5)
LINF = PGD(norm="linf", epsilon=0.1, steps=3, step_size=0.05)


class LinearNetwork(nn.Module):
    """Softmax regression, small enough to write its attack and its losses down in NumPy."""

    num_classes = 3

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images.flatten(1))


def batch(count: int = 6, size: tuple[int, ...] = (3, 2, 2)) -> Batch:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (count,), generator=generator)
    return Batch(torch.rand(count, *size, generator=generator), labels, torch.arange(count))


def noisy_classifier(**noise) -> Classifier:
    torch.manual_seed(0)
    network = Classifier(SmallCNN(3, width=4), Normalize([0.3], [0.4]), num_classes=3)
    return NoiseLayers(partial(ParametricNoise, **noise))(network)


def numpy_softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def numpy_losses(network: LinearNetwork, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    weight = network.layer.weight.detach().double().numpy()
    logits = images.reshape(len(images), -1) @ weight.T + network.layer.bias.detach().double().numpy()
    return -np.log(numpy_softmax(logits)[np.arange(len(labels)), labels])


def numpy_pgd(network: LinearNetwork, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """PGD in linf, gradient in closed form: (softmax - onehot) W."""
    weight = network.layer.weight.detach().double().numpy()
    bias = network.layer.bias.detach().double().numpy()
    points = images.copy()
    for _ in range(LINF.steps):
        probabilities = numpy_softmax(points.reshape(len(points), -1) @ weight.T + bias)
        probabilities[np.arange(len(labels)), labels] -= 1
        gradient = (probabilities @ weight).reshape(points.shape)
        points = points + LINF.step_size * np.sign(gradient)
        points = np.clip(points, images - LINF.epsilon, images + LINF.epsilon).clip(0, 1)
    return points


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_both_is_equation_6(weight):
    module = CPNIModule(LinearNetwork(), SGD, attack=LINF, adversarial_weight=weight, sigma=0.2)
    images, labels, _ = (part.numpy() for part in batch())
    adversarial = numpy_pgd(module.network, images.astype(float), labels)
    noise = module.randomness("noise")
    first, second = (0.2 * noise.normal(batch().images, draw=draw)[0].numpy() for draw in (0, 1))
    expected = (1 - weight) * numpy_losses(module.network, images + first, labels).mean()
    expected += weight * numpy_losses(module.network, adversarial + second, labels).mean()
    parts = module.training_loss(batch())
    assert parts["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert not np.allclose(first, second)


def test_either_is_equation_22():
    module = CPNIModule(
        LinearNetwork(), SGD, attack=LINF, mixture="either", adversarial_weight=0.4, sigma=0.2
    )
    many = batch(500)
    images, labels, _ = (item.numpy() for item in many)
    adversarial = numpy_pgd(module.network, images.astype(float), labels)
    numbers = module.randomness("bernoulli").uniform(many.images.flatten(1)[:, 0])[0].numpy()
    chosen = numbers < 0.4
    assert abs(chosen.sum() - 200) < 5 * sqrt(500 * 0.4 * 0.6)
    eta = 0.2 * module.randomness("noise").normal(many.images)[0].numpy()
    eta = eta + chosen[:, None, None, None] * (adversarial - images)
    expected = numpy_losses(module.network, images + eta, labels).mean()
    assert module.training_loss(many)["loss"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_either_with_probability_zero_or_one(weight):
    module = CPNIModule(LinearNetwork(), SGD, attack=LINF, mixture="either", adversarial_weight=weight)
    images, labels, _ = (part.numpy() for part in batch())
    seen = numpy_pgd(module.network, images.astype(float), labels) if weight else images
    expected = numpy_losses(module.network, seen, labels).mean()
    assert module.training_loss(batch())["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_every_step_logs_the_same_keys(monkeypatch):
    """Ranks reduce the keys in the order of logging, also in a step in which no image was chosen."""
    monkeypatch.setattr(CPNIModule, "trainer", SimpleNamespace(optimizers=[]))
    logged = []
    for weight in (1e-9, 1.0):
        module = CPNIModule(LinearNetwork(), SGD, attack=LINF, mixture="either", adversarial_weight=weight)
        module.trainer.optimizers[:] = [module.configure_optimizers()]
        logged.append([])
        monkeypatch.setattr(module, "log", lambda key, *_, **__: logged[-1].append(key))
        module.training_step(batch(), 0)
    assert logged[0] == logged[1]
    assert "train/adversarial_top1" in logged[0]


def test_predicted_labels_are_what_the_attack_leaves():
    """With wrong true labels, the two kinds of labels lead to different images."""
    module = CPNIModule(LinearNetwork(), SGD, attack=LINF, labels="predicted", adversarial_weight=1.0)
    images, _, indices = batch()
    predictions = module.network(images).argmax(1)
    wrong = Batch(images, (predictions + 1) % 3, indices)
    adversarial = numpy_pgd(module.network, images.double().numpy(), predictions.numpy())
    expected = numpy_losses(module.network, adversarial, wrong.labels.numpy()).mean()
    assert module.training_loss(wrong)["loss"].item() == pytest.approx(expected, rel=1e-5)
    module.labels = "true"
    assert module.training_loss(wrong)["loss"].item() != pytest.approx(expected, rel=1e-2)


def test_gradients_reach_weights_and_strengths():
    module = CPNIModule(noisy_classifier(granularity="element", rank=2), SGD, attack=LINF)
    module.training_loss(batch(size=(1, 8, 8)))["loss"].backward()
    for name, parameter in module.network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_zero_strengths_train_like_the_network_without_noise():
    zero, quiet = noisy_classifier(scale=0.0), noisy_classifier(scale=0.25)
    first = CPNIModule(zero, SGD, attack=LINF, sigma=0.1).training_loss(batch(size=(1, 8, 8)))["loss"]
    with silenced(quiet):
        second = CPNIModule(quiet, SGD, attack=LINF, sigma=0.1).training_loss(batch(size=(1, 8, 8)))["loss"]
    assert torch.equal(first, second)


def test_strengths_have_their_own_weight_decay():
    network = noisy_classifier()
    plain, strengths = CPNIModule(network, SGD, attack=LINF, noise_weight_decay=0.0).parameter_groups()
    optimizer = SGD([plain, strengths])
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]
    assert len(strengths["params"]) == 5
    assert len(plain["params"]) + 5 == len(list(network.parameters()))
    before = [strength.clone() for strength in strengths["params"]]
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert all(torch.equal(*pair) for pair in zip(before, strengths["params"], strict=True))
    assert len(list(CPNIModule(network, SGD, attack=LINF).parameter_groups())) == len(
        list(network.parameters())
    )


def test_epgd_draws_new_noise_of_the_network_for_each_copy():
    """A pass with more than one copy of the batch would share one draw of the weights."""
    attack = PGD(norm="linf", epsilon=0.1, steps=2, objective=Expectation(), num_noise=3)
    network = noisy_classifier()
    module = CPNIModule(network, SGD, attack=attack, sigma=0.1)
    sizes = []
    network.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    module.training_loss(batch(size=(1, 8, 8)))
    assert sizes == [6] * (2 * 3 + 2)
    assert module.attack.sigma == 0.1
    plain = CPNIModule(LinearNetwork(), SGD, attack=attack, sigma=0.1)
    assert plain.attack.copies_per_pass == attack.copies_per_pass


def test_the_loss_is_reproducible_and_differs_between_steps():
    losses = []
    for index in (0, 0, 1):
        module = CPNIModule(noisy_classifier(), SGD, attack=LINF, sigma=0.1, mixture="either")
        module._place = (0, index, 0)
        torch.manual_seed(index)
        losses.append(module.training_loss(batch(size=(1, 8, 8)))["loss"].item())
    assert losses[0] == losses[1] != losses[2]


def test_converged_and_diverged_have_the_best_and_the_worst_clean_accuracy(compose, tmp_path):
    words = (
        "trainer.max_epochs=5",
        "data.val_images=1300",
        "model.network.width=4",
        "attack.steps=1",
        "attack.num_noise=1",
    )
    cfg = compose("train", "method=cpni_epgd", "trainer=cpu", f"run_dir={tmp_path}", *words)
    callbacks = instantiate(cfg.callbacks)
    history = History()
    kept = [callbacks["converged"], callbacks["diverged"], *checkpoints(tmp_path, cfg.monitor)]
    trainer = instantiate(cfg.trainer, callbacks=[history, *kept], logger=False)
    trainer.fit(instantiate(cfg.method), instantiate(cfg.data))
    assert len(set(history.top1)) > 1
    for name, expected in (("converged", max(history.top1)), ("diverged", min(history.top1))):
        saved = torch.load(tmp_path / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert history.top1[saved["epoch"]] == expected


class History(pl.Callback):
    """Clean validation accuracy of every epoch."""

    def __init__(self) -> None:
        self.top1: list[float] = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.top1.append(float(trainer.callback_metrics["val/top1"]))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"adversarial_weight": 1.5}, "`method.adversarial_weight` must be in"),
        ({"mixture": "half"}, "`method.mixture` must be both or either"),
        ({"labels": "random"}, "`method.labels` must be true or predicted"),
        ({"noise_weight_decay": -1.0}, "`method.noise_weight_decay` must be at least 0"),
        ({"attack": PGD(norm="l2", epsilon=1.0, targeted=True)}, "`attack.targeted` must be false"),
    ],
)
def test_bad_input_is_one_sentence(setting, message):
    with pytest.raises(ValueError, match=message):
        CPNIModule(LinearNetwork(), SGD, **{"attack": LINF, **setting})
