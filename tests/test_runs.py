"""`robustsmooth.load`: our networks and foreign ones, and what is known about their training."""

import shutil
from contextlib import nullcontext

import pytest
import torch
from omegaconf import OmegaConf

import robustsmooth
import robustsmooth.data
import robustsmooth.models.storage
from robustsmooth import runs
from robustsmooth.instantiation import instantiate
from robustsmooth.models import DnCNN, read_checkpoint, save_safetensors
from robustsmooth.runs import open_run
from robustsmooth.smoothing import GaussianNoise, GridGaussianNoise, UniformNoise

IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def trained(compose, tmp_path, request):
    """A run folder as `train` writes it, and its network."""
    settings = ["method.sigma=0.5", "data.val_images=60", *getattr(request, "param", [])]
    config = OmegaConf.to_container(compose("train", *settings), resolve=True)
    network = instantiate(config["model"]).eval()
    state = {f"network.{key}": value for key, value in network.state_dict().items()}
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    content = {"state_dict": state, "robustsmooth": {"config": config}}
    torch.save(content, tmp_path / "run" / "checkpoints" / "last.ckpt")
    (tmp_path / "run" / "summary.json").touch()
    torch.save(network.network.state_dict(), tmp_path / "foreign.pt")
    (tmp_path / "hub").mkdir()
    save_safetensors(network, tmp_path / "hub" / "model.safetensors", config)
    return network


@pytest.mark.parametrize(
    "place", ["run", "run/checkpoints/last.ckpt", "hub", "hub/model.safetensors"], ids=lambda place: place
)
def test_a_run_is_opened_with_the_facts_of_its_training(trained, tmp_path, place):
    found = robustsmooth.load(tmp_path / place)
    assert torch.equal(found.network(IMAGES), trained(IMAGES))
    assert not found.network.training
    assert found.noise == GaussianNoise(0.5)
    assert found.sigma == 0.5
    assert found.data["num_classes"] == 10
    assert found.data["val_images"] == 60
    assert found.training["method"]["_target_"] == "robustsmooth.methods.GaussianModule"


def test_a_foreign_file_is_opened_with_its_network_named(trained, tmp_path):
    found = robustsmooth.load(tmp_path / "foreign.pt", "data=digits", "model=small_cnn")
    assert torch.equal(found.network(IMAGES), trained(IMAGES))
    assert found.sigma is None
    assert found.noise is None
    assert found.training == {}
    assert found.data["num_classes"] == 10


