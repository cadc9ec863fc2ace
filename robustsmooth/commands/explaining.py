"""An error as one sentence: what was wrong, what is allowed, what to do."""

import difflib
import errno
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from robustsmooth.commands.composing import conf_dir, own_conf_dir
from robustsmooth.commands.stopping import go_on
from robustsmooth.files import DISK_FULL
from robustsmooth.processes import ended_process

USAGE, FAILURE = 2, 1
_log = logging.getLogger(__name__)


class JobError(Exception):
    """A job of a sweep has failed. Unlike some errors of libraries, it can be sent to another process.

    Args:
        sentence: Which job, and why.
        status: The exit status.
    """

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence, status)
        self.sentence, self.status = sentence, status

    def __str__(self) -> str:
        return self.sentence


def explain(error: BaseException, name: str = "train", argv: Sequence[str] = ()) -> tuple[str, int]:
    """One sentence for an error, and the exit status that goes with it."""
    if isinstance(error, JobError):
        return error.sentence, error.status
    while error.__cause__ is not None and (
        isinstance(error, InstantiationException) or "Unable to configure handler" in str(error)  # of logging
    ):
        error = error.__cause__
    if isinstance(error, MissingConfigException):
        return _explain_unknown_choice(error), USAGE
    if isinstance(error, ConfigCompositionException | OverrideParseException | MissingMandatoryValue):
        return _explain_override(error, name, argv), USAGE
    if ended := ended_process(error):
        return f"{ended[0]}; {go_on()}", ended[1]
    if isinstance(error, OSError):
        return _explain_os_error(error), FAILURE
    message = " ".join(str(error).split()) or type(error).__name__
    if type(error).__name__ == "ProcessRaisedException":  # of torch: the traceback of a spawned rank, as text
        told = re.search(r"\nValueError: (.*)\Z", str(error).rstrip(), re.DOTALL)
        if told:
            return " ".join(told[1].split()), FAILURE
    if "No supported gpu backend found" in message:  # the wording of Lightning
        return "there is no GPU here; choose trainer=default, trainer=cpu or trainer=ddp_cpu", FAILURE
    foreseen = isinstance(error, ValueError | HydraException | OmegaConfBaseException)
    if foreseen or type(error).__name__ == "MisconfigurationException":  # of Lightning
        return message, FAILURE
    if isinstance(error, ImportError) and (package := _missing_package(message)):
        extra = f"pip install 'robustsmooth[{_EXTRAS[package]}]'"
        return f"{package} is not installed; install it with: {extra}", FAILURE
    kind = type(error).__name__
    return f"unexpected error: {kind}: {message} (HYDRA_FULL_ERROR=1 shows the traceback)", FAILURE


def job_error(error: BaseException, number: int, name: str = "train", argv: Sequence[str] = ()) -> JobError:
    """An error of a job of a sweep, with the job's number; it is logged too, since a sweep goes on."""
    sentence, status = explain(error, name, argv)
    sentence = f"job {number} failed: {sentence}"
    _log.error(sentence)
    return JobError(sentence, status)


_EXTRAS = {"tensorboard": "tensorboard", "onnx": "onnx", "timm": "timm", "foolbox": "attacks"}
_EXTRAS |= {"pyautoattack": "attacks", "huggingface_hub": "hub", "wandb_workspaces": "dashboard"}
_PLUGINS = {"joblib": "sweeps", "submitit_local": "sweeps", "submitit_slurm": "sweeps", "optuna": "search"}
"""Packages and Hydra plugins, with the extra of robustsmooth that installs them."""


def _missing_package(message: str) -> str | None:
    return next((name for name in _EXTRAS if re.search(rf"\b{name}\b", message)), None)


def _explain_unknown_choice(error: MissingConfigException) -> str:
    group, _, choice = str(error.missing_cfg_file or "").rpartition("/")
    known = ", ".join(error.options or ())
    if group in ("hydra/launcher", "hydra/sweeper") and choice in _PLUGINS:
        extra = f"pip install 'robustsmooth[{_PLUGINS[choice]}]'"
        return f"{group}={choice} is not installed; install it with: {extra}"
    if group and known:
        return (
            f"there is no {group}={choice}; known are {known} (your own go in a folder given by --config-dir)"
        )
    return " ".join(str(error).split())


def _explain_override(error: Exception, name: str, argv: Sequence[str]) -> str:
    text = str(error)
    if isinstance(error, MissingMandatoryValue):
        key = text.splitlines()[0].rpartition(": ")[2].strip()
        return f"`{key}` must be given: add {key}=... to the command line"
    if isinstance(error, OverrideParseException):
        if "\n" in str(error.override):
            line = " ".join(str(error.override).split())
            return f"a value must stand on one line, without line breaks between its parts: {line}"
        return (
            f"cannot read `{error.override}`: a value with = , : [ ] or {{ }} that is meant as text needs "
            "quotes of its own, as in 'key=\"a=b\"'"
        )
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        return _explain_unknown_key(unknown[1], name, argv)
    several = re.match(r"Ambiguous value for argument '(.*)'", text)
    if several:
        return _explain_several_values(several[1], name, argv)
    group = re.search(r"Could not override '?([\w/@]+)'?\. ?No match in the defaults list", text)
    if group:
        return f"there is no config group `{group[1]}`"
    return " ".join(text.split())


