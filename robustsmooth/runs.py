"""The run folder: what it holds, how a run is continued, how its network is opened for evaluation."""

import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from robustsmooth.data import ImageDataModule
from robustsmooth.instantiation import instantiate
from robustsmooth.methods.callbacks import EpochTimer
from robustsmooth.models import read_checkpoint, sanity_check
from robustsmooth.smoothing.addressing import address
from robustsmooth.trust import plain, trusted

__all__ = [
    "Run",
    "checkpoint_file",
    "is_finished",
    "open_network",
    "open_run",
    "resume_from",
    "saved_config",
    "summary_metric",
    "write_summary",
]

# What must not change between the parts of one training; the rest may (more epochs, another device).
# `method.network` is `model` again, by interpolation.
_FIXED = ("method", "model", "data", "seed")
_FREE = ("data.root", "data.num_workers", "data.subset", "data.download", "method.network")


def checkpoint_file(place: str | Path) -> Path:
    """The checkpoint that a run folder or a path names.

    Args:
        place: A run folder (its ``checkpoints/last.ckpt`` is taken: the papers evaluate the last
            epoch, and nothing is selected) or a checkpoint file.

    Raises:
        ValueError: If there is none.
    """
    path = Path(place).expanduser()
    if path.is_file():
        return path
    if not path.exists():
        raise ValueError(f"there is no checkpoint at `{path}`; give a run folder or a checkpoint file")
    last = path / "checkpoints" / "last.ckpt"
    if last.is_file():
        return last
    below = sorted(str(each.parent.parent.relative_to(path)) for each in path.glob("*/checkpoints/last.ckpt"))
    hint = f"; its runs are {', '.join(below)}" if below else ""
    raise ValueError(f"`{path}` is not a run folder: it has no checkpoints/last.ckpt{hint}")


