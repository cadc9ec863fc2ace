"""What holds for every training method: each test runs for every row of the registry."""

import copy
import os
import signal

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import Callback
from torch import nn

from robustsmooth.data import UNLABELED, DigitsDataModule
from robustsmooth.instantiation import instantiate
from robustsmooth.losses import mean_terms
from robustsmooth.methods import ClassificationModule, SmoothAdvModule, Sun2025Module
from robustsmooth.methods.callbacks import KeepMetrics
from tests.composing import composed
from tests.methods.registry import METHODS

STEPS = 8  # four epochs of two batches


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A checkpoint of the registry's network: some methods start from one."""
    from robustsmooth.models import Classifier, Normalize, SmallCNN

    torch.manual_seed(7)
    network = Classifier(SmallCNN(10, 1, 4), Normalize([0.3057], [0.3761]), num_classes=10)
    path = tmp_path_factory.mktemp("trained") / "network.ckpt"
    torch.save({"state_dict": {f"network.{key}": value for key, value in network.state_dict().items()}}, path)
    return path


@pytest.fixture(scope="module", params=METHODS, ids=lambda method: method.name)
def method(request):
    return request.param


ONCE_PER_METHOD = [
    pytest.param(row, id=row.name, marks=[pytest.mark.slow] if row.variant else []) for row in METHODS
]
"""The rows of tests whose result is the same for the variants of a method."""


@pytest.fixture(scope="session")
def votes(tmp_path_factory):
    """Votes on all images of the digits' training split, as `robustsmooth.predict` writes them."""
    folder = tmp_path_factory.mktemp("votes")
    labels = DigitsDataModule(channels=1).part("train").labels.tolist()
    rows = [f"{index}\t{label}:9,{(label + 1) % 10}:1" for index, label in enumerate(labels)]
    (folder / "predict.tsv").write_text("\n".join(["idx\tcounts", *rows]) + "\n")
    return folder


@pytest.fixture(scope="module")
def composed_once(method, trained, votes):
    return composed("train", *(word.format(trained=trained, votes=votes) for word in method.overrides))


@pytest.fixture
def config(composed_once):
    return copy.deepcopy(composed_once)


def build(config):
    torch.manual_seed(0)
    return instantiate(config.method)


def fit(config, module, *callbacks, ckpt_path=None, **kwargs):
    trainer = instantiate(
        config.trainer, callbacks=list(callbacks), logger=False, enable_checkpointing=False, **kwargs
    )
    trainer.fit(module, instantiate(config.data), ckpt_path=ckpt_path, weights_only=True)
    return trainer


@pytest.fixture(scope="module")
def whole(method, composed_once, tmp_path_factory):
    """An uninterrupted run: the trainer, the module, its checkpoints."""
    kept, module = Checkpoints(tmp_path_factory.mktemp(method.name)), build(composed_once)
    return fit(composed_once, module, KeepMetrics(), kept), module, kept


class Checkpoints(Callback):
    """Writes the checkpoints that are read: within an epoch, after an epoch, at the end.

    Attributes:
        logged: The values of every finished epoch.
    """

    def __init__(self, folder):
        self.folder, self.logged = folder, {}

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step in (3, STEPS):
            trainer.save_checkpoint(self.folder / f"step={trainer.global_step}.ckpt")

    def on_train_epoch_end(self, trainer, pl_module):
        self.logged[trainer.current_epoch] = {
            key: value.clone() for key, value in trainer.callback_metrics.items()
        }
        if trainer.current_epoch == 1:
            trainer.save_checkpoint(self.folder / "epoch=1.ckpt")


