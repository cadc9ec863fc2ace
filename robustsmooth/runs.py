"""Opening a trained network: from a run folder, a checkpoint file, or weights from elsewhere."""

import copy
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from torch import nn

from robustsmooth.commands import conf_dir, register_resolvers
from robustsmooth.commands.settings import check_model
from robustsmooth.data import ImageDataModule, check_class_names
from robustsmooth.instantiation import instantiate
from robustsmooth.models import Checkpoint, Ensemble, read_checkpoint, sanity_check
from robustsmooth.models.published import PREFIX, Published, fetch, published
from robustsmooth.models.state import LIBRARIES, checkpoint_file
from robustsmooth.smoothing import Noise, address
from robustsmooth.trust import TRUSTED, plain, targets, trusted

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """A trained network and what is known about its training.

    Attributes:
        network: Logits ``(B, K)`` of images ``(B, C, H, W)`` in [0, 1], in eval mode; its normalisation is
            inside.
        noise: The noise that it was trained with; None if that is unknown or it had none.
        data: The settings of its data, as plain values: ``num_classes``, ``channels``, ``root`` and so on.
        training: The resolved config of its training, with the names of the ``classes``; empty for a foreign
            checkpoint.
        checkpoint: Where it was read from: a file, or a name such as ``torchvision:...``.
    """

    network: nn.Module
    noise: Noise | None
    data: dict[str, Any]
    training: dict[str, Any]
    checkpoint: str

    @property
    def sigma(self) -> float | None:
        """The level of `noise`, in pixel units."""
        return None if self.noise is None else self.noise.sigma


@dataclass(frozen=True)
class OpenedRun:
    """A trained network, ready to be evaluated.

    Attributes:
        network: Logits of images in [0, 1], in eval mode.
        datamodule: The data for the evaluation.
        training: The resolved config of its training, with the names of the ``classes``; empty for a foreign
            checkpoint.
        checkpoint: Where it was read from.
        seed: Determines the noise of the evaluation. Validation images get other noise than test images, so
            that choices made on them do not use the test's noise.
        config: The command's config, with missing values filled in.
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
        weights: Its tensors; none for a library's checkpoint, which is read when the network is known.
        config: The config of its training, with ``classes``; empty for a foreign checkpoint.
        accuracy: The clean accuracy that its authors state; None if they do not.
    """

    weights: Checkpoint
    config: dict[str, Any] = field(default_factory=dict)
    accuracy: float | None = None

    @property
    def place(self) -> str:
        """Where it was read from."""
        return self.weights.place

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of their labels; empty if they are not in the file."""
        return list(self.config.get("classes", ()))

    @property
    def built(self) -> list[Any]:
        """The parts of the config from which an evaluation builds objects."""
        return [self.config.get(part) for part in ("data", "model", "smoothing")]


def load(place: str | Path, *settings: str, trust: Sequence[str] = (), unverified: bool = False) -> Trained:
    """Open a trained network.

        trained = robustsmooth.load("runs/gaussian")
        classifier = SmoothedClassifier(trained.network, trained.noise)
        robustsmooth.load("cohen.pth.tar", "data=cifar10", "model=cifar_resnet110")

    Args:
        place: A run folder, a folder that ``robustsmooth.export`` wrote, a checkpoint file
            (``.safetensors`` too), or a name such as ``torchvision:ResNet50_Weights.IMAGENET1K_V2`` or
            ``published:cohen2019-cifar10-0.25``.
        *settings: What the file does not contain, as on the command line: ``data=...`` and ``model=...``.
        trust: Constructors that its config may name, besides our own; see `robustsmooth.trust`.
        unverified: Download a published network although its hash is not recorded.

    Raises:
        ValueError: If it is missing, damaged, for another network or a training that has not ended, or if its
            model or data are unknown.
    """
    cfg = _composed(settings)
    cfg.trust = [*trust]  # an ensemble passes it on
    found = _find(place, unverified)
    cfg.data = _as_trained(cfg.data, found, "data", trust)  # a given model takes its number of classes
    return _open(found, cfg.model, cfg.data, trust)


def open_trained(
    place: str | Path | None, model: DictConfig, data: DictConfig, trust: Sequence[str] = ()
) -> Trained:
    """Open another network inside a command, such as the source of a transfer attack.

    Args:
        place: As in `load`.
        model: A model's config, or ``model=as_trained``: values that replace the trained ones.
        data: The data's config; no data are read.
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
    noise = _trained_noise(found, trust)
    return Trained(
        network,
        None if noise["sigma"] is None else instantiate(noise),
        settings,
        found.config,
        found.place,
    )