def _read(path: Path) -> dict[str, Any]:
    """A checkpoint as plain data; nothing in it is executed."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except pickle.UnpicklingError:
        return {}  # somebody else's file; the importer of state dicts judges it
    except Exception as error:  # what a damaged file raises is torch's affair
        raise ValueError(f"the checkpoint `{path}` is truncated or damaged; use another one") from error
    return content if isinstance(content, dict) else {}


def saved_config(checkpoint: Path) -> dict[str, Any] | None:
    """The resolved config of the training run that wrote a checkpoint; None if it is not ours.

    Raises:
        ValueError: If the file is truncated or damaged.
    """
    if checkpoint.suffix == ".safetensors":
        config: Any = read_checkpoint(checkpoint).config or None
    else:
        ours = _read(checkpoint).get("robustsmooth")
        config = ours.get("config") if isinstance(ours, dict) else None
    return None if config is None else plain(config, checkpoint)


def resume_from(folder: Path, cfg: DictConfig) -> str | None:
    """The checkpoint to continue training from, if the run folder holds one.

    Raises:
        ValueError: If the folder holds a run with another method, model, data or seed.
    """
    path = folder / "checkpoints" / "last.ckpt"
    if not path.is_file():
        return None
    then = saved_config(path) or {}
    now: Any = OmegaConf.to_container(cfg, resolve=True)
    old, new = ({key: tree.get(key) for key in _FIXED} for tree in (then, now))
    different = [
        f"{key}={_flat(old).get(key)} then, {_flat(new).get(key)} now"
        for key in sorted(_flat(old).keys() | _flat(new).keys())
        if not key.startswith(_FREE) and _flat(old).get(key) != _flat(new).get(key)
    ]
    if different:
        raise ValueError(
            f"`{folder}` holds a run with other settings ({'; '.join(different)}); "
            "choose another folder with hydra.run.dir=..., or go on with the old settings"
        )
    return str(path)


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    return {
        key: value
        for name, branch in tree.items()
        for key, value in _flat(branch, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def is_finished(folder: Path, cfg: DictConfig) -> bool:
    """Whether the folder holds this very run, trained to its end.

    Raises:
        ValueError: As in `resume_from`, or if ``trainer.max_epochs`` is not a positive integer.
    """
    epochs = cfg.trainer.max_epochs
    if not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"`trainer.max_epochs` must be a positive integer, got {epochs}")
    summary = folder / "summary.json"
    if resume_from(folder, cfg) is None or not summary.is_file():
        return False
    return bool(json.loads(summary.read_text(encoding="utf-8"))["epochs"] >= epochs)


def write_summary(folder: Path, trainer: pl.Trainer, timer: EpochTimer) -> None:
    """``summary.json``: the last metrics, the epochs and the seconds that they took."""
    if not trainer.is_global_zero:
        return
    metrics = {key: float(value) for key, value in sorted(trainer.callback_metrics.items())}
    summary = {
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "seconds": sum(timer.seconds),
        "seconds_per_epoch": timer.seconds,
        "metrics": metrics,
    }
    draft = folder / "summary.json.tmp"
    draft.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    draft.replace(folder / "summary.json")


def summary_metric(folder: Path, name: str) -> float | None:
    """The last value of a metric, from ``summary.json``; None if the run has none of this name."""
    path = folder / "summary.json"
    if not path.is_file():  # another rank than the first, before that one has written it
        return None
    value = json.loads(path.read_text(encoding="utf-8"))["metrics"].get(name)
    return None if value is None else float(value)


@dataclass(frozen=True)
class Run:
    """A trained network, ready to be evaluated.

    Attributes:
        network: Logits of images in [0, 1], in eval mode.
        datamodule: The data it is evaluated on.
        training: The resolved config of its training; empty for a foreign checkpoint.
        checkpoint: The file that it was read from.
        seed: Addresses the noise of the evaluation. Validation images have noise of their own, so that who
            chooses by them has not seen the test's.
    """

    network: nn.Module
    datamodule: ImageDataModule
    training: dict[str, Any]
    checkpoint: Path
    seed: int


def open_run(cfg: DictConfig, *, needs_sigma: bool = True) -> Run:
    """Open ``cfg.checkpoint``: find model, data, noise level and normalisation by themselves.

    What the command line leaves open (null in ``data=as_trained`` and ``model=as_trained``, and
    ``smoothing.sigma``) is filled in from the training run, in place, so that the config that is
    saved beside the results says what was done.

    Args:
        cfg: The config of an evaluation command.
        needs_sigma: Whether the command makes no sense without a noise level.

    Raises:
        ValueError: If the checkpoint is missing, damaged or for another network, or if something
            is neither given nor known from training.
    """
    checkpoint = checkpoint_file(cfg.checkpoint)
    training = saved_config(checkpoint) or {}
    OmegaConf.set_struct(cfg, False)
    cfg.checkpoint = str(checkpoint)
    for part in ("data", "model"):
        cfg[part] = _as_trained(cfg[part], training.get(part), part, checkpoint, cfg.get("trust", ()))
    if cfg.get("smoothing") is not None and "sigma" in cfg.smoothing and cfg.smoothing.sigma is None:
        cfg.smoothing.sigma = _trained_sigma(training)
        if cfg.smoothing.sigma is None and needs_sigma:
            raise ValueError(
                "this network was trained without noise; give smoothing.sigma=0.25 or another level"
            )
    datamodule = instantiate(cfg.data)
    if cfg.data.num_classes is None:
        cfg.data.num_classes = datamodule.num_classes
    cfg.model = _trained(cfg.model, checkpoint)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    network = instantiate(cfg.model).eval()
    OmegaConf.set_struct(cfg, True)
    if not training:  # somebody else's network, whose normalisation nobody has checked
        sanity_check(network, datamodule)
    test = datamodule.subset.split == "test"
    seed = cfg.seed if test else address(cfg.seed, "validation")
    return Run(network, datamodule, training, checkpoint, seed)


def open_network(checkpoint: str | Path, trust: Sequence[str] = ()) -> nn.Module:
    """The network of a training run, in eval mode: logits of images in [0, 1].

    Args:
        checkpoint: A run folder or a checkpoint file.
        trust: Constructors that its config may name, beside our own; see `robustsmooth.trust`.

    Raises:
        ValueError: If it is missing or damaged, or does not say which network it is for.
    """
    path = checkpoint_file(checkpoint)
    training = saved_config(path)
    if not training:
        raise ValueError(f"`{path}` does not say which model it was trained with; give a run of ours")
    model = trusted(training["model"], path, trust)
    network: nn.Module = instantiate(_trained(model, path))
    return network.eval()


def _trained_sigma(training: Mapping[str, Any]) -> float | None:
    """The noise level of a training; None if it had none."""
    method = training.get("method")
    sigma = method.get("sigma") if isinstance(method, Mapping) else None
    return sigma if isinstance(sigma, int | float) and sigma else None


def _trained(model: Mapping[str, Any], checkpoint: Path) -> dict[str, Any]:
    """The model's config with its trained weights, those of a new last layer too."""
    new_head = {"new_head": False} if "new_head" in model else {}
    return {**model, "checkpoint": str(checkpoint), **new_head}


def _as_trained(
    given: DictConfig, trained: Any, part: str, checkpoint: Path, trust: Sequence[str]
) -> DictConfig:
    """The given choice; or the trained one under the values that were given."""
    if "_target_" in given:
        return given
    if trained is None:
        raise ValueError(
            f"`{checkpoint}` does not say which {part} it was trained with; give {part}=..., such as "
            + {"data": "data=cifar10", "model": "model=cifar_resnet110 model.normalization=cifar10"}[part]
        )
    known = OmegaConf.create(trusted(trained, checkpoint, trust))
    merged = OmegaConf.merge(known, _without_nulls(given))
    assert isinstance(merged, DictConfig)
    return merged


def _without_nulls(node: Any) -> Any:
    plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    if not isinstance(plain, dict):
        return plain
    return {
        key: _without_nulls(value)
        for key, value in plain.items()
        if value is not None and _without_nulls(value) != {}
    }
