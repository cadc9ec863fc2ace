"""Hostile checkpoints: a config that names code, files or secrets is refused before anything is executed."""

import copy
import json
import pickle
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from robustsmooth.instantiation import instantiate
from robustsmooth.models import SmallCNN, build_classifier
from robustsmooth.runs import open_network, open_run
from robustsmooth.trust import TRUSTED, plain, targets, trusted
from tests.test_conf import CONF

SUBSET = {"_target_": "robustsmooth.data.Subset"}
DATA = {"_target_": "robustsmooth.data.DigitsDataModule", "num_classes": 10, "channels": 1, "subset": SUBSET}
MODEL = {
    "_target_": "robustsmooth.models.build_classifier",
    "network": {"_target_": "robustsmooth.models.SmallCNN", "num_classes": 10, "width": 4},
    "num_classes": 10,
    "normalization": None,
    "checkpoint": None,
}
TRAINING = {"data": DATA, "model": MODEL, "method": {"_target_": "my_methods.Mine", "sigma": 0.25}, "seed": 0}
SYSTEM = {"_target_": "hydra.utils.get_method", "path": "os.system"}


class _Touch:
    """A pickle that makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def _pickled(folder: Path, name: str) -> str:
    """A file that executes code when it is read by `name`'s reader."""
    path, bomb = folder / name, _Touch(folder / "executed")
    if name == "numpy.npy":
        np.save(path, np.array([bomb], dtype=object), allow_pickle=True)
    elif name == "joblib":
        joblib.dump(bomb, path)
    elif name == "torch":
        torch.save(bomb, path)
    else:
        path.write_bytes(pickle.dumps(bomb))
    return str(path)


def _hub(folder: Path) -> str:
    (folder / "hubconf.py").write_text(f"open({str(folder / 'executed')!r}, 'w')\ndef f(): pass\n")
    return str(folder)


def _call(name, *args, **kwargs):
    return lambda folder: {"_target_": name, "_args_": list(args), **kwargs}


def _touch(name, **kwargs):
    """A constructor whose first argument is a shell command or a line of Python."""
    return lambda folder: {"_target_": name, "_args_": [f"touch {folder / 'executed'}"], **kwargs}


ZOO = {
    "collect_env": lambda folder: {
        "_target_": "torch.utils.collect_env.run",
        "command": f"touch {folder / 'executed'}",
    },
    "torch.hub": lambda folder: {
        "_target_": "torch.hub.load",
        "repo_or_dir": _hub(folder),
        "model": "f",
        "source": "local",
    },
    "torch.load": lambda folder: {
        "_target_": "torch.load",
        "f": _pickled(folder, "torch"),
        "weights_only": False,
    },
    "joblib.load": lambda folder: {"_target_": "joblib.load", "filename": _pickled(folder, "joblib")},
    "read_pickle": lambda folder: {
        "_target_": "pandas.read_pickle",
        "filepath_or_buffer": _pickled(folder, "a.pkl"),
    },
    "numpy.load": lambda folder: {
        "_target_": "numpy.load",
        "file": _pickled(folder, "numpy.npy"),
        "allow_pickle": True,
    },
    "write_text": lambda folder: {
        "_target_": "pathlib.Path.write_text",
        "_args_": [{"_target_": "pathlib.Path", "_args_": [str(folder / "executed")]}, "mine"],
    },
    "touch": lambda folder: {
        "_target_": "pathlib.Path.touch",
        "_args_": [{"_target_": "pathlib.Path", "_args_": [str(folder / "executed")]}],
    },
    "subprocess": _touch("subprocess.getoutput"),
    "os.system": _touch("os.system"),
    "posix": _touch("posix.system"),
    "eval": lambda folder: {
        "_target_": "builtins.eval",
        "_args_": [f"open({str(folder / 'executed')!r}, 'w')"],
    },
    "exec": lambda folder: {
        "_target_": "builtins.exec",
        "_args_": [f"open({str(folder / 'executed')!r}, 'w')"],
    },
    "open": lambda folder: {"_target_": "io.open", "file": str(folder / "executed"), "mode": "w"},
    "get_method": lambda folder: {
        "_target_": "builtins.map",
        "_args_": [
            {"_target_": "hydra.utils.get_method", "path": "os.system"},
            [f"touch {folder / 'executed'}"],
        ],
    },
    "partial": lambda folder: {
        "_target_": "functools.partial",
        "_args_": [
            {"_target_": "hydra.utils.get_method", "path": "os.system"},
            f"touch {folder / 'executed'}",
        ],
    },
    "partial flag": _touch("os.system", _partial_=True),
    "nested instantiate": lambda folder: {
        "_target_": "hydra.utils.instantiate",
        "_recursive_": False,
        "config": {"_target_": "os.system", "command": f"touch {folder / 'executed'}"},
    },
    "through our modules": _touch("robustsmooth.commands.describing.subprocess.getoutput"),
    "through our functions": _touch("robustsmooth.models.build_classifier.__globals__.os.system"),
    "our writer": lambda folder: {
        "_target_": "robustsmooth.models.save_safetensors",
        "network": copy.deepcopy(MODEL),
        "path": str(folder / "executed"),
        "config": {},
    },
    "our logger": lambda folder: {
        "_target_": "robustsmooth.loggers.wandb_logger",
        "save_dir": f"{folder}/executed",
    },
    "our callback": lambda folder: {
        "_target_": "robustsmooth.methods.NamedCheckpoint",
        "dirpath": f"{folder}/executed",
    },
    "runpy": _call("runpy.run_path", "/nowhere.py"),
    "import": _call("importlib.import_module", "antigravity"),
    "a look-alike": _call("robustsmooth.data.CropAndFlip "),
    "a list as a name": _call(["os", "system"]),
    "an interpolation": lambda folder: "${oc.env:HOME}",
    "a resolver in a list": lambda folder: ["a", {"b": "${hydra:runtime.cwd}"}],
}
"""Parts of a config for a folder: they would write a file `executed` there, or read files or secrets."""

