"""Opening a trained network: from a run folder, a checkpoint file, or somebody else's weights."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from torch import nn

from robustsmooth.commands import conf_dir, register_resolvers
from robustsmooth.data import ImageDataModule
from robustsmooth.instantiation import instantiate
from robustsmooth.models import Checkpoint, Ensemble, read_checkpoint, sanity_check
from robustsmooth.models.published import PREFIX, Published, fetch, published
from robustsmooth.models.state import LIBRARIES, checkpoint_file
from robustsmooth.smoothing.addressing import address
from robustsmooth.trust import plain, trusted

__all__ = [
    "Run",
    "Trained",
    "checkpoint_file",
    "load",
    "open_ensemble",
    "open_network",
    "open_run",
    "open_trained",
]


@dataclass(frozen=True)
class Trained:
    """A trained network and what is known of its training.

    Attributes:
        network: Logits ``(B, K)`` of images ``(B, C, H, W)`` in [0, 1], in eval mode; its normalisation is
            inside.
        sigma: The noise level that it was trained with, in pixel units; None if that is unknown or it had
            none.
        data: The settings of its data, as plain values: ``num_classes``, ``channels``, ``root`` and so on.
        training: The resolved config of its training; empty for somebody else's checkpoint.
        checkpoint: Where it was read from: a file, or a name such as ``torchvision:...``.
    """

    network: nn.Module
    sigma: float | None
    data: dict[str, Any]
    training: dict[str, Any]
    checkpoint: str


@dataclass(frozen=True)
class Run:
    """A trained network, ready to be evaluated.

    Attributes:
        network: Logits of images in [0, 1], in eval mode.
        datamodule: The data it is evaluated on.
        training: The resolved config of its training; empty for a foreign checkpoint.
        checkpoint: Where it was read from.
        seed: Addresses the noise of the evaluation. Validation images have noise of their own, so that who
            chooses by them has not seen the test's.
        config: The command's config, with what it left open filled in.
    """

    network: nn.Module
    datamodule: ImageDataModule
    training: dict[str, Any]
    checkpoint: str
    seed: int
    config: DictConfig


@dataclass(frozen=True)
class _Found:
    """A checkpoint that was read.

    Attributes:
        weights: Its tensors; none for a library's, which are read when the network is known.
        config: What is known of its training; empty for somebody else's.
        accuracy: The clean accuracy that its authors state; None if they do not.
    """

    weights: Checkpoint
    config: dict[str, Any] = field(default_factory=dict)
    accuracy: float | None = None

    @property
    def place(self) -> str:
        """Where it was read from."""
        return self.weights.place


def load(place: str | Path, *settings: str, trust: Sequence[str] = (), unverified: bool = False) -> Trained:
    """Open a trained network.

        trained = robustsmooth.load("runs/gaussian")
        classifier = SmoothedClassifier(trained.network, GaussianNoise(trained.sigma))
        robustsmooth.load("cohen.pth.tar", "data=cifar10", "model=cifar_resnet110")

    Args:
        place: A run folder, a folder that ``robustsmooth.export`` wrote, a checkpoint file
            (``.safetensors`` too), or a name such as ``torchvision:ResNet50_Weights.IMAGENET1K_V2`` or
            ``published:cohen2019-cifar10-0.25``.
        *settings: What the file does not say, as on the command line: ``data=...`` and ``model=...``.
        trust: Constructors that its config may name, beside our own; see `robustsmooth.trust`.
        unverified: Download a published network although nobody has recorded its hash.

    Raises:
        ValueError: If it is missing, damaged or for another network, or does not say what it is for.
    """
    cfg = _composed(settings)
    found = _find(place, unverified)
    cfg.data = _as_trained(cfg.data, found, "data", trust)  # a given model takes its number of classes
    return _open(found, cfg.model, cfg.data, trust)


def open_trained(
    place: str | Path | None, model: DictConfig, data: DictConfig, trust: Sequence[str] = ()
) -> Trained:
    """Open a further network inside a command, such as the one that an attack looks at.

    Args:
        place: As in `load`.
        model: A model's config, or ``model=as_trained``: values that replace the trained ones.
        data: The data's config; nothing is read of them.
        trust: As in `load`.

    Raises:
        ValueError: As in `load`.
    """
    return _open(_find(place), model, data, trust)


def _composed(settings: Sequence[str]) -> DictConfig:
    """A config with ``data`` and ``model``, open for changes."""
    register_resolvers()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = hydra.compose("export", ["checkpoint=null", "run_dir=null", *settings])
    OmegaConf.set_struct(cfg, False)
    return cfg


def _open(found: _Found, model: DictConfig, data: DictConfig, trust: Sequence[str]) -> Trained:
    network = _network(_as_trained(model, found, "model", trust, data), found)
    settings: Any = OmegaConf.to_container(data, resolve=True)
    return Trained(network, _trained_sigma(found.config), settings, found.config, found.place)


def open_network(checkpoint: str | Path, trust: Sequence[str] = ()) -> nn.Module:
    """The network of a training run, in eval mode: logits of images in [0, 1].

    Args:
        checkpoint: A run folder or a checkpoint file.
        trust: As in `load`.

    Raises:
        ValueError: As in `load`.
    """
    found = _find(checkpoint)
    return _network(_as_trained(OmegaConf.create(), found, "model", trust), found)


def open_run(cfg: DictConfig, *, needs_sigma: bool = True) -> Run:
    """Open ``cfg.checkpoint``: find model, data, noise level and normalisation by themselves.

    What the command line leaves open (null in ``data=as_trained`` and ``model=as_trained``, and
    ``smoothing.sigma``) is filled in from the training run in ``Run.config``, which is saved beside the
    results and says what was done.

    Args:
        cfg: The config of an evaluation command; it stays as it is.
        needs_sigma: Whether the command makes no sense without a noise level.

    Raises:
        ValueError: If the checkpoint is missing, damaged or for another network, or if something
            is neither given nor known from training.
    """
    found = _find(cfg.checkpoint, cfg.get("unverified", False))
    cfg = copy.deepcopy(cfg)
    OmegaConf.set_struct(cfg, False)
    cfg.checkpoint = found.place
    trust = cfg.get("trust", ())
    cfg.data = _as_trained(cfg.data, found, "data", trust)
    cfg.model = _as_trained(cfg.model, found, "model", trust, cfg.data)
    if cfg.get("smoothing") is not None and "sigma" in cfg.smoothing and cfg.smoothing.sigma is None:
        cfg.smoothing.sigma = _trained_sigma(found.config)
        if cfg.smoothing.sigma is None and needs_sigma:
            raise ValueError(_without_sigma(found))
    datamodule = instantiate(cfg.data)
    if cfg.data.num_classes is None:
        cfg.data.num_classes = datamodule.num_classes
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    network = _network(cfg.model, found)
    OmegaConf.set_struct(cfg, True)
    if not found.weights.config:  # somebody else's network, whose normalisation nobody has checked
        sanity_check(network, datamodule, expected=found.accuracy)
    test = datamodule.subset.split == "test"
    seed = cfg.seed if test else address(cfg.seed, "validation")
    return Run(network, datamodule, found.config, found.place, seed, cfg)


def _find(place: str | Path | None, unverified: bool = False) -> _Found:
    """Read a checkpoint, once; one of a library is read when its network is known."""
    if str(place).startswith(LIBRARIES):
        return _Found(Checkpoint({}, str(place)))
    if str(place).startswith(PREFIX):
        return _find_published(published(str(place)), unverified)
    path = checkpoint_file(place)
    try:
        found = read_checkpoint(path)
    except ValueError as error:
        previous = path.with_name("previous.ckpt")
        if path.name != "last.ckpt" or not previous.is_file():
            raise
        raise ValueError(
            f"{error}, such as `{previous}`, the one before it; the training started again repairs it"
        ) from error
    return _Found(found, plain(found.config, path))


def _find_published(entry: Published, unverified: bool) -> _Found:
    """A published network, with the settings of its entry as if it had been trained here."""
    weights = dataclasses.replace(
        read_checkpoint(fetch(entry, unverified)), place=f"{PREFIX}{entry.name}", config={}
    )
    settings: Any = OmegaConf.to_container(_composed(entry.settings), resolve=True)
    known = {"data": settings["data"], "model": settings["model"], "method": {"sigma": entry.sigma}}
    return _Found(weights, known, entry.accuracy)


def _network(model: DictConfig, found: _Found) -> nn.Module:
    """Build a model and put the trained weights into it, those of a new last layer too."""
    if "new_head" in model:
        model.new_head = False
    model.checkpoint = found.place
    weights = found.weights if found.weights.tensors else found.place
    network: nn.Module = instantiate(model, _partial_=True)(checkpoint=weights)
    return network.eval()


def open_ensemble(
    checkpoint: str | Path | Checkpoint,
    members: Sequence[str | Path],
    consensus: int | None = None,
    trust: Sequence[str] = (),
) -> nn.Module:
    """Several training runs as one network, in eval mode; see `Ensemble`.

    Args:
        checkpoint: The first run's folder or checkpoint file, or what was read from it.
        members: Those of the others.
        consensus: How many networks decide alone where they agree; None for never.
        trust: As in `open_network`.

    Raises:
        ValueError: As in `open_network` and `Ensemble`.
    """
    places = [checkpoint.place if isinstance(checkpoint, Checkpoint) else checkpoint, *members]
    return Ensemble([open_network(place, trust) for place in places], consensus).eval()


def _trained_sigma(training: Mapping[str, Any]) -> float | None:
    """The noise level of a training; None if it had none."""
    method = training.get("method")
    sigma = method.get("sigma") if isinstance(method, Mapping) else None
    return sigma if isinstance(sigma, int | float) and sigma else None


def _without_sigma(found: _Found) -> str:
    how = "this network was trained without noise"
    if not found.config:
        how = f"`{found.place}` does not say with which noise it was trained"
    return f"{how}; give smoothing.sigma=0.25 or another level"


def _as_trained(
    given: DictConfig, found: _Found, part: str, trust: Sequence[str], data: Any = None
) -> DictConfig:
    """The given choice; or the trained one under the values that were given."""
    if "_target_" in given:
        return given
    trained = found.config.get(part)
    if trained is None:
        raise ValueError(
            f"`{found.place}` does not say which {part} it was trained with; give {part}=..., such as "
            + ("data=cifar10" if part == "data" else _likely_model(data))
        )
    known = OmegaConf.create(trusted(trained, found.place, trust))
    merged = OmegaConf.merge(known, _without_nulls(given))
    assert isinstance(merged, DictConfig)
    return merged


def _likely_model(data: Any) -> str:
    """The network that is usual for the data, for a message."""
    name = str(data.get("_target_", "")).rpartition(".")[2] if data is not None else ""
    if name == "ImageFolderDataModule":
        return "model=resnet50 model.normalization=imagenet"
    if name.startswith("CIFAR") or not name:
        return "model=cifar_resnet110 model.normalization=cifar10"
    return "model=small_cnn"


def _without_nulls(node: Any) -> Any:
    plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    if not isinstance(plain, dict):
        return plain
    return {
        key: _without_nulls(value)
        for key, value in plain.items()
        if value is not None and _without_nulls(value) != {}
    }
