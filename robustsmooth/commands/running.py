"""Turn a function of a config into a command: with Hydra, and with errors as one readable sentence."""

import functools
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from robustsmooth.commands.composing import check_own_names, conf_dir, own_conf_dir, register_resolvers
from robustsmooth.commands.explaining import explain, job_error
from robustsmooth.commands.settings import check_settings
from robustsmooth.commands.stopping import RESUMABLE, end_sweep, join_launcher, own_signal, stopped_alike
from robustsmooth.lock import release
from robustsmooth.processes import end_group, first_process, keep_memory

_EVALUATIONS = ("certify", "predict", "attack", "measure")
_FULL_ERROR = "ROBUSTSMOOTH_FULL_ERROR"
_TASKS: dict[str, Callable[[DictConfig], Any]] = {}


def _find_own_files(argv: Sequence[str]) -> None:
    """Make the Python files beside the folder of ``--config-dir`` importable; check the names in it."""
    own = own_conf_dir(argv)
    if own is not None:
        sys.path.append(str(own.parent))
        check_own_names(own)


def command(name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Make ``conf/<name>.yaml`` the primary config of a function and the function a command.

    The command ends with exit status 0; or with one sentence on standard error and status 2 for a
    wrong call (unknown choice, misspelt key, missing value), 130 after SIGINT (Ctrl-C), 143 after SIGTERM,
    or 1 for anything else. Its child processes end with it. With ``HYDRA_FULL_ERROR=1`` in the environment
    the traceback is shown instead.
    """

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], None]:
        _TASKS[name] = task

        @functools.wraps(task)
        def job(cfg: DictConfig) -> Any:
            join_launcher()
            keep_memory()
            try:
                check_settings(cfg, name)
                result = task(cfg)
                if name in RESUMABLE:
                    _say_where(cfg)
                return result
            except Exception as error:
                own_signal(error)
                if HydraConfig.get().mode == RunMode.RUN:
                    _give_up(error, name)
                    raise
                raise job_error(error, HydraConfig.get().job.num, name, sys.argv[1:]) from error
            finally:
                release()

        @functools.wraps(task)
        def main() -> None:
            register_resolvers()
            # Errors come here instead of being printed by Hydra; child processes inherit the choice.
            os.environ.setdefault(_FULL_ERROR, os.environ.get("HYDRA_FULL_ERROR", "0"))
            os.environ["HYDRA_FULL_ERROR"] = "1"
            run = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)(job)
            try:
                _find_own_files(sys.argv)
                stopped_alike(run, functools.partial(_say, name))
            except Exception as error:
                end_sweep()
                _give_up(error, name)
                raise

        return main

    return decorate


def _say_where(cfg: DictConfig) -> None:
    """The last line: the folder to give to the next command."""
    if first_process():
        print(f"The run is {cfg.run_dir}", flush=True)


def _give_up(error: Exception, name: str) -> None:
    """End the process with one sentence, unless the traceback was requested."""
    if os.environ.get(_FULL_ERROR) == "1":
        return
    sentence, status = explain(error, name, sys.argv[1:])
    _say(name, sentence)
    sys.exit(status)


def _say(name: str, sentence: str) -> None:
    print(f"robustsmooth {name}: {sentence}", file=sys.stderr, flush=True)


def nested(command_line: str, training: Path, folder: Path, trust: Sequence[str] = ()) -> Callable[[], Any]:
    """Another command inside this one, on this run's checkpoint: composed now, run when it is called.

    Args:
        command_line: Such as ``"certify certificate.n=1000"``; ``{run}`` stands for the run folder, as in
            ``checkpoint={run}/checkpoints/best.ckpt`` for another network than the last epoch's.
        training: The run folder whose last epoch the command evaluates.
        folder: Where it writes.
        trust: Constructors that the checkpoint's config may name, since this run's config names them too.

    Returns:
        A function that runs it and returns what the command's function returns. If the command takes one
        device, the first process of a training on several runs it, and in the others it does nothing.

    Raises:
        ValueError: If the first word is not a command.
        ConfigCompositionException: If the command has no such setting.
    """
    name, *overrides = shlex.split(command_line)
    if name not in _EVALUATIONS:
        raise ValueError(
            f"`evaluate` runs certify, predict, attack or measure, got {name!r} in {command_line!r}"
        )
    last = training / "checkpoints" / "last.ckpt"
    places = [f"checkpoint={_quoted(last)}", f"run_dir={_quoted(folder)}", f"trust=[{','.join(trust)}]"]
    cfg = hydra.compose(
        config_name=name, overrides=[*places, *(_placed(override, training) for override in overrides)]
    )
    check_settings(cfg, name)

    def run() -> Any:
        if cfg.trainer.devices == 1:
            end_group()
            if not first_process():
                return None
        __import__(f"robustsmooth.{name}")
        return _TASKS[name](cfg)

    return run


def _placed(override: str, run: Path) -> str:
    """An override with ``{run}`` filled in, quoted for Hydra."""
    key, _, value = override.partition("=")
    return f"{key}={_quoted(value.replace('{run}', str(run)))}" if "{run}" in value else override


def _quoted(text: object) -> str:
    """A text quoted for Hydra, whatever characters it contains."""
    escaped = str(text).replace("'", "\\'")
    return f"'{escaped}'"