def _explain_unknown_key(key: str, name: str, argv: Sequence[str]) -> str:
    """List the keys that exist, by composing the same command without its plain values."""
    parent, _, leaf = key.rpartition(".")
    try:
        cfg = _without_values(name, argv)
        node = OmegaConf.select(cfg, parent) if parent else cfg
        known = sorted(str(part) for part in node if not str(part).startswith("_"))
    except Exception:  # the sentence is correct without the list too
        return f"there is no setting `{key}`"
    if leaf in known:  # a mapping to which names are added
        return f"`{key}` takes new names with a plus, such as +{key}.NAME=..."
    where = f"`{parent}` has {', '.join(known)}" if parent else f"known are {', '.join(known)}"
    deeper = (
        []
        if parent
        else sorted(_paths_to(OmegaConf.to_container(cfg), leaf), key=lambda path: path.count("."))
    )
    close = [".".join(filter(None, [parent, match])) for match in difflib.get_close_matches(leaf, known, n=1)]
    guess = "".join(f"; did you mean {item}?" for item in [*deeper, *close][:1])
    group = key.partition(".")[0]
    several = any(word.startswith(f"{group}=") and "," in word for word in argv)
    if several or any(word.startswith("row=") for word in argv):  # composed with the default first
        guess += f"; if every {group if several else 'chosen row'} of this sweep has it, write ++{key}=..."
    return f"there is no setting `{key}`{guess} ({where})"


def _explain_several_values(word: str, name: str, argv: Sequence[str]) -> str:
    """Ask for ``-m``; an experiment is a sweep without it, unless another setting cannot be composed."""
    settings = [item for item in argv if "=" in item and not item.startswith("-")]
    parsed = OverridesParser.create().parse_overrides(settings)
    single = [item for item, setting in zip(settings, parsed, strict=True) if not setting.is_sweep_override()]
    try:
        _compose(name, argv, single)
    except Exception as error:
        return explain(error, name, argv)[0]
    key, _, values = word.partition("=")
    group = any((folder / key).is_dir() for folder in _folders(argv))
    listed = "" if group else f", or write {key}=[{values}] if a list is meant"
    return f"`{word}` has several values; add -m for one run each{listed}"


def _without_values(name: str, argv: Sequence[str]) -> DictConfig:
    """The command's config with its choices only."""
    folders = _folders(argv)
    choices = [word for word in argv if re.fullmatch(r"[\w/]+=[\w/,-]+", word) and "," not in word]
    groups = [word for word in choices if any((folder / word.split("=")[0]).is_dir() for folder in folders)]
    return _compose(name, argv, groups)


def _folders(argv: Sequence[str]) -> list[Path]:
    """Our folder of configs and the one that ``--config-dir`` names."""
    own = own_conf_dir(argv)
    return [conf_dir(), *([own] if own else [])]


def _compose(name: str, argv: Sequence[str], settings: Sequence[str]) -> DictConfig:
    """The command's config with some of its settings, from our folder and the user's own."""
    search = [f"hydra.searchpath=[file://{folder}]" for folder in _folders(argv)[1:]]
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose(name, overrides=[*search, *settings])


def _paths_to(node: Any, leaf: str, place: str = "") -> Iterator[str]:
    """The full names of all settings that end with this name."""
    for key, value in node.items() if isinstance(node, dict) else ():
        path = f"{place}.{key}".lstrip(".")
        if key == leaf:
            yield path
        yield from _paths_to(value, leaf, path)


def _explain_os_error(error: OSError) -> str:
    if error.errno in DISK_FULL:
        return f"the disk is full{_at(error)}; free some space and start again: finished work is kept"
    name = error.filename
    if (
        isinstance(error, PermissionError)
        and name
        and os.access(name, os.F_OK)
        and not os.access(name, os.R_OK)
    ):
        return f"no permission to read{_at(error)}; change it, or name another file or folder"
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return f"no permission to write{_at(error)}; choose another folder with hydra.run.dir=..."
    if isinstance(error, IsADirectoryError) and name:
        return f"`{name}` is a folder, where a file is written or read; move it away or name another one"
    if isinstance(error, NotADirectoryError | FileExistsError) and name:
        return f"`{name}` is a file, where a folder is needed; move it away or choose another folder"
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return f"`{error.filename}` does not exist"
    return " ".join(str(error).split())


def _at(error: OSError) -> str:
    return f" at `{error.filename}`" if error.filename else ""