def assert_equal_states(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


def test_trains_and_logs(method, config, whole):
    trainer, module, _ = whole
    before = build(config).network.state_dict()
    assert trainer.global_step == STEPS
    moved = [key for key, value in module.network.state_dict().items() if not torch.equal(value, before[key])]
    assert any("weight" in key for key in moved)
    for key in ("train/loss", "train/learning_rate", "val/loss", "val/top1", "val/noisy_top1", *method.logs):
        assert torch.isfinite(trainer.callback_metrics[key]), key


@pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable.*")  # our sampler can be resumed
@pytest.mark.parametrize("checkpoint", ["step=3", pytest.param("epoch=1", marks=pytest.mark.slow)])
def test_resumes_exactly(config, whole, tmp_path, checkpoint):
    """Therefore a second run of the same config is the same, too."""
    _, uninterrupted, kept = whole
    torch.manual_seed(123)  # the random state of the new process does not matter
    resumed = instantiate(config.method)
    again = Checkpoints(tmp_path)
    fit(config, resumed, KeepMetrics(), again, ckpt_path=kept.folder / f"{checkpoint}.ckpt")
    assert_equal_states(uninterrupted.state_dict(), resumed.state_dict())
    ends = [torch.load(item / f"step={STEPS}.ckpt", weights_only=True) for item in (kept.folder, tmp_path)]
    one, other = (end["optimizer_states"][0]["state"] for end in ends)
    assert one.keys() == other.keys()
    for key, state in one.items():
        assert_equal_states(*({k: torch.as_tensor(v) for k, v in s.items()} for s in (state, other[key])))
    assert list(again.logged)[-2:] == [2, 3]
    for epoch, logged in again.logged.items():
        assert_equal_states(kept.logged[epoch], logged)


@pytest.mark.parametrize("method", ONCE_PER_METHOD, indirect=True)
def test_loss_falls_on_a_tiny_set(method, config):
    module = build(config)
    data = instantiate(config.data)
    batch = data.convert(next(iter(data.train_dataloader())))
    config.method.optimizer.lr = method.learning_rate
    optimizer = instantiate(config.method.optimizer)(module.parameter_groups())
    losses = []
    module.train()
    for _ in range(15):
        module.on_train_batch_start(batch, 0)  # the same randomness in every step
        result = module.training_loss(batch)
        loss = result["loss"] if isinstance(result, dict) else result
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < method.falls_to * losses[0]


def test_the_batch_is_not_changed(config):
    module = build(config)
    data = instantiate(config.data)
    batch = data.convert(next(iter(data.train_dataloader())))
    copies = [tensor.clone() for tensor in batch]
    module.on_train_batch_start(batch, 0)
    module.training_loss(batch)
    assert all(torch.equal(copy, tensor) for copy, tensor in zip(copies, batch, strict=True))
    assert not batch.images.requires_grad
    assert module.network.training


NEWER = ("stability", "consistency", "smoothmix", "cat_rs", "sun2025", "denoiser")


@pytest.mark.parametrize(
    "method", [method for method in METHODS if method.name in NEWER], ids=lambda method: method.name
)
def test_a_killed_training_goes_on_to_the_same_weights(method, trained, votes, call, monkeypatch, tmp_path):
    """SIGKILL in the middle of the second of two epochs, in the command itself."""
    words = [word.format(trained=trained, votes=votes) for word in method.overrides]
    words += ["trainer.max_epochs=2"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    child = os.fork()
    if child == 0:
        step = ClassificationModule.training_step

        def deadly(self, batch, batch_idx):
            if self.global_step == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(self, batch, batch_idx)

        try:
            monkeypatch.setattr(ClassificationModule, "training_step", deadly)
            call("train", *words, "save_every_steps=1", f"hydra.run.dir={killed}")
        finally:
            os._exit(1)  # not reached: it is killed
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert torch.load(killed / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3
    call("train", *words, "save_every_steps=1", f"hydra.run.dir={killed}")
    call("train", *words, f"hydra.run.dir={whole}")
    ends = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (killed, whole)]
    assert [end["global_step"] for end in ends] == [4, 4]
    assert_equal_states(*(end["state_dict"] for end in ends))


class SaveRank(Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_fit_end(self, trainer, pl_module):
        parameters = {key: value.detach() for key, value in pl_module.named_parameters()}
        torch.save(parameters, self.folder / f"rank{trainer.global_rank}.pt")


@pytest.mark.ddp
@pytest.mark.filterwarnings("ignore:Grad strides do not match bucket view strides")  # one channel
@pytest.mark.parametrize("method", ONCE_PER_METHOD, indirect=True)
def test_two_ranks_stay_in_step(config, tmp_path):
    config.trainer.max_epochs = 2
    if "time_steps" in config.method:
        config.method.time_steps = min(2, config.method.time_steps)
    start = build(config)
    before = {key: value.clone() for key, value in start.named_parameters()}
    fit(config, start, SaveRank(tmp_path), devices=2, strategy="ddp_fork")
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    assert_equal_states(*ranks)
    assert any(not torch.equal(value, before[key]) for key, value in ranks[0].items())


class SaveImages(Callback):
    """The images of every step, one file for each rank."""

    def __init__(self, folder):
        self.folder, self.steps = folder, []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.steps.append(batch.indices.clone())

    def on_fit_end(self, trainer, pl_module):
        torch.save(torch.stack(self.steps), self.folder / f"{trainer.world_size}-{trainer.global_rank}.pt")


@pytest.mark.ddp
@pytest.mark.filterwarnings("ignore:Grad strides do not match bucket view strides")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sun2025", ["method.warmup_epochs=0", "trainer.max_epochs=1"]),  # votes of the network itself
        ("sun2025_voter", ["method.warmup_epochs=1"]),  # images are dropped before the second epoch
    ],
)
def test_two_ranks_draw_the_images_of_one_process(name, words, compose, trained, tmp_path):
    (method,) = (row for row in METHODS if row.name == name)
    given = [word.format(trained=trained) for word in method.overrides]
    config = compose("train", *given, *words, "method.discard_below=0.2")
    for devices in (1, 2):
        options = {"devices": 2, "strategy": "ddp_fork"} if devices == 2 else {}
        fit(config, build(config), SaveImages(tmp_path), **options)
    alone, *ranks = (torch.load(tmp_path / f"{file}.pt") for file in ("1-0", "2-0", "2-1"))
    assert torch.equal(torch.cat(ranks, dim=1).sort(dim=1).values, alone.sort(dim=1).values)
    drawn = alone[-2:].flatten()
    assert len(drawn.unique()) < 20  # of 40: some are dropped, others are drawn twice


@pytest.mark.ddp
@pytest.mark.filterwarnings("ignore:Grad strides do not match bucket view strides")
def test_two_ranks_count_the_votes_of_one_process(compose, monkeypatch, tmp_path):
    """Before the first step, while the networks are equal: a seed that differs between ranks would show."""
    count = Sun2025Module._right_votes

    def kept(self, network, votes, purpose, *rest):
        right = count(self, network, votes, purpose, *rest)
        torch.save(right, tmp_path / f"{purpose}-{self.trainer.world_size}-{self.global_rank}.pt")
        return right

    monkeypatch.setattr(Sun2025Module, "_right_votes", kept)
    (method,) = (row for row in METHODS if row.name == "sun2025")
    words = [
        "method.warmup_epochs=0",
        "trainer.max_epochs=1",
        "method.sigma=0.5",
        "method.discard_below=0.01",
    ]
    config = compose("train", *method.overrides, *words)
    for devices in (1, 2):
        module = build(config)
        module.network.network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))  # whose answers noise changes
        fit(config, module, **({"devices": 2, "strategy": "ddp_fork"} if devices == 2 else {}))
    for purpose, votes in (("discard", 20), ("reweight", 16)):
        alone, *ranks = (torch.load(tmp_path / f"{purpose}-{file}.pt") for file in ("1-0", "2-0", "2-1"))
        assert ((alone > 0) & (alone < votes)).sum() >= 8  # undecided: other noise changes them
        assert all(torch.equal(alone, rank) for rank in ranks)


