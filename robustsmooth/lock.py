"""One command at a time in a run folder.

The lock is an advisory lock of the operating system on a file in the folder. It ends with the process that
holds it, kill -9 included, and network file systems that know locks pass it on to other machines. The file
says who holds it. On a file system without locks that is all there is: the process that it names is
looked for, and believed to be there if it is another machine's.
"""

import fcntl
import json
import os
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from robustsmooth.processes import first_process, launch

__all__ = ["hold", "release"]

_NAME = ".lock"
_PATIENCE = 15.0  # seconds for the children of a process that was killed: they hold its lock until they end
_held: dict[Path, int] = {}


def hold(folder: Path) -> None:
    """Keep others out of a run folder until `release`, or the end of this process.

    The ranks of one run share the lock: the first process has it, and the others make sure that it is theirs.

    Raises:
        ValueError: If another command works in the folder; the message says which.
    """
    path = folder.resolve() / _NAME
    end = time.monotonic() + _PATIENCE
    while path not in _held:
        file = _open(path)
        if file is None:
            return
        got = _lock(file)
        if got and not _is_still(file, path):  # its holder has just taken it away
            os.close(file)
            continue
        holder = _holder(file)
        if not first_process():
            os.close(file)
            if not got and holder and holder.get("launch") != launch():
                raise ValueError(_in_use(folder, holder))
            return
        if got or (got is None and not _lives(holder)):
            _write(file)
            _held[path] = file
            return
        os.close(file)
        if _lives(holder) or time.monotonic() > end:
            gone = f"; if it is gone, delete `{path}`" if got is None else ""
            raise ValueError(_in_use(folder, holder) + gone)
        time.sleep(0.1)


def release() -> None:
    """Let others into the folders that this process holds."""
    for path, file in _held.items():
        with suppress(OSError):
            path.unlink()
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)  # children that were forked have the file open too
        os.close(file)
    _held.clear()


def _open(path: Path) -> int | None:
    """The lock's file; None if it is not for this process to make one."""
    try:
        return os.open(path, os.O_RDWR | (os.O_CREAT if first_process() else 0), 0o666)
    except FileNotFoundError:
        return None


def _lock(file: int) -> bool | None:
    """Whether the lock could be had; None if the file system knows no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_still(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _holder(file: int) -> dict[str, Any]:
    try:
        facts = json.loads(os.pread(file, 10_000, 0))
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def _write(file: int) -> None:
    facts = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process_started": _started(os.getpid()),
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
        "launch": launch(),
        "command": " ".join([Path(sys.argv[0]).stem, *sys.argv[1:]])[:2000],
    }
    os.ftruncate(file, 0)
    os.pwrite(file, json.dumps(facts).encode(), 0)


def _started(pid: int) -> str | None:
    """When a process began, in the kernel's own unit: tells it from a later one of the same number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def _lives(holder: dict[str, Any]) -> bool:
    """Whether the process that a lock names may still be there; of another machine nobody knows."""
    if not holder:
        return False
    if holder.get("host") != socket.gethostname():
        return True
    pid = holder.get("pid")
    if not isinstance(pid, int):
        return False
    if Path("/proc/self/stat").exists():
        return _started(pid) is not None and _started(pid) == holder.get("process_started")
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _in_use(folder: Path, holder: dict[str, Any]) -> str:
    who = "another command"
    if holder:
        who = "process {pid} on {host}, since {time} ({command})".format_map(
            {key: holder.get(key, "?") for key in ("pid", "host", "time", "command")}
        )
    return (
        f"`{folder}` is in use by {who}; wait until it has ended or stop it, or choose another folder with "
        "hydra.run.dir=..."
    )
