"""Where a command writes, and what it prints when it is stopped."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from robustsmooth.cluster import requeue
from robustsmooth.processes import (
    Stopped,
    end_children,
    ended_process,
    first_process,
    follow_parent,
    handle_signals,
    own_children,
    stoppable,
)

RESUMABLE = ("train", "certify", "predict", "attack", "measure")


class _Process:
    """The command for which this process was started.

    Attributes:
        user: Whether it was started by the user, or by a program that starts several processes with the same
            command line; false for a job of a sweep's launcher.
        follows: Whether it ends when its parent process ends.
        folder: Where the command writes; None if it cannot be continued.
        option: What to add to the command to continue in that folder; None if nothing.
        sweep: The config of a sweep that is running.
    """

    user = follows = False
    folder: str | None = None
    option: str | None = None
    sweep: DictConfig | None = None


_this = _Process()


class Announce(Callback):
    """Prints at the start where a run or a sweep writes."""

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """A command starts; or a job of a sweep, whose folder has been printed already."""
        if config.hydra.mode == RunMode.RUN:
            _announce(config, "run")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """A sweep starts."""
        _announce(config, "sweep")
        _this.sweep = config

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """All jobs of a sweep are done."""
        _this.sweep = None


def _announce(config: DictConfig, kind: str) -> None:
    if config.hydra.job.name not in RESUMABLE:
        return
    _this.folder = str(config.hydra[kind].dir)
    by_time = "${now:" in str(OmegaConf.to_container(config.hydra[kind], resolve=False))
    _this.option = f"hydra.{kind}.dir={_this.folder}" if by_time else None
    if first_process():
        print(f"The {kind} folder is {_this.folder}", flush=True)


def go_on() -> str:
    """A sentence that says what is kept, and how to continue."""
    if _this.folder is None:
        return "start the same command again"
    how = f"start the same command with {_this.option}" if _this.option else "start the same command again"
    return f"what is finished is kept in `{_this.folder}`: {how} to continue"


def end_sweep() -> None:
    """Run the callbacks at the end of a sweep, such as its report, which Hydra skips after a failed job."""
    sweep = _this.sweep
    if sweep is not None and any(Path(sweep.hydra.sweep.dir).glob("**/summary.json")):
        Callbacks(sweep).on_multirun_end(config=sweep, config_name=None)


def stopped_alike(run: Callable[[], None], say: Callable[[str], None]) -> None:
    """Run a command so that SIGINT and SIGTERM end it and its children, with a sentence.

    Args:
        run: The command.
        say: Prints the sentence.

    Raises:
        SystemExit: With 130 after SIGINT (Ctrl-C) and 143 after SIGTERM.
    """
    _this.user, _this.folder, _this.option, _this.sweep = True, None, None, None
    if not first_process():
        _follow()
    others = own_children()
    with stoppable():
        try:
            run()
        except BaseException as end:
            end_children(but=others)
            if isinstance(end, Stopped) and first_process():
                say(f"stopped by {end.signal}; {go_on()}")
                if end.signal == "SIGUSR1" and (problem := requeue()):
                    say(problem)
            raise


def own_signal(error: Exception) -> None:
    """If another process has ended, wait for the signal that may have ended it and may still arrive here.

    Raises:
        Stopped: If it arrives.
    """
    if ended_process(error):
        time.sleep(2)


def join_launcher() -> None:
    """A job in a process of a sweep's launcher ends with the sweep; submitit has its own handlers."""
    if _this.user:
        return
    _follow()
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        handle_signals()


def _follow() -> None:
    if not _this.follows:
        _this.follows = True
        follow_parent()
