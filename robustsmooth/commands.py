"""Turn a function of a config into a command: Hydra in front, one readable sentence behind.

    @command("train")
    def train(cfg: DictConfig) -> None: ...

    if __name__ == "__main__":
        train()

Nothing heavy is imported here, so that ``--help`` and a misspelt key answer at once.
"""

import difflib
import errno
import functools
import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

import robustsmooth

__all__ = ["command", "describe", "explain", "nested", "prepare", "write_description"]

USAGE, FAILURE = 2, 1
_EVALUATIONS = ("certify", "predict", "attack", "measure")
_FULL_ERROR = "ROBUSTSMOOTH_FULL_ERROR"
_STOPPED = "stopped by SIGTERM; what is finished is kept: start the same command again to go on"
_log = logging.getLogger(__name__)
_TASKS: dict[str, Callable[[DictConfig], Any]] = {}


def conf_dir() -> Path:
    """The configs: inside the installed package, or beside it in a checkout."""
    package = Path(robustsmooth.__file__).parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def _fraction(text: str | float) -> float:
    """``${fraction:8/255}``: budgets are written as they are spoken."""
    numerator, _, denominator = str(text).partition("/")
    return float(numerator) / float(denominator or 1)


def _epochs_within(most: int, minutes: float, rate: float, passes: float) -> int:
    """``${epochs_within:90,10,5000,49000}``: epochs of 49 000 passes, 1 to 90, that fit in 10 minutes."""
    return max(1, min(int(most), int(60 * minutes * rate / passes)))


def _shortened(epochs: int, of: int, to: int) -> int:
    """``${shortened:30,90,12}``: the 30th of 90 epochs becomes the 4th of 12."""
    return max(1, round(epochs * to / of))


def register_resolvers() -> None:
    """The one place that knows our interpolations: ``${fraction:8/255}``, ``${multiply:2,30}``..."""
    OmegaConf.register_new_resolver("epochs_within", _epochs_within, replace=True)
    OmegaConf.register_new_resolver("shortened", _shortened, replace=True)
    OmegaConf.register_new_resolver("fraction", _fraction, replace=True)
    OmegaConf.register_new_resolver(
        "multiply", lambda *numbers: functools.reduce(lambda a, b: a * b, numbers), replace=True
    )


