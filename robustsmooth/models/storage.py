"""Checkpoint files on disk: written whole, read with their checksums, nothing in them executed."""

import hashlib
import io
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import CheckpointIO

from robustsmooth.files import write_whole

_CONVERT = (
    'convert it once, on a machine where you trust it: python -c "import dill, torch; c = '
    "torch.load('{path}', map_location='cpu', weights_only=False, pickle_module=dill); "
    "torch.save(c.get('model', c.get('state_dict', c)), 'converted.pt')\""
)


class CheckpointFiles(CheckpointIO):
    """Lightning's interface to our checkpoint files; see `robustsmooth.files.write_whole`.

    Before ``last.ckpt`` is replaced, ``previous.ckpt`` becomes a hard link to it. A training uses it if
    ``last.ckpt`` is damaged. It needs no space until the next checkpoint is written.
    """

    def save_checkpoint(
        self, checkpoint: Mapping[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint whole or not at all.

        Raises:
            OSError: If it cannot be written, such as on a full disk; earlier checkpoints are unchanged.
        """
        content = io.BytesIO()
        torch.save(checkpoint, content)
        path = Path(path)
        if path.name == "last.ckpt" and path.is_file():
            _second_name(path, path.with_name("previous.ckpt"))
        write_whole(path, content.getvalue())

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint that `save_checkpoint` wrote; see `load_file`."""
        content: dict[str, Any] = load_file(Path(path))
        return content

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint, if it exists."""
        Path(path).unlink(missing_ok=True)


def checksum(tensors: Mapping[str, torch.Tensor], text: str) -> str:
    """SHA-256 of tensors, with their names, shapes and types, and of a text, in hexadecimal."""
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _second_name(path: Path, name: Path) -> None:
    """Hard link `name` to `path` in one step; nothing on file systems without links."""
    draft = name.with_name(f"{name.name}.tmp")
    draft.unlink(missing_ok=True)
    with suppress(OSError):
        draft.hardlink_to(path)
        draft.replace(name)
    draft.unlink(missing_ok=True)  # renaming a link to another link of the same file does nothing


def load_file(path: Path) -> Any:
    """What ``torch.save`` wrote, on the CPU; only tensors and plain values are accepted.

    A file of PyTorch is a ZIP archive with a checksum (CRC-32) of each tensor, which ``torch.load`` does not
    check; here it is compared first. (Files from before PyTorch 1.6 have none.)

    Raises:
        ValueError: If the file is damaged, or holds objects that would execute code when they are read.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                broken = archive.testzip()
            if broken is not None:
                raise ValueError(f"the checksum of `{broken}` is wrong")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        with path.open("rb") as file:
            is_pickle = zipfile.is_zipfile(path) or file.read(1) == pickle.PROTO
        if not is_pickle:
            raise ValueError(f"`{path}` is damaged, or not a checkpoint file") from error
        raise ValueError(
            f"`{path}` holds more than tensors and would execute code when it is read; "
            + _CONVERT.format(path=path)
        ) from error
    except PermissionError:
        raise
    except Exception as error:  # torch may raise any exception for a damaged file
        raise ValueError(f"the checkpoint `{path}` is truncated or damaged; use another one") from error
