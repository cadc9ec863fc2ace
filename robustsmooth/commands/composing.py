"""Where the configs are, and the interpolations that they use."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from omegaconf import DictConfig, OmegaConf

import robustsmooth
from robustsmooth.annotations import read_fraction
from robustsmooth.cluster import slurm


def conf_dir() -> Path:
    """The folder of the configs: inside the installed package, or beside it in a checkout."""
    package = Path(robustsmooth.__file__).parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def own_conf_dir(argv: Sequence[str]) -> Path | None:
    """The user's own folder of configs: the value of ``--config-dir`` on a command line."""
    found = None
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        option, equals, value = word.partition("=")
        if option in ("--config-dir", "-cd"):
            found = Path(value if equals else following).expanduser().resolve()
    return found


def check_own_names(own: Path) -> None:
    """Refuse a user's file that Hydra would not read: it looks for each name in our folder first.

    Args:
        own: The user's own folder of configs. A copy of one of our files changes nothing and may stay.

    Raises:
        ValueError: If a file has the name of one of ours, in the same group.
    """
    for ours in sorted(conf_dir().rglob("*.yaml")):
        file = own / ours.relative_to(conf_dir())
        if file.is_file() and file.read_bytes() != ours.read_bytes():
            raise ValueError(f"`{file}` has the name of one of ours and would be ignored; rename it")


def register_resolvers() -> None:
    """Register our interpolations: ``${fraction:8/255}``, ``${multiply:2,30}``..."""
    OmegaConf.register_new_resolver("choices", _choices, replace=True)
    OmegaConf.register_new_resolver("epochs_within", _epochs_within, replace=True)
    OmegaConf.register_new_resolver("at_epoch", _at_epoch, replace=True)
    OmegaConf.register_new_resolver("reduced", _reduced, replace=True)
    OmegaConf.register_new_resolver("slurm", slurm, replace=True)
    OmegaConf.register_new_resolver("fraction", read_fraction, replace=True)
    OmegaConf.register_new_resolver("multiply", _multiply, replace=True)


def _choices(*groups: str) -> str:
    """``${choices:method,data}`` in a command's help: these groups and their choices, the user's own too."""
    if not GlobalHydra.instance().is_initialized():
        return ""
    options = GlobalHydra.instance().config_loader().get_group_options
    lines = ["Groups and their choices"]
    for named in groups:
        group = named.partition("@")[0]
        choices = options(group) or [
            f"{folder}/{choice}"
            for folder in options(group, ObjectType.GROUP)
            for choice in options(f"{group}/{folder}")
        ]
        text = f"  {named + '=':<17} {', '.join(choices)}"
        lines.append(textwrap.fill(text, 110, subsequent_indent=" " * 20, break_on_hyphens=False))
    return "\n".join(lines)


def _multiply(*factors: Any) -> Any:
    """``${multiply:${.epsilon},0.25}``; null if a factor is not a number, which is refused at its own key."""
    numbers = [read_fraction(factor) for factor in factors]
    return math.prod(numbers) if all(isinstance(number, int | float) for number in numbers) else None


def _epochs_within(most: int, minutes: float, rate: float, passes: float) -> int:
    """``${epochs_within:90,10,5000,49000}``: epochs of 49 000 passes, 1 to 90, that fit in 10 minutes."""
    return max(1, min(int(most), int(60 * minutes * rate / passes)))


def _at_epoch(epoch: int, *, _root_: DictConfig) -> int:
    """``${at_epoch:50}`` of 150 published epochs: 50; at a scale of 12 epochs (``scale.epochs``) the 4th."""
    published, ours = OmegaConf.select(_root_, "published_epochs"), OmegaConf.select(_root_, "scale.epochs")
    return int(epoch) if not published or not ours else max(1, round(epoch * ours / published))


def _reduced(count: int, *, _root_: DictConfig) -> int:
    """``${reduced:16}`` steps, copies or votes: 16; at ``scale.reduction: 4`` a quarter, at least 2."""
    reduction = OmegaConf.select(_root_, "scale.reduction")
    return int(count) if not reduction else min(int(count), max(2, int(count) // reduction))
