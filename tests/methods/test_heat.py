"""HeatSmoothingModule: no labels, a frozen teacher, and the start of each time step."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader

from robustsmooth.data import Batch
from robustsmooth.losses import HeatLoss
from robustsmooth.methods import HeatSmoothingModule
from robustsmooth.methods.heat import reinitialize

pytestmark = pytest.mark.filterwarnings("ignore:.*no `val_dataloader`.*")

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


class Network(nn.Sequential):
    num_classes = 4

    def __init__(self):
        super().__init__(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 4))


def module(**options):
    return HeatSmoothingModule(
        Network(), SGD, **{"sigma": 0.3, "loss": HeatLoss(num_probes=2), "start": "somewhere", **options}
    )


def images(count=8):
    return torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def fit(heat, epochs, *callbacks):
    data = [Batch(image, torch.tensor(0), torch.tensor(i)) for i, image in enumerate(images(8))]
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        limit_val_batches=0,
    )
    trainer.fit(heat, DataLoader(data, batch_size=4))
    return trainer


def test_labels_never_reach_the_loss():
    class Forbidden:
        def __getattr__(self, name):
            raise AssertionError("the loss looked at the labels")

    heat = module(noise_probability=0.5)
    terms = heat.training_loss(Batch(images(), Forbidden(), torch.arange(8)))
    assert set(terms) == {"loss", "fidelity", "penalty"}  # no logits, therefore no accuracy
    terms["loss"].backward()


def test_teacher_sees_clean_images_in_eval_mode_and_stays_as_it_is():
    heat = module(noise_probability=1.0)
    seen = []
    heat.teacher.register_forward_hook(lambda net, args, out: seen.append((args[0], net.training)))
    before = {key: value.clone() for key, value in heat.teacher.state_dict().items()}
    fit(heat, 2)
    assert all(torch.equal(value, before[key]) for key, value in heat.teacher.state_dict().items())
    assert not any(training or module.training for _, training in seen for module in heat.teacher.modules())
    assert all(batch.min() >= 0 and batch.max() <= 1 for batch, _ in seen)
    assert not any(parameter.requires_grad for parameter in heat.teacher.parameters())
    assert not any(
        torch.equal(a, b) for a, b in zip(heat.network.parameters(), heat.teacher.parameters(), strict=True)
    )


@pytest.mark.parametrize(("probability", "low", "high"), [(0.0, 0, 0), (0.5, 120, 180), (1.0, 300, 300)])
def test_share_of_noisy_images(probability, low, high):
    """300 images at probability 1/2: 150 +- 30 is more than three standard deviations of a binomial."""
    heat = module(noise_probability=probability, sigma=0.3)
    clean = images(300)
    difference = (heat._student_input(clean) - clean).flatten(1)
    noisy = difference.abs().sum(1) > 0
    assert low <= int(noisy.sum()) <= high
    if high:
        assert difference[noisy].std() == pytest.approx(0.3, rel=0.1)


class Watch(Callback):
    """For every training step: the learning rate, the teacher, the sum of the momentum buffers."""

    def __init__(self):
        self.rates, self.teachers, self.fresh, self.students = [], [], [], []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])
        self.fresh.append(not optimizer.state)
        self.teachers.append(pl_module.teacher[0].weight.clone())

    def on_train_epoch_end(self, trainer, pl_module):
        self.students.append(pl_module.network[0].weight.detach().clone())


@pytest.mark.parametrize("student", ["copy", "random"])
def test_time_steps(student):
    """Three time steps of two epochs of two batches: optimiser, schedule and teacher start again."""
    watch = Watch()
    heat = module(
        time_steps=3, student=student, scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=1)
    )
    start = heat.teacher[0].weight.clone()
    fit(heat, 6, watch)
    assert watch.rates == pytest.approx([0.1, 0.1, 0.01, 0.01] * 3)
    assert [index for index, fresh in enumerate(watch.fresh) if fresh] == [0, 4, 8]
    assert all(torch.equal(teacher, start) for teacher in watch.teachers[:4])
    for step in (1, 2):  # the teacher of a time step is the student of the one before
        last = watch.students[2 * step - 1]
        assert all(torch.equal(teacher, last) for teacher in watch.teachers[4 * step : 4 * step + 4])
    assert heat.time_step == 2


@pytest.mark.parametrize("student", ["copy", "random"])
def test_a_student_that_does_not_start_from_the_given_network_is_reported(caplog, student):
    fit(module(time_steps=2, student=student), 2)
    assert ("starts from random weights in each of the 2 time steps of 1 epochs" in caplog.text) == (
        student == "random"
    )


def test_random_students_differ_by_time_step_only():
    networks = []
    for seed in (1, 1, 2):
        networks.append(Network())
        state = torch.get_rng_state()
        reinitialize(networks[-1], seed)
        assert torch.equal(torch.get_rng_state(), state)
    first, second, third = (network[4].weight for network in networks)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert networks[0][1].running_mean.abs().sum() == 0

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

    with pytest.raises(ValueError, match="cannot initialise `0`: Odd has no reset_parameters"):
        reinitialize(nn.Sequential(Odd()), 0)


def test_penalty_carries_the_time_step():
    one = module(loss=HeatLoss(num_probes=2))
    four = module(loss=HeatLoss(num_probes=2), time_steps=4)
    four.load_state_dict(one.state_dict())
    batch = Batch(images(), torch.zeros(8), torch.arange(8))
    torch.testing.assert_close(one.training_loss(batch)["penalty"], 4 * four.training_loss(batch)["penalty"])


def test_biases_without_weight_decay():
    groups = module(decay_biases=False).parameter_groups()
    assert [len(group["params"]) for group in groups] == [3, 3]
    assert all(parameter.dim() == 1 for parameter in groups[1]["params"])
    assert groups[1]["weight_decay"] == 0
    assert len(module().parameter_groups()) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": None}, "HeatSmoothing starts from a trained network: add model.checkpoint=<run folder>"),
        ({"time_steps": 0}, "`method.time_steps` must be at least 1, got 0"),
        ({"student": "none"}, "`method.student` must be one of copy, random, got 'none'"),
        ({"noise_probability": 1.5}, r"`method.noise_probability` must be in \[0, 1\], got 1.5"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        module(**options)


def test_epochs_must_divide_into_time_steps():
    with pytest.raises(
        ValueError, match=r"`trainer.max_epochs` must be a multiple of method.time_steps=3, got 4"
    ):
        fit(module(time_steps=3), 4)