def test_a_setting_replaces_a_trained_one(trained, tmp_path):
    assert robustsmooth.load(tmp_path / "run", "data.batch_size=7").data["batch_size"] == 7


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ([], "does not say which data it was trained with"),
        (["data=imagenet", "model=as_trained"], "such as model=resnet50 model.normalization=imagenet"),
        (["data=digits", "model=as_trained"], "such as model=small_cnn"),
        (["data=digits", "model=cifar_resnet20"], "does not fit the network"),
        (["data=imagefolder", "model=small_cnn"], "number of classes is not known .* give data.num_classes="),
    ],
)
def test_settings_that_a_foreign_file_lacks_must_be_given(trained, tmp_path, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        robustsmooth.load(tmp_path / "foreign.pt", *settings)


def test_a_run_of_a_network_without_its_normalisation_says_what_is_missing(tmp_path, compose):
    config = OmegaConf.to_container(compose("train"), resolve=True)
    config["model"] = {"_target_": "torch.nn.Linear", "in_features": 64, "out_features": 10}
    torch.save({"state_dict": {}, "robustsmooth": {"config": config}}, tmp_path / "last.ckpt")
    with pytest.raises(
        ValueError, match=r"names torch.nn.Linear, which takes no `checkpoint`; wrap a network"
    ):
        robustsmooth.load(tmp_path / "last.ckpt", trust=["torch.nn.Linear"])


def test_a_path_that_does_not_exist_is_one_sentence():
    with pytest.raises(ValueError, match=r"`checkpoint` must be a run folder or a checkpoint file, got null"):
        robustsmooth.load(None)


def test_a_checkpoint_is_read_once_and_the_command_keeps_its_config(trained, tmp_path, compose, monkeypatch):
    read = []
    whole = robustsmooth.models.state.load_file
    monkeypatch.setattr(robustsmooth.models.state, "load_file", lambda path: read.append(path) or whole(path))
    cfg = compose("certify", f"checkpoint={tmp_path / 'run'}")
    before = OmegaConf.to_yaml(cfg)
    run = open_run(cfg)
    assert read == [tmp_path / "run" / "checkpoints" / "last.ckpt"]
    assert OmegaConf.to_yaml(cfg) == before
    assert run.config.smoothing.sigma == 0.5
    assert run.config.model.checkpoint == run.config.checkpoint == str(read[0])
    assert torch.equal(run.network(IMAGES), trained(IMAGES))


@pytest.mark.parametrize("trained", [["smoothing=uniform"]], indirect=True)
def test_the_noise_of_the_training_is_the_default(trained, tmp_path, compose):
    def noise(*words):
        return instantiate(
            open_run(compose("certify", f"checkpoint={tmp_path / 'run'}", *words)).config.smoothing
        )

    assert robustsmooth.load(tmp_path / "run").noise == UniformNoise(0.5)
    assert noise() == UniformNoise(0.5)
    assert noise("smoothing.sigma=0.25") == UniformNoise(0.25)
    assert noise("smoothing=gaussian") == GaussianNoise(0.5)
    assert noise("smoothing=grid_gaussian", "smoothing.sigma=1") == GridGaussianNoise(1.0)


def test_the_training_noise_of_foreign_weights_is_unknown(trained, tmp_path, compose):
    with pytest.raises(
        ValueError, match=r"does not say with which noise it was trained; give smoothing.sigma"
    ):
        open_run(
            compose("certify", f"checkpoint={tmp_path / 'foreign.pt'}", "data=digits", "model=small_cnn")
        )


def test_a_given_model_takes_the_classes_of_the_trained_data(trained, tmp_path, compose):
    run = open_run(compose("certify", f"checkpoint={tmp_path / 'run'}", "model=small_cnn"))
    assert torch.equal(run.network(IMAGES), trained(IMAGES))


def test_the_checkpoint_before_a_damaged_one_is_proposed(trained, tmp_path):
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    (last.parent / "previous.ckpt").write_bytes(last.read_bytes())
    last.write_bytes(last.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"damaged; use another one, such as `.*previous.ckpt`"):
        robustsmooth.load(tmp_path / "run")
    assert robustsmooth.load(last.parent / "previous.ckpt").sigma == 0.5


@pytest.mark.parametrize(
    "opened",
    [
        lambda run, compose: open_run(compose("certify", f"checkpoint={run}")),
        lambda run, compose: robustsmooth.load(run),
        lambda run, compose: runs.open_ensemble(run / "checkpoints" / "last.ckpt", [run]),
    ],
    ids=["command", "load", "member"],
)
def test_a_run_whose_training_has_not_ended_is_not_evaluated(trained, tmp_path, compose, opened):
    (tmp_path / "run" / "summary.json").unlink()
    with pytest.raises(ValueError, match="has not ended; finish it first: start its command again"):
        opened(tmp_path / "run", compose)
    robustsmooth.load(tmp_path / "run" / "checkpoints" / "last.ckpt")


def test_an_ensemble_reads_each_file_once(trained, tmp_path, monkeypatch):
    """The command has read the first one already, for the config of its training."""
    read = []
    monkeypatch.setattr(runs, "read_checkpoint", lambda path: read.append(path) or read_checkpoint(path))
    both = runs.open_ensemble(read_checkpoint(tmp_path / "run"), [tmp_path / "run"])
    assert read == [tmp_path / "run" / "checkpoints" / "last.ckpt"]
    torch.testing.assert_close(both(IMAGES), trained(IMAGES))


OWN = "robustsmooth.models.classifier.SmallCNN"  # not among the names that are trusted
DENOISER = ("+denoiser@model.denoiser=dncnn", "model.denoiser.depth=3")


@pytest.mark.parametrize("place", ["run", "foreign.pt"])
def test_a_denoiser_without_weights_is_refused(trained, tmp_path, place):
    known = () if place == "run" else ("data=digits", "model=small_cnn")
    with pytest.raises(ValueError, match=r"the denoiser has no weights.*set model\.denoiser_checkpoint"):
        robustsmooth.load(tmp_path / place, *known, *DENOISER)
    torch.save(DnCNN(channels=1, depth=3).state_dict(), tmp_path / "denoiser.pt")
    given = f"model.denoiser_checkpoint={tmp_path}/denoiser.pt"
    assert isinstance(robustsmooth.load(tmp_path / place, *known, *DENOISER, given).network.denoiser, DnCNN)


def test_a_denoiser_of_others_may_have_its_own_weights(trained, tmp_path):
    found = robustsmooth.load(tmp_path / "run", "+model.denoiser={_target_:torch.nn.Identity}")
    assert torch.equal(found.network(IMAGES), trained(IMAGES))


@pytest.mark.parametrize("trained", [DENOISER], indirect=True)
def test_a_trained_denoiser_is_in_the_file(trained, tmp_path, caplog):
    assert torch.equal(robustsmooth.load(tmp_path / "run").network(IMAGES), trained(IMAGES))
    assert not caplog.records
    torch.save(DnCNN(channels=1, depth=3).state_dict(), tmp_path / "other.pt")
    found = robustsmooth.load(tmp_path / "run", f"model.denoiser_checkpoint={tmp_path}/other.pt")
    assert torch.equal(found.network(IMAGES), trained(IMAGES))
    assert "its own denoiser; those are used" in caplog.text


def test_an_ensemble_of_own_networks_is_opened_with_trust(trained, tmp_path, compose):
    """The class is trusted for the first run and for the others."""
    for name in ("run", "other"):
        path = tmp_path / name / "checkpoints" / "last.ckpt"
        content = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt")
        content["robustsmooth"]["config"]["model"]["network"]["_target_"] = OWN
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, path)
        (tmp_path / name / "summary.json").touch()
    settings = ("model=ensemble", f"model.members=[{tmp_path}/other]")
    found = robustsmooth.load(tmp_path / "run", *settings, trust=[OWN])
    assert torch.equal(found.network(IMAGES), trained(IMAGES))
    words = (f"checkpoint={tmp_path}/run", *settings, "data.subset.max=2")
    assert open_run(compose("certify", *words, f"trust=[{OWN}]")).network.num_classes == 10
    with pytest.raises(ValueError, match=f"wants to call {OWN}"):
        open_run(compose("certify", *words))