@pytest.mark.ddp
@pytest.mark.filterwarnings("ignore:Grad strides do not match bucket view strides")
def test_two_ranks_weigh_the_extra_images_as_one_process(compose, monkeypatch, trained, tmp_path):
    """Their share in the loss, however many of them a rank has."""
    label = SmoothAdvModule._labels

    def kept(self, batch):
        extra = batch.indices % 3 > 0
        labels, weights = label(self, batch._replace(labels=batch.labels.where(~extra, UNLABELED)))
        share = mean_terms({"share": extra.float()}, weights)["loss"]
        torch.save(share, tmp_path / f"{self.trainer.world_size}-{self.global_rank}.pt")
        return labels, weights

    monkeypatch.setattr(SmoothAdvModule, "_labels", kept)
    (method,) = (row for row in METHODS if row.name == "smoothadv_more_data")
    words = [word.format(trained=trained) for word in method.overrides]
    config = compose("train", *words, "trainer.max_epochs=1", "method.extra_weight=0.1")
    for devices in (1, 2):
        fit(config, build(config), **({"devices": 2, "strategy": "ddp_fork"} if devices == 2 else {}))
    alone, *ranks = (torch.load(tmp_path / f"{file}.pt") for file in ("1-0", "2-0", "2-1"))
    assert ranks[0] != ranks[1]
    assert sum(ranks) / 2 == pytest.approx(alone)


def test_config_round_trip(config, tmp_path):
    """The resolved config that a run saves builds the same module; unknown keys are refused."""
    path = tmp_path / "config.yaml"
    path.write_text(OmegaConf.to_yaml(config, resolve=True))
    first, second = build(config), build(OmegaConf.load(path))
    assert type(first) is type(second)
    assert isinstance(first, pl.LightningModule)
    assert_equal_states(first.state_dict(), second.state_dict())
    with pytest.raises(Exception, match="sigmaa"):
        instantiate(config.method, sigmaa=0.1)
