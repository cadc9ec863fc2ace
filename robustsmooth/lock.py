"""One command at a time in a run folder.

The lock is an advisory lock of the operating system on a file in the folder. It ends with the process that
holds it, also after kill -9, and network file systems that support locks share it with other machines. The
file names the process that holds it. On a file system without locks only this name is used: the run folder
counts as locked if that process exists or belongs to another machine.
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

_NAME = ".lock"
_PATIENCE = 15.0  # seconds for the children of a killed process to end: they hold its lock until then
_held: dict[Path, int] = {}


def hold(folder: Path) -> None:
    """Lock a run folder until `release`, or the end of this process.

    The ranks of one run share the lock: the first process holds it, and the others check that it is theirs.

    Raises:
        ValueError: If another command uses the folder; the message says which.
    """
    path = folder.resolve() / _NAME
    end = time.monotonic() + _PATIENCE
    while path not in _held:
        file = _open(path)
        if file is None:
            return
        got = _lock(file)
        if got and not _is_still(file, path):  # its holder has just removed it
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
    """Unlock the folders that this process holds."""
    for path, file in _held.items():
        with suppress(OSError):
            path.unlink()
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)  # forked children have the file open too
        os.close(file)
    _held.clear()


def _open(path: Path) -> int | None:
    """Open the lock's file; None if this process must not create one."""
    try:
        return os.open(path, os.O_RDWR | (os.O_CREAT if first_process() else 0), 0o666)
    except FileNotFoundError:
        return None


def _lock(file: int) -> bool | None:
    """Whether the lock was acquired; None if the file system has no locks."""
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
    """The start time of a process, in the kernel's unit; tells it from a later one with the same id."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def _lives(holder: dict[str, Any]) -> bool:
    """Whether the process that a lock names may still exist; assumed if it is on another machine."""
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