def with_classes(file, names):
    content = torch.load(file, weights_only=True)
    content["robustsmooth"]["config"]["classes"] = names
    torch.save(content, file)


DIGITS = [str(digit) for digit in range(10)]


@pytest.mark.parametrize(
    ("then", "now", "refused"),
    [
        (["cat", "dog"], ["cat", "dog"], None),
        (["cat", "dog"], ["Dog", "cat"], "label 0 is 'cat' in the training of .*, but 'Dog' in the data"),
        (["a", "b", "d"], ["a", "c", "d"], "label 1 is 'b' .* but 'c'"),
        (["a", "b"], ["0", "1"], None),  # names that are the labels are no names
        (["0", "1"], ["a", "b"], None),
        (["a", "b"], ["00", "01"], None),
        (["001", "000"], ["000", "001"], "label 0 is '001'"),
        (None, ["a", "b"], None),
        ([str(label) for label in range(11)], ["0", "1", "10", *DIGITS[2:]], "label 2 is '2' .* but '10'"),
    ],
)
def test_classes_in_another_order_are_refused(trained, tmp_path, compose, monkeypatch, then, now, refused):
    if then is not None:
        with_classes(tmp_path / "run" / "checkpoints" / "last.ckpt", then)
    monkeypatch.setattr(robustsmooth.data.DigitsDataModule, "class_names", now)
    cfg = compose("certify", f"checkpoint={tmp_path / 'run'}")
    with nullcontext() if refused is None else pytest.raises(ValueError, match=refused):
        open_run(cfg)


def test_what_reads_no_data_does_not_ask_for_their_classes(trained, tmp_path, compose, monkeypatch):
    """An export, whose data may be gone or others."""
    with_classes(tmp_path / "run" / "checkpoints" / "last.ckpt", DIGITS)

    def missing(self, split):
        raise ValueError("the data have 3 classes")

    monkeypatch.setattr(robustsmooth.data.DigitsDataModule, "names", missing)
    cfg = compose("export", f"checkpoint={tmp_path / 'run'}")
    assert torch.equal(open_run(cfg, needs_data=False).network(IMAGES), trained(IMAGES))
    with pytest.raises(ValueError, match="3 classes"):
        open_run(cfg)


def test_the_members_of_an_ensemble_have_the_same_classes(trained, tmp_path):
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    with_classes(tmp_path / "run" / "checkpoints" / "last.ckpt", ["cat", "dog"])
    with_classes(tmp_path / "other" / "checkpoints" / "last.ckpt", ["Dog", "cat"])
    with pytest.raises(
        ValueError, match=r"label 0 is 'Dog' in the training of .*other.*, but 'cat' in .*run.*; members"
    ):
        runs.open_ensemble(tmp_path / "run", [tmp_path / "other"])