def open_network(checkpoint: str | Path | Checkpoint, trust: Sequence[str] = ()) -> nn.Module:
    """The network of a training run, in eval mode: logits of images in [0, 1].

    Args:
        checkpoint: A run folder or a checkpoint file, or a checkpoint that was read.
        trust: As in `load`.

    Raises:
        ValueError: As in `load`.
    """
    found = _find(checkpoint)
    return _network(_as_trained(OmegaConf.create(), found, "model", trust), found)


def open_run(cfg: DictConfig, *, needs_sigma: bool = True, needs_data: bool = True) -> OpenedRun:
    """Open ``cfg.checkpoint``, with the model, data, noise and normalisation of its training.

    What the command line leaves open (null in ``data=as_trained``, ``model=as_trained`` and
    ``smoothing=as_trained``, and every ``smoothing.sigma``) is filled in from the training run in
    ``OpenedRun.config``, which is saved with the results.

    Args:
        cfg: The config of an evaluation command; it is not changed.
        needs_sigma: Whether the command makes no sense without a noise level.
        needs_data: Whether it evaluates on the data, whose classes must then be those of the training.

    Raises:
        ValueError: If the checkpoint is missing, damaged, for another network or a training that has not
            ended, if the data have other classes than the training, or if something is neither given nor
            known from training.
    """
    found = _find(cfg.checkpoint, cfg.get("unverified", False))
    cfg = copy.deepcopy(cfg)
    OmegaConf.set_struct(cfg, False)
    cfg.checkpoint = found.place
    trust = cfg.get("trust", ())
    cfg.data = _as_trained(cfg.data, found, "data", trust)
    cfg.model = _as_trained(cfg.model, found, "model", trust, cfg.data)
    if cfg.get("smoothing") is not None:
        if "_target_" not in cfg.smoothing:
            cfg.smoothing = {**_trained_noise(found, trust), **_without_nulls(cfg.smoothing)}
        if cfg.smoothing.get("sigma", 0.0) is None:
            cfg.smoothing.sigma = _trained_sigma(found.config)
        if cfg.smoothing.get("sigma", 0.0) is None and needs_sigma:
            raise ValueError(_without_sigma(found))
    datamodule = instantiate(cfg.data)
    if cfg.data.num_classes is None:
        cfg.data.num_classes = datamodule.num_classes
    if found.classes and needs_data:
        with suppress(FileNotFoundError):  # a download comes later
            there = "the data; give the class folders the names of the training"
            check_class_names(found.classes, datamodule.class_names, found.place, there)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    network = _network(cfg.model, found)
    OmegaConf.set_struct(cfg, True)
    if not found.weights.config:  # a foreign network, whose normalisation has not been checked
        sanity_check(network, datamodule, expected=found.accuracy)
    test = datamodule.subset.split == "test"
    seed = cfg.seed if test else address(cfg.seed, "validation")
    return OpenedRun(network, datamodule, found.config, found.place, seed, cfg)


