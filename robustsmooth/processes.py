"""The processes of a command, and how they are stopped.

SIGINT (Ctrl-C) and SIGTERM stop a command at any point, by the exception `Stopped`. Nothing has to be
finished first, because even SIGKILL loses nothing: rows and checkpoints are written whole or not at all.
"""

import ctypes
import multiprocessing
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PATIENCE = 3.0  # seconds within which a second signal counts as a repetition of the first
_stopped_at: float | None = None


class Stopped(SystemExit):
    """The command was stopped by a signal.

    Args:
        code: The exit status, 128 plus the signal's number, as shells count.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)

    @property
    def signal(self) -> str:
        """The signal's name."""
        return signal.Signals(int(str(self.code)) - 128).name


def _stop(signum: int, frame: FrameType | None) -> None:
    global _stopped_at
    now = time.monotonic()
    if _stopped_at is None:
        _stopped_at = now
        raise Stopped(128 + signum)
    if now - _stopped_at > _PATIENCE:  # a deliberate second signal; `timeout` sends two at once
        os._exit(128 + signum)


def _unraisable(told: "sys.UnraisableHookArgs") -> None:
    """Send a signal again if it arrived in a destructor, where Python drops its exception."""
    global _stopped_at
    if isinstance(told.exc_value, Stopped):
        _stopped_at = None
        threading.Timer(0.1, os.kill, (os.getpid(), int(str(told.exc_value.code)) - 128)).start()
    else:
        sys.__unraisablehook__(told)


def handle_signals() -> None:
    """Make SIGINT and SIGTERM raise `Stopped` in the main thread."""
    global _stopped_at
    _stopped_at = None
    if threading.current_thread() is threading.main_thread():
        sys.unraisablehook = _unraisable
        for item in _SIGNALS:
            signal.signal(item, _stop)
        if "SLURM_JOB_ID" in os.environ and signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL:
            signal.signal(signal.SIGUSR1, _stop)  # sbatch --signal=USR1@60: the time is nearly over


@contextmanager
def stoppable() -> Iterator[None]:
    """`handle_signals` inside a ``with`` block; the earlier handlers are restored."""
    before = {item: signal.getsignal(item) for item in (*_SIGNALS, signal.SIGUSR1)}
    hook = sys.unraisablehook
    handle_signals()
    try:
        yield
    finally:
        sys.unraisablehook = hook
        if threading.current_thread() is threading.main_thread():
            for item, handler in before.items():
                signal.signal(item, handler)


def first_process() -> bool:
    """Whether this process writes and prints for all; Lightning, torchrun or SLURM number them."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def end_group() -> None:
    """End the group of processes in which several devices trained, if there is one; all of them must call it.

    Otherwise what one of them does alone afterwards would wait for the others.
    """
    distributed = sys.modules.get("torch.distributed")  # not imported here: the report works without torch
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def launch() -> str:
    """A name that the processes of one run share, whether torchrun, srun or one of them started them."""
    facts = os.environ
    if "TORCHELASTIC_RUN_ID" in facts:
        return f"{facts['TORCHELASTIC_RUN_ID']}:{facts.get('MASTER_PORT')}"
    if int(facts.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return f"{facts.get('SLURM_JOB_ID')}.{facts.get('SLURM_STEP_ID')}"
    return facts.setdefault("ROBUSTSMOOTH_LAUNCH", f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}")


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int:
    """Bytes of memory that programs could still get; 0 where the system does not say."""
    with suppress(OSError, ValueError):
        facts = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(facts.get("MemAvailable", "0 kB").split()[0]) * 1024
    return 0


def keep_memory() -> None:
    """Have the C library keep freed memory for the next step, instead of returning it to the system.

    A network's activations are some MB each; without this they may be mapped, cleared and unmapped at every
    layer. `MALLOC_TRIM_THRESHOLD_` or `MALLOC_MMAP_THRESHOLD_` in the environment come first. glibc only.
    """
    if {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"} & os.environ.keys():
        return
    with suppress(OSError, AttributeError):
        set_option = ctypes.CDLL(None).mallopt
        trim, mmap = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
        set_option(trim, 2**30)
        set_option(mmap, 2**30)


# ---------------------------------------------------------------------------- parents and children


def follow_parent() -> None:
    """End this process within a second after its parent has ended, also by SIGKILL."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="follow-parent", daemon=True).start()


def own_children() -> set[int]:
    """The running processes that this one has started, except those that end by themselves."""
    if not Path("/proc/self/stat").exists():
        return {child.pid for child in multiprocessing.active_children() if child.pid is not None}
    me = str(os.getpid())
    found = set()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with suppress(OSError):
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if parent == me and state != "Z" and b"resource_tracker" not in (folder / "cmdline").read_bytes():
                found.add(int(folder.name))
    return found


def end_children(but: Set[int] = frozenset(), grace: float = 5.0) -> None:
    """End the processes that this one has started: with SIGTERM, later with SIGKILL.

    Args:
        but: Processes that are not ended.
        grace: Seconds between the two.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler reports an ended loader as an error
    left = own_children() - but
    for signum, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 1.0)):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signum)
        end = time.monotonic() + seconds
        while left and time.monotonic() < end:
            time.sleep(0.02)
            left &= own_children()


def ended_process(error: BaseException) -> tuple[str, int] | None:
    """A message and the exit status, if an error means that another process of the command has ended.

    Args:
        error: An error of torch or joblib: a rank, a job or a loading process was killed, or a rank lost its
            connection to one that was killed.
    """
    kind, message = type(error).__name__, str(error)
    killed = kind in ("ProcessExitedException", "TerminatedWorkerError") or "DataLoader worker" in message
    if not killed:
        lost = re.search(r"Connection (closed|reset) by peer|Broken pipe|Socket Timeout", message)
        if lost and kind in ("ProcessRaisedException", "DistBackendError", "RuntimeError"):
            return "one of its processes has lost its connection to another one, which has ended", 1
        return None
    told = re.search(r"SIG(?!NAL)[A-Z]+|signal: \w+", message)
    words = {"signal: Terminated": "SIGTERM", "signal: Killed": "SIGKILL", "signal: Interrupt": "SIGINT"}
    name = words.get(told[0], told[0]) if told else "no reason given"
    name = {130: "SIGINT", 143: "SIGTERM"}.get(getattr(error, "exit_code", 0), name)
    if name in ("SIGINT", "SIGTERM"):
        return f"stopped by {name}", 128 + signal.Signals[name]
    why = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return f"one of its processes was ended from outside ({name}{why})", 1
