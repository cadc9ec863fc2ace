"""ClassificationModule: how it logs and checks what a method returns."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn

from robustsmooth.data import UNLABELED, Batch
from robustsmooth.instantiation import instantiate
from robustsmooth.methods import ClassificationModule
from robustsmooth.methods.callbacks import StopAtDivergence, WithinEpochs
from tests.methods.registry import METHODS


class Method(ClassificationModule):
    trainer = SimpleNamespace(optimizers=[SimpleNamespace(param_groups=[{"lr": 0.1}])])

    def training_loss(self, batch):
        return {"loss": self.network(batch.images).mean(), "schedule": torch.tensor(0.5)}


def test_what_is_logged_is_on_the_device_of_the_module(monkeypatch):
    """NCCL reduces it over several GPUs and needs it on the GPU. Here the second device is `meta`."""
    network = nn.Linear(4, 3)
    network.num_classes = 3
    method = Method(network, partial(torch.optim.SGD, lr=0.1)).to("meta")
    logged = {}
    monkeypatch.setattr(method, "log", lambda key, value, **_: logged.update({key: value}))
    monkeypatch.setattr(method.train_loss, "update", lambda *_: None)
    images = torch.rand(2, 4, device="meta")
    method.training_step(Batch(images, torch.zeros(2, dtype=torch.int64), torch.arange(2)), 0)
    assert logged["train/schedule"].device == method.device == torch.device("meta")


@pytest.mark.parametrize(
    ("method", "refused"),
    [
        (("method=gaussian",), True),
        (("method=smoothadv", "attack.epsilon=0.5"), True),
        (("method=smoothadv_selftraining", "attack.epsilon=0.5"), False),
        (("method=heat", "method.start=anywhere"), False),
    ],
)
def test_extra_images_without_labels_need_a_method_that_can_do_without(compose, method, refused):
    module = instantiate(compose("train", *method).method)
    extra = SimpleNamespace(labels=torch.tensor([UNLABELED, UNLABELED]))
    module._trainer = SimpleNamespace(datamodule=SimpleNamespace(extra=extra), max_epochs=4)
    if refused:
        with pytest.raises(ValueError, match=r"`data.extra` holds images without labels.* method=smoothadv_"):
            module.on_fit_start()
    else:
        module.on_fit_start()


def test_a_diverged_network_is_not_saved_and_buffers_may_be_infinite():
    network = nn.Linear(4, 3)
    network.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
    watch, trainer = StopAtDivergence(), SimpleNamespace(current_epoch=2)
    watch.setup(trainer, network, "fit")
    watch.on_save_checkpoint(trainer, network, {"state_dict": network.state_dict() | {"extra": None}})
    network.bias.data[1] = torch.nan
    with pytest.raises(ValueError, match=r"in epoch 3: 1 of 3 tensors hold NaN.* bias first"):
        watch.on_save_checkpoint(trainer, network, {"state_dict": network.state_dict()})


@pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable.*")  # our sampler can be resumed
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* not empty")
def test_a_training_saves_only_between_accumulated_steps(compose, tmp_path):
    """A checkpoint does not contain the gradients of a step that is not complete."""
    method, *_ = METHODS
    words = ("data.batch_size=4", "trainer.max_epochs=2", "trainer.accumulate_grad_batches=5")
    config = compose("train", *method.overrides, *words)  # ten batches, two steps in an epoch
    saved: list[int] = []

    class Watch(Callback):
        def on_save_checkpoint(self, trainer, pl_module, checkpoint):
            saved.append(trainer.fit_loop.epoch_loop.batch_progress.current.processed)

    for resumed in (None, tmp_path / "last.ckpt"):
        within = WithinEpochs(tmp_path, filename="last", every_n_train_steps=1, enable_version_counter=False)
        trainer = instantiate(config.trainer, callbacks=[within, Watch()], logger=False)
        module = instantiate(config.method)
        trainer.fit(module, instantiate(config.data), ckpt_path=resumed, weights_only=True)
        assert saved == [5, 5]  # after the first step of each epoch; the resumed part has only the last
