"""The types of settings that are not arguments of a constructor; the check of a command's whole config."""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, Predicate
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue

from robustsmooth.annotations import Built
from robustsmooth.instantiation import check_argument, check_parts, takes

Count = Annotated[int, Ge(1)]
Amount = Annotated[float, Ge(0)]
Seed = Annotated[int, Ge(0), Lt(2**32)]


def _is_some_time(text: str) -> bool:
    return re.fullmatch(r"\d+:\d\d:\d\d:\d\d", text) is not None and re.search("[1-9]", text) is not None


Duration = Annotated[str, Predicate(_is_some_time), "such as 00:12:00:00 (days:hours:minutes:seconds)"]

DeviceList = Annotated[
    str, Predicate(lambda text: re.fullmatch(r"\d+(,\d+)*,?", text) is not None), "such as 0,2"
]

_COMMON = {"seed": Seed, "run_dir": str}
_FROM_FILE = {**_COMMON, "checkpoint": str, "trust": Sequence[str], "unverified": bool}
_EVALUATION = {**_FROM_FILE, "smoothing": Mapping[str, Any], "trainer": Built, "logger": Mapping[str, Any]}

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "train": {
        **_COMMON,
        "data": Built,
        "model": Built,
        "method": Built,
        "trainer": Built,
        "callbacks": Mapping[str, Any] | None,
        "logger": Mapping[str, Any] | None,
        "monitor": str,
        "compile": bool,
        "save_every_steps": Count | None,
        "evaluate": Mapping[str, str | None] | None,
        "trainer.max_epochs": Count,
        "trainer.limit_train_batches": Count | Annotated[float, Gt(0), Le(1)] | None,
    },
    "certify": {
        **_EVALUATION,
        "certificate": Built,
        "numerics": Built,
        "radii": Sequence[Amount] | None,
    },
    "predict": {**_EVALUATION, "prediction": Built, "numerics": Built},
    "attack": {
        **_EVALUATION,
        "attack": Built,
        "prediction": Built,
        "numerics": Built,
        "target": Literal["smoothed", "network"],
        "mode": Literal["budget", "minimum"],
        "epsilons": Sequence[Amount] | None,
        "num_noises": Sequence[Count] | None,
        "batch_size": Count,
        "source.checkpoint": str | None,
        "certified": str | None,
        "save": Literal["safetensors", "npz"] | None,
        "pictures": Annotated[int, Ge(0)],
    },
    "measure": {**_EVALUATION, "measure": Built},
    "report": {
        **_COMMON,
        "runs": str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]],
        "report.title": str,
        "report.formats": Sequence[str],
        "report.show": Sequence[str] | None,
        "report.radii": Sequence[Amount] | None,
        "report.level": Annotated[float, Gt(0), Lt(1)],
        "report.interval": Literal["clopper_pearson", "wilson"],
        "report.restate": Count | None,
        "report.published": str | None,
        "report.baseline": str | None,
        "report.wandb": Mapping[str, Any] | None,
    },
    "export": {
        **_FROM_FILE,
        "format": Literal["safetensors", "onnx"],
        "file": str | None,
        "license": str | None,
        "push": str | None,
    },
    "illustrate": {**_COMMON, "illustration": Built},
}
"""By command: the keys that it reads itself, with their types; see `robustsmooth.annotations`."""

