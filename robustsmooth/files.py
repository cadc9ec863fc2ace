"""Writing files whole or not at all."""

import errno
import os
from pathlib import Path

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a full disk, a quota or a file-size limit."""


def write_whole(path: Path | str, content: str | bytes) -> None:
    """Replace a file in one step, so that no reader ever sees a part of it.

    The content is written to ``<name>.tmp`` beside the target, flushed to the disk, and renamed. After a
    kill, a power cut or an error the file is either the complete old one or the complete new one.

    Args:
        path: The file; its folder is created.
        content: Text (written as UTF-8) or bytes.

    Raises:
        OSError: If it cannot be written. The error names `path`, an older file is unchanged, and no other
            file is left.
    """
    path = Path(path)
    draft = path.with_name(f"{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _flush_folder(folder: Path) -> None:
    """Make a rename survive a power cut, if the system can flush a folder."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # some network file systems cannot
            raise
    finally:
        os.close(handle)