PLACES = {
    "data.augmentation": lambda training, part: training["data"].update(augmentation=part),
    "model.network": lambda training, part: training["model"].update(network=part),
    "a list": lambda training, part: training["model"]["network"].update(_args_=[[part]]),
    "smoothing": lambda training, part: training.update(
        smoothing=part if isinstance(part, dict) else {"sigma": part}, method={"sigma": 0.25}
    ),
}


def _checkpoint(training, path: Path) -> Path:
    """A hostile file of each kind: a checkpoint of ours, a safetensors file, a run folder."""
    network = build_classifier(SmallCNN(10, width=4), 10)
    if path.suffix == ".safetensors":
        save_file(network.state_dict(), path, metadata={"robustsmooth": json.dumps(training)})
        return path
    file = path if path.suffix else path / "checkpoints" / "last.ckpt"
    file.parent.mkdir(parents=True, exist_ok=True)
    state = {f"network.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": state, "robustsmooth": {"config": training}}, file)
    if not path.suffix:
        (path / ".hydra").mkdir()
        (path / ".hydra" / "config.yaml").write_text(json.dumps(training), encoding="utf-8")
        (path / "summary.json").touch()
    return path


def _config(checkpoint: Path, trust=()):
    """The config of an evaluation command, composed once."""
    nothing = {"data": {"root": None}, "model": {"normalization": None}, "smoothing": {"sigma": None}}
    return OmegaConf.create({"checkpoint": str(checkpoint), "seed": 0, "trust": list(trust), **nothing})


@pytest.mark.parametrize("kind", ["a.ckpt", "a.safetensors", "run"])
@pytest.mark.parametrize("animal", ZOO)
def test_a_hostile_file_is_refused_and_nothing_happens(tmp_path, animal, kind):
    for number, place in enumerate(PLACES.values()):
        training = copy.deepcopy(TRAINING)
        place(training, ZOO[animal](tmp_path))
        folder = tmp_path / str(number)
        folder.mkdir()
        hostile = _checkpoint(training, folder / kind)
        with pytest.raises(ValueError, match=r"the config in `.*` (wants to call|has the interpolation)"):
            open_run(_config(hostile))
        if place not in (PLACES["data.augmentation"], PLACES["smoothing"]):
            with pytest.raises(ValueError, match=r"the config in `.*` (wants to call|has the interpolation)"):
                open_network(hostile)
        assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("kind", ["a.ckpt", "a.safetensors", "run"])