_SHARE = Count | Annotated[float, Ge(0), Le(1)]
_SIZES = ("data.num_classes", "data.channels", "model.num_classes", "model.network.num_classes")
_LIMITS: Mapping[str, Any] = {
    **dict.fromkeys((*_SIZES, "model.network.in_channels", "model.network.width"), Count),
    **dict.fromkeys(("data.seed", "method.seed", "callbacks.certify.seed"), Seed),
    **{f"method.optimizer.{name}": Amount for name in ("lr", "momentum", "weight_decay")},
    "method.scheduler.step_size": Count,
    "method.scheduler.gamma": Amount,
    "illustration.sigma": Annotated[float, Gt(0)],
    "illustration.time_steps": Count,
    "smoothing.sigma": Amount,
    "trainer.max_epochs": Count | Literal[-1],
    "trainer.max_time": Duration | Mapping[str, int],
    "trainer.accelerator": Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu", "xpu"],
    "trainer.devices": Count | Literal[-1, "auto"] | DeviceList | Sequence[Annotated[int, Ge(0)]],
    "trainer.gradient_clip_val": Amount,
    "trainer.accumulate_grad_batches": Count,
    "trainer.check_val_every_n_epoch": Count,
    "trainer.limit_train_batches": _SHARE,
    "trainer.limit_val_batches": _SHARE,
    "trainer.limit_test_batches": _SHARE,
    "trainer.log_every_n_steps": Annotated[int, Ge(0)],
    "trainer.num_sanity_val_steps": Annotated[int, Ge(-1)],
}
"""Ranges that are not in the annotations of the constructors, for values that are given and not null."""


def check_settings(cfg: DictConfig, name: str) -> None:
    """Check every value of a command's config before it starts; fractions become numbers, in place.

    Args:
        cfg: The composed config.
        name: The command.

    Raises:
        MissingMandatoryValue: If a value that must be given is missing.
        ValueError: If a value is not of the type that the command or a constructor takes.
    """
    _check_overrides()
    known = _without_later_values(cfg)
    missing = sorted(OmegaConf.missing_keys(known))
    if missing:
        raise MissingMandatoryValue(f"Missing mandatory value: {missing[0]}")
    limits = {key: limit for key, limit in _LIMITS.items() if OmegaConf.select(known, key) is not None}
    for key, annotation in [*SETTINGS[name].items(), *limits.items()]:
        value = OmegaConf.select(known, key)
        plain = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        checked = check_argument(plain, annotation, key)
        if checked != plain:
            OmegaConf.update(cfg, key, checked)
    for key, value in _leaves(check_parts(known, complete=False)):
        if OmegaConf.select(known, key) != value and isinstance(value, float):
            OmegaConf.update(cfg, key, value)
    check_model(cfg.get("model"))


def _without_later_values(cfg: DictConfig) -> DictConfig:
    """The config without values that refer to settings which ``data=as_trained`` gets from the checkpoint.

    Such as a given model's number of classes; they are checked as the model is built.
    """
    if "_target_" in cfg.get("data", ("_target_",)):
        return cfg
    known = copy.deepcopy(cfg)
    OmegaConf.set_struct(known, False)
    _drop_unresolved(known)
    return known


def _drop_unresolved(node: DictConfig) -> None:
    for key in [key for key in node if not OmegaConf.is_missing(node, key)]:
        try:
            value = node[key]
        except InterpolationKeyError:
            del node[key]
        else:
            if isinstance(value, DictConfig):
                _drop_unresolved(value)


def check_model(model: Mapping[str, Any] | None) -> None:
    """Refuse a model that could be trained but not opened again, such as a network without normalisation.

    Args:
        model: A model's config, or values for ``model=as_trained``; None if the command has no model.

    Raises:
        ValueError: If its constructor has no argument ``checkpoint``.
    """
    if model and "_target_" in model and not takes(model, "checkpoint", "model"):
        raise ValueError(
            f"`model._target_` names {model['_target_']}, which takes no `checkpoint`; wrap a network in "
            "robustsmooth.models.build_classifier, which puts the normalisation in front (docs/models.md)"
        )


def _check_overrides() -> None:
    """Refuse ``certificate={}`` on the command line: Hydra merges it, so that it changes nothing."""
    given = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    for override in given:
        key, _, value = override.partition("=")
        if re.fullmatch(r"\{\s*\}", value) and not key.startswith(("+", "~")):
            raise ValueError(f"`{override}` changes nothing: name a choice or settings, or leave it out")


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for name, value in node.items():
            part = f"[{name}]" if "." in str(name) else f".{name}" if key else str(name)
            yield from _leaves(value, key + part)
    elif isinstance(node, list):
        for place, value in enumerate(node):
            yield from _leaves(value, f"{key}[{place}]")
    else:
        yield key, node
