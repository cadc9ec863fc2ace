"""What a config from a file is allowed to do.

A checkpoint contains the config of its training, from which its network and its data are built again. The
author of the file controls that config, and a ``_target_`` in it may name any function of any installed
package. So only the constructors listed here are called for a file; others are called only if the user names
them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

TRUSTED = frozenset(
    f"robustsmooth.{name}"
    for name in (
        "data.CIFAR100DataModule",
        "data.CIFAR10DataModule",
        "data.CropAndFlip",
        "data.DigitsDataModule",
        "data.FashionMNISTDataModule",
        "data.ImageFolderDataModule",
        "data.MNISTDataModule",
        "data.RandomResizedCrop",
        "data.Subset",
        "data.UnlabeledImages",
        "data.WithoutLabels",
        "models.CifarResNet",
        "models.DnCNN",
        "models.MemNet",
        "models.NoiseLayers",
        "models.OneStepDiffusion",
        "models.ParametricNoise",
        "models.SmallCNN",
        "models.UNet",
        "models.WideResNet",
        "models.build_classifier",
        "models.resnet32x32",
        "models.timm_network",
        "models.torchvision_network",
        "smoothing.GaussianNoise",
        "smoothing.GridGaussianNoise",
        "smoothing.UniformNoise",
    )
)
"""The constructors of networks, data sets and noises. They may read files, but execute nothing."""

_OVERRULED = {"checkpoint": None, "denoiser_checkpoint": None, "download": False}
"""Arguments that would download or read other files, which a file must not decide."""


def plain(config: Any, place: object) -> dict[str, Any]:
    """A copy of a file's config, made of mappings, lists, texts, numbers, booleans and nulls only.

    Args:
        config: The config in the file.
        place: The file, for messages.

    Raises:
        ValueError: If it is not a mapping, or has a value of another type.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"the config in `{place}` is damaged: it is not a mapping; use another file")
    return {str(key): _plain(value, place) for key, value in config.items()}


def _plain(value: Any, place: object) -> Any:
    if isinstance(value, Mapping):
        return plain(value, place)
    if isinstance(value, list | tuple):
        return [_plain(part, place) for part in value]
    if value is not None and type(value) not in (bool, int, float, str):
        raise ValueError(
            f"the config in `{place}` is damaged: it has a value of type {type(value).__name__}; "
            "use another file"
        )
    return value


def trusted(
    config: Any, place: object, trust: Sequence[str] = (), beside: Sequence[Any] = ()
) -> dict[str, Any]:
    """Check the part of a file's config from which objects are built.

    Args:
        config: Such as the config's ``model``.
        place: The file, for messages.
        trust: Names of other constructors that the user trusts.
        beside: The config's other such parts: the message names their constructors too.

    Returns:
        A copy that names trusted constructors only, and reads and downloads nothing by itself: every
        ``checkpoint`` in it is null and every ``download`` false.

    Raises:
        ValueError: If it names another constructor or has an interpolation; or as in `plain`.
    """
    copy = plain(config, place)
    foreign, others = ({*targets(parts)} - TRUSTED - {*trust} for parts in (copy, list(beside)))
    if foreign:
        foreign |= others
        names = sorted({*foreign, *trust})
        raise ValueError(
            f"the config in `{place}` wants to call {', '.join(sorted(foreign))}: not "
            "robustsmooth's constructors, so they could do anything; if you know this file and code, add "
            f"'trust=[{','.join(names)}]' to the command line, or trust={names} to robustsmooth.load"
        )
    result: dict[str, Any] = _without_side_effects(copy, place)
    return result


def _without_side_effects(value: Any, place: object) -> Any:
    if isinstance(value, dict):
        return {
            key: _OVERRULED[key] if key in _OVERRULED else _without_side_effects(part, place)
            for key, part in value.items()
        }
    if isinstance(value, list):
        return [_without_side_effects(part, place) for part in value]
    if isinstance(value, str) and "${" in value:
        raise ValueError(f"the config in `{place}` has the interpolation {value}; use another file")
    return value


def targets(config: Any) -> Iterator[str]:
    """The names of all constructors in a config."""
    if isinstance(config, Mapping):
        if "_target_" in config:
            yield str(config["_target_"])
        config = config.values()
    if isinstance(config, str) or not isinstance(config, Iterable):
        return
    for value in config:
        yield from targets(value)
