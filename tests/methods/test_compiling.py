"""Compiled training gives the same weights and checkpoints, and does not change global state."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from robustsmooth.instantiation import instantiate
from robustsmooth.methods import CompiledTraining
from tests.methods.registry import METHODS

QUICK = ("gaussian",)


@pytest.fixture(autouse=True)
def _forget_compiled_code():
    yield
    torch.compiler.reset()


def fit(config, *callbacks, resume=None, save=None):
    torch.manual_seed(0)
    module = instantiate(config.method)
    trainer = instantiate(config.trainer, callbacks=list(callbacks), logger=False, enable_checkpointing=False)
    trainer.fit(module, instantiate(config.data), ckpt_path=resume, weights_only=True)
    if save is not None:
        trainer.save_checkpoint(save)
    return module


@pytest.fixture
def trained(tmp_path):
    """The checkpoint of a network to start from."""
    from robustsmooth.models import Classifier, Normalize, SmallCNN

    torch.manual_seed(7)
    network = Classifier(SmallCNN(10, 1, 4), Normalize([0.3057], [0.3761]), num_classes=10)
    state = {f"network.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "network.ckpt")
    return tmp_path / "network.ckpt"


def assert_same_training(one, other):
    one, other = one.state_dict(), other.state_dict()
    assert one.keys() == other.keys()
    assert not any("_orig_mod" in key for key in other)
    for key, value in one.items():
        assert torch.allclose(value.float(), other[key].float(), rtol=1e-3, atol=1e-4), key


class Watch(pl.Callback):
    """Counts compiled passes of the network in training and in validation."""

    def __init__(self):
        self.passes = {"train": 0, "val": 0}

    def setup(self, trainer, pl_module, stage):
        def backend(graph, inputs):
            def run(*args):
                self.passes["val" if trainer.validating or trainer.sanity_checking else "train"] += 1
                return graph(*args)

            return run

        self.backend = backend


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=row.name, marks=() if row.name in QUICK else pytest.mark.slow)
        for row in METHODS
        if not any("{" in word for word in row.words) or row.name in QUICK
    ],
)
def test_compiled_it_is_the_same_training(row, compose, trained):
    words = [word.format(trained=trained, votes="") for word in row.overrides]
    config = compose("train", *words, "trainer.max_epochs=1")
    plain, compiled = fit(config), fit(config, CompiledTraining(backend="aot_eager"))
    assert_same_training(plain, compiled)
    assert compiled.network._compiled_call_impl is not None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "backend"),
    [
        pytest.param(name, backend, marks=marks if name == "heat" else pytest.mark.slow)
        for backend, marks in (("aot_eager", ()), ("inductor", pytest.mark.slow))
        for name in ("gaussian", "smoothadv_pgd", "macer", "heat")
    ],
)
def test_a_run_is_resumed_with_and_without_compilation(name, backend, compose, trained, tmp_path):
    row = next(row for row in METHODS if row.name == name)
    words = [word.format(trained=trained, votes="") for word in row.overrides]
    both, first = (compose("train", *words, f"trainer.max_epochs={epochs}") for epochs in (2, 1))
    whole = fit(both)
    compile = CompiledTraining(backend=backend)
    fit(first, compile, save=tmp_path / "compiled.ckpt")
    fit(first, save=tmp_path / "plain.ckpt")
    keys = [torch.load(tmp_path / name)["state_dict"].keys() for name in ("compiled.ckpt", "plain.ckpt")]
    assert keys[0] == keys[1]
    assert_same_training(whole, fit(both, resume=tmp_path / "compiled.ckpt"))
    assert_same_training(whole, fit(both, compile, resume=tmp_path / "plain.ckpt"))


@pytest.mark.filterwarnings("ignore")
def test_training_is_compiled_and_validation_is_not(compose):
    config = compose("train", *METHODS[0].overrides, "trainer.max_epochs=2")
    watch = Watch()

    class Watched(CompiledTraining):
        def on_fit_start(self, trainer, pl_module):
            self.backend = watch.backend
            super().on_fit_start(trainer, pl_module)

    fit(config, watch, Watched())
    assert watch.passes["train"] >= 4
    assert watch.passes["val"] == 0


def test_copies_of_a_compiled_network_are_not_compiled():
    import copy

    network = nn.Linear(2, 2)
    network.compile(backend="eager")
    assert copy.deepcopy(network)._compiled_call_impl is None


def test_anything_but_true_and_false_is_refused():
    with pytest.raises(ValueError, match="`compile` must be true or false, got 'maybe'"):
        CompiledTraining("maybe")