def test_an_ordinary_file_is_opened(tmp_path, kind):
    run = open_run(_config(_checkpoint(TRAINING, tmp_path / kind)))
    assert run.network(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_the_command_says_what_to_add(call, tmp_path):
    training = copy.deepcopy(TRAINING)
    training["data"]["augmentation"] = ZOO["collect_env"](tmp_path)
    hostile = _checkpoint(training, tmp_path / "a.safetensors")
    text = call("certify", f"checkpoint={hostile}", f"hydra.run.dir={tmp_path}/c", status=1)
    name = "torch.utils.collect_env.run"
    added = f"add 'trust=[{name}]' to the command line, or trust=['{name}'] to robustsmooth.load"
    assert text.strip().endswith(added)
    assert not (tmp_path / "executed").exists()


def test_one_message_names_the_constructors_of_all_parts(tmp_path):
    training = copy.deepcopy(TRAINING)
    training["data"]["augmentation"] = {"_target_": "mine.Rotate"}
    training["model"]["network"] = {"_target_": "mine.Network"}
    with pytest.raises(ValueError, match=r"trust=.mine.Network,mine.Rotate."):
        open_run(_config(_checkpoint(training, tmp_path / "a.ckpt")))


def test_a_class_that_the_user_names_is_built(tmp_path):
    training = copy.deepcopy(TRAINING)
    training["model"]["network"] = {
        "_target_": "torch.nn.Sequential",
        "_args_": [{"_target_": "torch.nn.Flatten"}, {"_target_": "torch.nn.Linear", "_args_": [64, 10]}],
    }
    network = build_classifier(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), 10)
    save_file(network.state_dict(), tmp_path / "a.safetensors", {"robustsmooth": json.dumps(training)})
    names = ["torch.nn.Flatten", "torch.nn.Linear", "torch.nn.Sequential"]
    with pytest.raises(ValueError, match=r"trust=.torch.nn.Flatten,torch.nn.Linear,torch.nn.Sequential."):
        open_run(_config(tmp_path / "a.safetensors", ["torch.nn.Linear"]))
    run = open_run(_config(tmp_path / "a.safetensors", names))
    assert run.network(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_a_file_cannot_request_downloads_or_other_files():
    config = {"download": True, "extra": [{"checkpoint": "/etc/passwd", "flip": True}]}
    assert trusted(config, "a") == {"download": False, "extra": [{"checkpoint": None, "flip": True}]}


@pytest.mark.parametrize("value", [torch.zeros(1), Path, {1, 2}, b"text", 1j], ids=str)
def test_a_config_is_made_of_plain_values(value):
    with pytest.raises(ValueError, match="the config in `a` is damaged"):
        plain({"model": [{"network": value}]}, "a")
    with pytest.raises(ValueError, match="the config in `a` is damaged"):
        plain(value, "a")


def test_a_noise_level_must_be_a_number(tmp_path):
    training = copy.deepcopy(TRAINING)
    training["method"]["sigma"] = "${oc.env:HOME}"
    with pytest.raises(ValueError, match="trained without noise"):
        open_run(_config(_checkpoint(training, tmp_path / "a.ckpt")))


def test_what_our_own_configs_of_data_and_networks_name_is_trusted():
    """A constructor that a config of ours uses may be named by the checkpoints that it makes.

    An ensemble makes none, and opens further files.
    """
    files = [
        path
        for group in ("data", "model", "noise_layers", "denoiser")
        for path in (CONF / group).glob("*.yaml")
    ]
    assert len(files) > 20
    named = {name for path in files for name in targets(OmegaConf.to_container(OmegaConf.load(path)))}
    assert named <= TRUSTED | {"robustsmooth.runs.open_ensemble"}
    assert all(name.startswith("robustsmooth.") for name in TRUSTED)
    for name in TRUSTED - {"robustsmooth.data.UnlabeledImages", "robustsmooth.data.WithoutLabels"}:
        assert callable(instantiate({"_target_": name, "_partial_": True}))
