"""Fixtures that all tests share: the real configs, composed; the commands, run as a user runs them."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")

import hydra
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from robustsmooth.commands import conf_dir, register_resolvers

CONF = conf_dir()


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


@pytest.fixture
def compose() -> Callable[..., DictConfig]:
    """`compose("train", "method=heat")`: a command's config, as the command composes it."""
    register_resolvers()

    def composed(name: str, *overrides: str) -> DictConfig:
        GlobalHydra.instance().clear()
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra.compose(name, [f"run_dir={Path.cwd()}", *overrides])

    return composed


@pytest.fixture
def call(monkeypatch, capsys) -> Callable[..., str]:
    """`call("train", "method=foo", status=2)`: the command in this process, which is faster.

    Returns what it wrote to standard error.
    """

    def command(name: str, *words: str, status: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", [f"robustsmooth.{name}", *words])
        for variable in ("HYDRA_FULL_ERROR", "ROBUSTSMOOTH_FULL_ERROR"):
            monkeypatch.setenv(variable, "0")  # the command sets them; here they are taken back
        GlobalHydra.instance().clear()
        try:
            getattr(importlib.import_module(f"robustsmooth.{name}"), name)()
            ended = 0
        except SystemExit as end:
            ended = int(end.code or 0)
        text = capsys.readouterr().err
        assert ended == status, text
        return text

    return command


@pytest.fixture
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run("train", "method=natural")`: the command in its own process; fails if it fails."""

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
