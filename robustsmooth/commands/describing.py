"""The description of a run, written with its results: the resolved config, the versions, the commit."""

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

import robustsmooth
from robustsmooth.cluster import check_launcher
from robustsmooth.files import write_whole
from robustsmooth.kinds import KINDS
from robustsmooth.lock import hold
from robustsmooth.processes import first_process

_RECORDS: dict[str, tuple[str, ...]] = {
    "train": ("checkpoints",),
    **{name: (f"{name}.tsv", f"{name}.settings.json", f"{name}.rank*.tsv") for name in KINDS},
    "export": ("model.safetensors", "model.onnx"),
    "report": ("report.html",),
}
"""The files by which one sees to which command a run folder belongs."""


def prepare(cfg: DictConfig, command: str, begin: bool = True) -> Path:
    """Prepare the run folder, and lock it for other commands until this one ends.

    A run folder belongs to one command: each keeps its own ``.hydra/`` and ``summary.json`` there.

    Args:
        cfg: The command's composed config; ``cfg.run_dir`` says where it writes.
        command: Its name; for a measurement the name of its log.
        begin: Write the description now. A command whose trainer may still refuse to continue in this folder
            leaves that to the trainer (`robustsmooth.runtime.trainer_for`).

    Returns:
        The run folder.

    Raises:
        ValueError: If another command works in the folder or has its records there, or if it is a file.
    """
    folder = Path(cfg.run_dir)
    _check_owner(folder, command)
    check_launcher(cfg.get("trainer"), timed=_timed())
    folder.mkdir(parents=True, exist_ok=True)
    hold(folder)
    if begin:
        write_description(folder, describe(cfg))
    return folder


def _check_owner(folder: Path, command: str) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`{folder}` is a file; choose a folder with hydra.run.dir=...")
    for owner, patterns in _RECORDS.items():
        found = [path.name for pattern in patterns for path in folder.glob(pattern)]
        if found and owner != command:
            raise ValueError(
                f"`{folder}` belongs to a run of {owner} (it holds {found[0]}), whose records {command} "
                f"would overwrite; choose a folder of its own, such as hydra.run.dir={folder / command}"
            )


def _timed() -> bool:
    """Whether the name of the run folder contains the time."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.RUN:
        return False
    return "${now:" in str(OmegaConf.to_container(HydraConfig.get().run, resolve=False))


def describe(cfg: DictConfig) -> dict[str, str]:
    """The description of a run, as files for ``.hydra/``: the resolved config, the versions, the git commit.

    Also Hydra's own ``hydra.yaml`` and ``overrides.yaml``, unless the command runs inside another one.
    """
    files = {
        "config.yaml": OmegaConf.to_yaml(cfg, resolve=True),
        "environment.json": json.dumps(environment(), indent=2) + "\n",
    }
    hydras = HydraConfig.get() if HydraConfig.initialized() else None
    if hydras is not None and Path(hydras.runtime.output_dir).resolve() == Path(cfg.run_dir).resolve():
        files["hydra.yaml"] = OmegaConf.to_yaml({"hydra": hydras})
        files["overrides.yaml"] = OmegaConf.to_yaml(hydras.overrides.task)
    return files


def write_description(folder: Path, files: Mapping[str, str]) -> None:
    """Write what `describe` returned, in one of several processes."""
    if first_process():
        for name, text in files.items():
            write_whole(folder / ".hydra" / name, text)


def environment() -> dict[str, Any]:
    """Versions of the packages that results depend on, the commit if this is a checkout, and the command."""
    packages = ["torch", "torchvision", "pytorch-lightning", "hydra-core", "numpy", "scipy"]
    return {
        "robustsmooth": robustsmooth.__version__,
        "git_commit": _git_commit(),
        "python": sys.version.split()[0],
        "packages": {package: metadata.version(package) for package in packages},
        "command": _command(),
    }


def _command() -> str:
    """The command of this job alone: a launcher starts it with other words, or as one of a sweep."""
    if not HydraConfig.initialized():
        return shlex.join(sys.argv)
    hydras = HydraConfig.get()
    own = [item.path for item in hydras.runtime.config_sources if item.provider == "command-line"]
    words: Any = OmegaConf.to_container(hydras.overrides.task, resolve=False)
    if hydras.mode == RunMode.RUN:
        words += OmegaConf.to_container(hydras.overrides.hydra, resolve=False)
    options = [f"--config-dir={path}" for path in own]
    return f"python -m {hydras.help.app_name} {shlex.join([*options, *words])}".strip()


def _git_commit() -> str | None:
    """The commit of the source tree, with ``-dirty`` if it was changed; None outside a checkout."""
    source = Path(robustsmooth.__file__).parent
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=source,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() or None