def command(name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Make ``conf/<name>.yaml`` the primary config of a function and the function a command.

    The command ends with exit status 0; or with one sentence on standard error and status 2 for a
    wrong call (unknown choice, misspelt key, missing value), 143 after SIGTERM or 1 for anything else. With
    ``HYDRA_FULL_ERROR=1`` in the environment the traceback is shown instead.
    """

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], None]:
        _TASKS[name] = task

        @functools.wraps(task)
        def job(cfg: DictConfig) -> Any:
            try:
                result = task(cfg)
                if name in _EVALUATIONS or name == "train":
                    _say_where(cfg)
                return result
            except Exception as error:
                if HydraConfig.get().mode == RunMode.RUN:
                    _give_up(error, name)
                # A failed job of a sweep lets the others run; Hydra itself would tell of it at the very end.
                sentence, _ = explain(error, name, sys.argv[1:])
                _log.error("job %s failed: %s", HydraConfig.get().job.num, sentence)
                raise

        @functools.wraps(task)
        def main() -> None:
            register_resolvers()
            # Errors come here instead of being printed by Hydra; child processes inherit the choice.
            os.environ.setdefault(_FULL_ERROR, os.environ.get("HYDRA_FULL_ERROR", "0"))
            os.environ["HYDRA_FULL_ERROR"] = "1"
            try:
                hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)(job)()
            except SystemExit as stop:
                if type(stop).__name__ != "SIGTERMException":  # of Lightning, and without a status
                    raise
                print(f"robustsmooth {name}: {_STOPPED}", file=sys.stderr, flush=True)
                sys.exit(128 + signal.SIGTERM)
            except Exception as error:
                _give_up(error, name)
                raise

        return main

    return decorate


def _say_where(cfg: DictConfig) -> None:
    """The last line: the folder that the next command will be given."""
    if _is_first_process():
        print(f"The run is {cfg.run_dir}", flush=True)


def _give_up(error: Exception, name: str) -> None:
    """End the process with one sentence, unless the traceback was asked for."""
    if os.environ.get(_FULL_ERROR) == "1":
        return
    sentence, status = explain(error, name, sys.argv[1:])
    print(f"robustsmooth {name}: {sentence}", file=sys.stderr, flush=True)
    sys.exit(status)


def prepare(cfg: DictConfig, begin: bool = True) -> Path:
    """Get the run folder ready.

    Args:
        cfg: The command's composed config; ``cfg.run_dir`` says where it writes.
        begin: Write at once what the run is. A command whose trainer may still refuse to go on in this
            folder leaves that to the trainer (`robustsmooth.runtime.trainer_for`).

    Returns:
        The run folder.

    Raises:
        MissingMandatoryValue: If a value that must be given is missing.
    """
    folder = Path(cfg.run_dir)
    _check_mandatory(cfg)
    folder.mkdir(parents=True, exist_ok=True)
    if begin:
        write_description(folder, describe(cfg))
    return folder


def describe(cfg: DictConfig) -> dict[str, str]:
    """What a run is, as files for its ``.hydra/``: the resolved config, the versions and the git commit.

    Also Hydra's own ``hydra.yaml`` and ``overrides.yaml``, unless the command runs inside another one.
    """
    files = {
        "config.yaml": OmegaConf.to_yaml(cfg, resolve=True),
        "environment.json": json.dumps(environment(), indent=2) + "\n",
    }
    hydras = HydraConfig.get() if HydraConfig.initialized() else None
    if hydras is not None and Path(hydras.runtime.output_dir).resolve() == Path(cfg.run_dir).resolve():
        files["hydra.yaml"] = OmegaConf.to_yaml({"hydra": hydras})
        files["overrides.yaml"] = OmegaConf.to_yaml(hydras.overrides.task)
    return files


def write_description(folder: Path, files: Mapping[str, str]) -> None:
    """Write what `describe` found, in one of several processes."""
    if _is_first_process():
        (folder / ".hydra").mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            _write(folder / ".hydra" / name, text)


def _is_first_process() -> bool:
    """Whether this one writes what all would write alike; Lightning, torchrun or SLURM number them."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def nested(command_line: str, checkpoint: Path, folder: Path, trust: Sequence[str] = ()) -> Callable[[], Any]:
    """Another command inside this one, on this run's checkpoint: composed now, run when it is called.

    Args:
        command_line: Such as ``"certify certificate.n=1000"``; ``{run}`` stands for the run folder, as in
            ``checkpoint={run}/checkpoints/best.ckpt`` for another network than the last epoch's.
        checkpoint: The run folder that the command evaluates.
        folder: Where it writes.
        trust: What the checkpoint's config may name, because this run's config has named it already.

    Returns:
        A function that runs it and returns what the command's function returns.

    Raises:
        ValueError: If the first word is no command.
        ConfigCompositionException: If the command has no such setting.
    """
    name, *overrides = shlex.split(command_line)
    if name not in _EVALUATIONS:
        raise ValueError(
            f"`evaluate` runs certify, predict, attack or measure, got {name!r} in {command_line!r}"
        )
    places = [f"checkpoint={_quoted(checkpoint)}", f"run_dir={_quoted(folder)}", f"trust=[{','.join(trust)}]"]
    cfg = hydra.compose(
        config_name=name, overrides=[*places, *(_placed(each, checkpoint) for each in overrides)]
    )

    def run() -> Any:
        __import__(f"robustsmooth.{name}")
        return _TASKS[name](cfg)

    return run


def _placed(override: str, run: Path) -> str:
    """An override with ``{run}`` filled in, quoted for Hydra."""
    key, _, value = override.partition("=")
    return f"{key}={_quoted(value.replace('{run}', str(run)))}" if "{run}" in value else override


def _quoted(text: object) -> str:
    """A text as Hydra reads it back, whatever signs are in it."""
    escaped = str(text).replace("'", "\\'")
    return f"'{escaped}'"


def environment() -> dict[str, Any]:
    """Versions of what the numbers depend on, and the commit of this checkout if it is one."""
    packages = ["torch", "torchvision", "pytorch-lightning", "hydra-core", "numpy", "scipy"]
    return {
        "robustsmooth": robustsmooth.__version__,
        "git_commit": _git_commit(),
        "python": sys.version.split()[0],
        "packages": {package: metadata.version(package) for package in packages},
        "command": " ".join(
            ["python -m", getattr(sys.modules["__main__"].__spec__, "name", sys.argv[0]), *sys.argv[1:]]
        ),
    }


def _git_commit() -> str | None:
    """The commit of the source tree, with ``-dirty`` if it was changed; None outside a checkout."""
    source = Path(robustsmooth.__file__).parent
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=source,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() or None


def _write(path: Path, text: str) -> None:
    draft = path.with_name(path.name + ".tmp")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def _check_mandatory(cfg: DictConfig) -> None:
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise MissingMandatoryValue(f"Missing mandatory value: {missing[0]}")


# ---------------------------------------------------------------------------- errors as sentences


def explain(error: BaseException, name: str = "train", argv: Sequence[str] = ()) -> tuple[str, int]:
    """One sentence for an error, and the exit status that goes with it."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, MissingConfigException):
        return _explain_unknown_choice(error), USAGE
    if isinstance(error, ConfigCompositionException | OverrideParseException | MissingMandatoryValue):
        return _explain_override(error, name, argv), USAGE
    if isinstance(error, OSError):
        return _explain_os_error(error), FAILURE
    message = " ".join(str(error).split()) or type(error).__name__
    if type(error).__name__ == "ProcessRaisedException":  # torch's: a spawned rank's traceback as text
        told = re.search(r"\nValueError: (.*)\Z", str(error).rstrip(), re.DOTALL)
        if told:
            return " ".join(told[1].split()), FAILURE
    if "No supported gpu backend found" in message:  # Lightning's words
        return "there is no GPU here; choose trainer=default, trainer=cpu or trainer=ddp_cpu", FAILURE
    foreseen = isinstance(error, ValueError | HydraException | OmegaConfBaseException)
    if foreseen or type(error).__name__ == "MisconfigurationException":  # Lightning's, not imported here
        return message, FAILURE
    hint = "not an error we foresaw; HYDRA_FULL_ERROR=1 shows the traceback"
    return f"{type(error).__name__}: {message} ({hint})", FAILURE


def _explain_unknown_choice(error: MissingConfigException) -> str:
    group, _, choice = str(error.missing_cfg_file or "").rpartition("/")
    known = ", ".join(error.options or ())
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
        return (
            f"cannot read `{error.override}`: a value with = , : [ ] or {{ }} that is meant as text needs "
            "quotes of its own, as in 'key=\"a=b\"'"
        )
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        return _explain_unknown_key(unknown[1], name, argv)
    group = re.search(r"Could not override '?([\w/@]+)'?\. ?No match in the defaults list", text)
    if group:
        return f"there is no config group `{group[1]}`"
    return " ".join(text.split())


def _explain_unknown_key(key: str, name: str, argv: Sequence[str]) -> str:
    """Name the keys that are there, composing the same command without its plain values."""
    parent, _, leaf = key.rpartition(".")
    known: list[str] = []
    try:
        choices = [word for word in argv if re.fullmatch(r"[\w/]+=[\w/,-]+", word) and "," not in word]
        groups = [word for word in choices if (conf_dir() / word.split("=")[0]).is_dir()]
        GlobalHydra.instance().clear()
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            cfg = hydra.compose(name, overrides=groups)
        node = OmegaConf.select(cfg, parent) if parent else cfg
        known = sorted(str(each) for each in node if not str(each).startswith("_"))
    except Exception:  # the sentence is still right without the list
        known = []
    where = f"`{parent}` has {', '.join(known)}" if parent else f"known are {', '.join(known)}"
    close = difflib.get_close_matches(leaf, known, n=1)
    guess = f"; did you mean {'.'.join(filter(None, [parent, close[0]]))}?" if close else ""
    group = key.partition(".")[0]
    if any(word.startswith(f"{group}=") and "," in word for word in argv):  # composed with the default first
        guess += f"; if every {group} of this sweep has it, write ++{key}=..."
    return f"there is no setting `{key}`{guess} ({where})" if known else f"there is no setting `{key}`"


def _explain_os_error(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
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
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return f"`{error.filename}` does not exist"
    return " ".join(str(error).split())


def _at(error: OSError) -> str:
    return f" at `{error.filename}`" if error.filename else ""