def _find(place: str | Path | Checkpoint | None, unverified: bool = False) -> _Found:
    """Read a checkpoint, unless it was read; a library's is read later, when its network is known."""
    if isinstance(place, Checkpoint):  # its config is empty for a published network: see its entry again
        return _Found(place, plain(place.config, place.place)) if place.config else _find(place.place)
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
    """Build a model and load the trained weights, including those of a new last layer."""
    check_model(model)
    _check_denoiser(model, found)
    if model.get("num_classes", 0) is None:
        raise ValueError(
            "the number of classes is not known without the images; give data.num_classes=10 or another one"
        )
    if "new_head" in model:
        model.new_head = False
    model.checkpoint = found.place
    weights = found.weights if found.weights.tensors else found.place
    network: nn.Module = instantiate(model, _partial_=True)(checkpoint=weights)
    return network.eval()


def _check_denoiser(model: DictConfig, found: _Found) -> None:
    """Refuse a denoiser of ours that gets no weights. Another one may have its own."""
    denoiser, given = model.get("denoiser"), model.get("denoiser_checkpoint")
    in_file = any(".denoiser." in f".{key}" for key in found.weights.tensors)
    if in_file and given is not None:
        _log.warning(
            "`%s` has the weights of its own denoiser; those are used, not model.denoiser_checkpoint=%s",
            found.place,
            given,
        )
    if denoiser is not None and given is None and not in_file and {*targets(denoiser)} <= TRUSTED:
        raise ValueError(
            f"the denoiser has no weights, because `{found.place}` has none for it: set "
            "model.denoiser_checkpoint to a run folder of method=denoiser, or to a file"
        )


def open_ensemble(
    checkpoint: str | Path | Checkpoint,
    members: Sequence[str | Path],
    consensus: int | None = None,
    trust: Sequence[str] = (),
) -> nn.Module:
    """Several training runs as one network, in eval mode; see `Ensemble`.

    Args:
        checkpoint: The run folder or checkpoint file of the first, or a checkpoint that was read.
        members: Those of the others.
        consensus: How many networks decide alone if they agree; None for never.
        trust: As in `open_network`.

    Raises:
        ValueError: As in `open_network` and `Ensemble`, or if a member's training had other classes.
    """
    first, *others = found = [_find(place) for place in (checkpoint, *members)]
    for other in others:
        where = f"`{first.place}`; members of an ensemble need the same classes"
        check_class_names(other.classes, first.classes, other.place, where)
    networks = [_network(_as_trained(OmegaConf.create(), each, "model", trust), each) for each in found]
    return Ensemble(networks, consensus).eval()


def _trained_sigma(training: Mapping[str, Any]) -> float | None:
    """The noise level of a training; None if it had none."""
    method = training.get("method")
    sigma = method.get("sigma") if isinstance(method, Mapping) else None
    return sigma if isinstance(sigma, int | float) and sigma else None


def _trained_noise(found: _Found, trust: Sequence[str]) -> dict[str, Any]:
    """The config of a training's noise; Gaussian with `sigma` null if it had none or it is unknown."""
    sigma, given = _trained_sigma(found.config), found.config.get("smoothing")
    known = {"_target_": "robustsmooth.smoothing.GaussianNoise"}
    if sigma is not None and isinstance(given, Mapping):
        known = trusted(given, found.place, trust, found.built)
    return {key: value for key, value in known.items() if key != "_partial_"} | {"sigma": sigma}


def _without_sigma(found: _Found) -> str:
    how = "this network was trained without noise"
    if not found.config:
        how = f"`{found.place}` does not say with which noise it was trained"
    return f"{how}; give smoothing.sigma=0.25 or another level"


def _as_trained(
    given: DictConfig, found: _Found, part: str, trust: Sequence[str], data: Any = None
) -> DictConfig:
    """The given choice; or the trained one, overridden by given values."""
    if "_target_" in given:
        return given
    trained = found.config.get(part)
    if trained is None:
        raise ValueError(
            f"`{found.place}` does not say which {part} it was trained with; give {part}=..., such as "
            + ("data=cifar10" if part == "data" else _likely_model(data))
        )
    known = OmegaConf.create(trusted(trained, found.place, trust, found.built))
    merged = OmegaConf.merge(known, _without_nulls(given))
    assert isinstance(merged, DictConfig)
    return merged


def _likely_model(data: Any) -> str:
    """The usual network for the data, for a message."""
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
