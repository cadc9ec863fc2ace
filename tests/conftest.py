"""Fixtures that all tests share: composed configs, commands as a user runs them, small trained networks."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")

import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from tests.composing import composed, quick_hydra


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _quick_hydra() -> Iterator[None]:
    with quick_hydra():
        yield


@pytest.fixture
def compose() -> Callable[..., DictConfig]:
    """`compose("train", "method=heat")`: a command's config, as the command composes it."""
    return lambda name, *overrides: composed(name, f"run_dir={Path.cwd()}", *overrides)


def started(name: str, *words: str) -> int:
    """Run a command in this process, which saves the time of the imports, and return its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"robustsmooth.{name}", *words])
        for variable in ("HYDRA_FULL_ERROR", "ROBUSTSMOOTH_FULL_ERROR"):
            patch.setenv(variable, "0")  # the command sets them; afterwards they are restored
        GlobalHydra.instance().clear()
        try:
            getattr(importlib.import_module(f"robustsmooth.{name}"), name)()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def forked(name: str, *words: str, said: Path | str = os.devnull) -> int:
    """Start a command in a copy of this process, for tests that kill it, and return the process id."""
    child = os.fork()
    if child == 0:
        try:
            with Path(said).open("w", encoding="utf-8") as file:
                sys.stdout = sys.stderr = file
                ended = started(name, *words)
            os._exit(ended)
        finally:
            os._exit(99)
    return child


@pytest.fixture
def call(monkeypatch, capsys) -> Callable[..., str]:
    """`call("train", "method=foo", status=2)`: the command in this process; fails if it ends otherwise.

    Returns what it wrote to standard error.
    """

    def command(name: str, *words: str, cwd: Path | None = None, status: int = 0) -> str:
        if cwd is not None:
            monkeypatch.chdir(cwd)
        ended = started(name, *words)
        text = capsys.readouterr().err
        assert ended == status, text
        return text

    return command


@pytest.fixture(scope="session")
def gaussian(tmp_path_factory) -> Path:
    """A run folder with a small network, trained with noise for one epoch."""
    return _trained(tmp_path_factory.mktemp("gaussian"), "gaussian")


@pytest.fixture(scope="session")
def natural(tmp_path_factory) -> Path:
    """The same, trained without noise."""
    return _trained(tmp_path_factory.mktemp("natural"), "natural")


def _trained(folder: Path, method: str) -> Path:
    words = [f"method={method}", "trainer=cpu", "trainer.max_epochs=1", "model.network.width=8"]
    assert started("train", *words, f"hydra.run.dir={folder}") == 0
    return folder


@pytest.fixture
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run("train", "method=natural")`: the command in its own process, which takes eight seconds."""

    def command(
        name: str, *words: str, cwd: Path | None = None, status: int = 0, timeout: float = 240
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", f"robustsmooth.{name}", *words],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == status, f"{name} {words}\n{done.stdout}\n{done.stderr}"
        return done

    return command
