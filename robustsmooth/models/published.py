"""Published networks, by name, and the sources of their files."""

import hashlib
import os
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import IO, Any
from urllib.error import URLError
from urllib.parse import urlsplit
from uuid import uuid4

import yaml
from rich.console import Console
from rich.progress import wrap_file

PREFIX = "published:"
"""The prefix of the names of these checkpoints."""

_BROWSER = ("drive.google.com", "1drv.ms", "mega.nz", "www.dropbox.com")


@dataclass(frozen=True)
class Published:
    """A published network.

    Attributes:
        name: Such as ``cohen2019-cifar10-0.25``.
        source: The address of the download.
        homepage: The authors' page.
        settings: Settings to open it with, as on the command line.
        sigma: Noise level of its training, in pixel units; None if it had none.
        file: The file inside the download; None if its name is not known.
        sha256: SHA-256 of that file, in hexadecimal; None if it is not recorded.
        accuracy: Clean top-1 accuracy of the network itself, in [0, 1]; None if it is not known.
        license: Licence of the authors' repository; None if it states none.
    """

    name: str
    source: str
    homepage: str
    settings: tuple[str, ...]
    sigma: float | None
    file: str | None = None
    sha256: str | None = None
    accuracy: float | None = None
    license: str | None = None


@cache
def _registry() -> dict[str, Any]:
    text = resources.files("robustsmooth.models").joinpath("published.yaml").read_text(encoding="utf-8")
    networks: dict[str, Any] = yaml.safe_load(text)["networks"]
    return networks


def published(name: str) -> Published:
    """The entry of a network, with or without the prefix ``published:``.

    Raises:
        ValueError: If there is no network of this name.
    """
    name = name.removeprefix(PREFIX)
    known = _registry()
    if name not in known:
        raise ValueError(f"there is no published network {name!r}; known are {', '.join(known)}")
    entry = dict(known[name])
    return Published(name=name, **{**entry, "settings": tuple(entry["settings"])})


def fetch(entry: Published, unverified: bool = False) -> Path:
    """The file of a published network, downloaded if it is missing.

    It is kept in ``$ROBUSTSMOOTH_CACHE``, or else ``~/.cache/robustsmooth``.

    Args:
        entry: The network.
        unverified: Download it although its hash is not recorded.

    Returns:
        A file whose hash is the recorded one, if there is one.

    Raises:
        ValueError: If it must be fetched by hand, cannot be fetched, or is not the recorded file.
    """
    folder = Path(os.environ.get("ROBUSTSMOOTH_CACHE", "~/.cache/robustsmooth")).expanduser()
    path = folder / f"{entry.name}{''.join(Path(entry.file or 'checkpoint.pt').suffixes)}"
    if not path.is_file():
        if urlsplit(entry.source).hostname in _BROWSER:
            part = f"`{entry.file}` of it" if entry.file else "the file of this network"
            raise ValueError(
                f"{entry.name} is downloaded with a browser: open {entry.source}, save and unpack what is "
                f"there, and put {part} to `{path}`; its authors' page is {entry.homepage}"
            )
        if entry.sha256 is None and not unverified:
            raise ValueError(
                f"the hash of {entry.name} is not recorded, so nothing verifies what {entry.source} "
                "sends; add unverified=true to download it anyway"
            )
        _download(entry.source, path)
    found = _sha256(path)
    if entry.sha256 is not None and found != entry.sha256:
        raise ValueError(
            f"`{path}` is not the published {entry.name}: its SHA-256 is {found}, recorded is "
            f"{entry.sha256}; delete it and fetch it again"
        )
    return path


def _download(source: str, path: Path) -> None:
    """Download a file, with a progress bar on a terminal; it is written whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{uuid4().hex}.tmp")  # another job may download it too
    console = Console(stderr=True)
    try:
        with urllib.request.urlopen(source, timeout=60) as answer, draft.open("wb") as file:
            with _with_bar(answer, path.name, console) as stream:
                shutil.copyfileobj(stream, file)
            expected = int(answer.headers.get("Content-Length") or file.tell())
            if file.tell() != expected:
                raise ValueError(f"{source} ended after {file.tell()} of {expected} bytes; start again")
        draft.replace(path)
    except URLError as error:
        raise ValueError(
            f"could not download {source} ({error.reason}); put it to `{path}` by hand"
        ) from error
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def _with_bar(answer: Any, title: str, console: Console) -> Iterator[IO[bytes]]:
    total = answer.headers.get("Content-Length")
    if total is None or not console.is_terminal:
        yield answer
        return
    with wrap_file(answer, int(total), description=title, console=console, transient=True) as stream:
        yield stream


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
