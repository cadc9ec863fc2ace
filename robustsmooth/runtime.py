"""The common parts of all commands: quiet libraries, loggers, the trainer."""

import json
import logging
import logging.config
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, get_args

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning_fabric.plugins.environments import (
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger
from torchmetrics import Metric

from robustsmooth.cluster import slurm, tasks
from robustsmooth.commands import describe, write_description
from robustsmooth.evaluation import Evaluation
from robustsmooth.instantiation import instantiate
from robustsmooth.processes import cores, follow_parent, handle_signals, keep_memory
from robustsmooth.smoothing.numerics import Precision


def _hush() -> None:
    """Suppress notices of libraries that do not help our users."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*is smaller than the logging interval.*",
        ".*exists and is not empty.*",
        ".*multi-threaded, use of fork.*",
        ".*os.fork\\(\\).*",
        ".*`lr_scheduler.step\\(\\)` before `optimizer.step\\(\\)`.*",
        ".*Starting from v1.9.0, `tensorboardX` has been removed.*",
        ".*LeafSpec.*",
        ".*your dataloader is not resumable.*",  # our sampler resumes by itself
        ".*The `srun` command is available.*",  # trainer=slurm uses it
        ".*was called before the ``update`` method.*",  # from a rank without images
        ".*Be aware that when using `ckpt_path`.*",  # a changed time limit does not matter
    ):
        warnings.filterwarnings("ignore", message=message)


def _check_sweep(cfg: DictConfig) -> None:
    """Refuse ``ddp`` in a sweep: Lightning would start the whole sweep in every process."""
    launched = "SLURM_PROCID" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ
    sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    if sweep and cfg.trainer.get("strategy") == "ddp" and not launched:
        raise ValueError(
            "a sweep cannot use trainer.strategy=ddp, which starts the whole sweep in every process; "
            "use trainer.strategy=ddp_spawn"
        )


class SlurmEnvironment(SLURMEnvironment):
    """Lightning's, but for every way to set the number of tasks: ``-n``, ``--ntasks-per-node``, a step.

    Jobs are queued again by `robustsmooth.cluster`, since Lightning would write an additional checkpoint
    ``hpc_ckpt_1.ckpt`` for this.
    """

    def __init__(self) -> None:
        super().__init__(auto_requeue=False)

    @staticmethod
    def _validate_srun_used() -> None:
        """`check_launcher` has checked it."""

    @staticmethod
    def _validate_srun_variables() -> None:
        """All variables are supported."""

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """One rank per task.

        Raises:
            ValueError: If the devices of the trainer are not the tasks of ``srun``.
        """
        if num_devices * num_nodes != tasks():
            raise ValueError(
                f"srun has started {tasks()} tasks for {num_nodes} x {num_devices} devices; leave "
                "trainer.devices and trainer.num_nodes to trainer=slurm, and start a task for each device"
            )

    @property
    def main_address(self) -> str:
        """The address of the first rank: this node, if all ranks are here."""
        if "MASTER_ADDR" not in os.environ and slurm("nodes") == 1:
            os.environ["MASTER_ADDR"] = "127.0.0.1"
        return str(super().main_address)

    @property
    def main_port(self) -> int:
        """A separate port for each step of each job."""
        job, step = (int(os.environ.get(name, "0")) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
        return int(os.environ.setdefault("MASTER_PORT", str(10_000 + (17 * job + step) % 20_000)))

    def world_size(self) -> int:
        """All tasks."""
        return tasks()


def _check_devices(cfg: DictConfig) -> None:
    """Refuse more CPU devices than cores: each device is a process."""
    devices, most = cfg.trainer.get("devices"), max(2, cores())
    gpus = cfg.trainer.get("accelerator") not in (None, "auto", "cpu") or torch.cuda.is_available()
    on_cpu = cfg.trainer.get("accelerator") == "cpu" or not gpus
    if on_cpu and isinstance(devices, int) and devices > most:
        raise ValueError(f"`trainer.devices` must be at most {most} here, one for each core, got {devices}")
    shown = torch.cuda.device_count() if gpus and tasks() > 1 else 0
    if 0 < shown < slurm("tasks_per_node"):
        raise ValueError(
            f"srun shows {shown} of the node's GPUs to each of its {slurm('tasks_per_node')} tasks; show all "
            "of them (srun --gpu-bind=none, and --gpus-per-node instead of --gpus-per-task)"
        )
    if cfg.trainer.get("strategy") in ("ddp_fork", "ddp_notebook") and torch.get_num_threads() > 1:
        raise ValueError(
            f"trainer.strategy={cfg.trainer.strategy} hangs in a process with more than one thread; use "
            "trainer.strategy=ddp_spawn, or set OMP_NUM_THREADS=1"
        )


def _check_precision(cfg: DictConfig) -> None:
    """Refuse what the certificates of the network could not be computed in."""
    given, known = cfg.trainer.get("precision"), get_args(Precision)
    if given not in (None, *known):
        raise ValueError(f"`trainer.precision` must be one of {', '.join(known)}, got {given!r}")


def named_parts(cfg: DictConfig, group: str, **kwargs: Any) -> list[Any]:
    """The objects of a config group with named parts, such as ``callbacks`` and ``logger``, without nulls.

    Args:
        cfg: A command's config.
        group: The group's key in it.
        **kwargs: Arguments for all parts.

    Raises:
        ValueError: If settings were given for a part that was not chosen.
    """
    parts = {name: part for name, part in (cfg.get(group) or {}).items() if part is not None}
    for name, part in parts.items():
        if "_target_" not in part:
            raise ValueError(
                f"`{group}.{name}` has settings but was not chosen; choose a {group}=... that has it, or "
                f"leave the settings out, got {OmegaConf.to_container(part)}"
            )
    return [instantiate(part, **kwargs) for part in parts.values()]


@contextmanager
def loggers_for(cfg: DictConfig, folder: Path) -> Iterator[list[Logger]]:
    """The loggers of ``cfg.logger``, with the resolved config in them.

    Args:
        cfg: A command's config.
        folder: The run folder.

    Yields:
        The loggers. They are closed at the end, as failed after an error.
    """
    _hush()
    loggers = named_parts(cfg, "logger", save_dir=str(folder))
    plain = OmegaConf.to_container(cfg, resolve=True)
    status = "failed"
    try:
        for logger in loggers:
            logger.log_hyperparams(plain)
        yield loggers
        status = "success"
    finally:
        for logger in loggers:
            logger.finalize(status)
        _close_wandb(loggers, exit_code=0 if status == "success" else 1)


class _Rank(Callback):
    """Prepares a process that a strategy has spawned: suppresses notices, and sets up the log.

    The process ends when its parent ends. This happens when the object is unpickled, before anything else.
    """

    def __init__(self) -> None:
        hydras = HydraConfig.get() if HydraConfig.initialized() else None
        self.logging: Any = hydras and OmegaConf.to_container(hydras.job_logging, resolve=True)
        self.spawned_by = os.getpid()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if os.getpid() == self.spawned_by:
            return
        handle_signals()
        keep_memory()
        follow_parent()
        if self.logging:
            logging.config.dictConfig(self.logging)
        _hush()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Divide the cores; handle SIGTERM ourselves, since Lightning's ranks wait for each other."""
        handle_signals()
        if os.getpid() != self.spawned_by:  # the states of metrics arrive in memory that all ranks share
            for module in pl_module.modules():
                if isinstance(module, Metric):
                    module.reset()
        if trainer.num_devices > 1 and trainer.strategy.root_device.type == "cpu":
            torch.set_num_threads(max(1, min(torch.get_num_threads(), cores() // trainer.num_devices)))


class _Beginning(Callback):
    """Write the description of a run when it starts, after all checks of its folder.

    Args:
        folder: The run folder.
        files: The result of `robustsmooth.commands.describe`, which a spawned process cannot compute.
    """

    def __init__(self, folder: Path, files: Mapping[str, str]) -> None:
        self.folder, self.files = folder, dict(files)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A training starts or continues."""
        if trainer.is_global_zero:
            write_description(self.folder, self.files)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """An evaluation starts or continues; a finished one is not changed."""
        if trainer.is_global_zero and not (self.folder / "summary.json").exists():
            write_description(self.folder, self.files)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The rows of a finished evaluation were extended: they belong to other settings than before."""
        now = [item.summary["settings"] for item in trainer.callbacks if isinstance(item, Evaluation)]  # type: ignore[attr-defined]
        try:
            then = json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))["settings"]
        except (OSError, ValueError, KeyError, TypeError):  # not finished, or damaged
            return
        if trainer.is_global_zero and then not in now:
            write_description(self.folder, self.files)


@contextmanager
def trainer_for(
    cfg: DictConfig,
    folder: Path,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] | None = None,
    plugins: Sequence[Any] = (),
    **kwargs: Any,
) -> Iterator[pl.Trainer]:
    """The trainer that ``cfg.trainer`` describes, with the loggers of ``cfg.logger``.

    Args:
        cfg: A command's config.
        folder: The run folder.
        callbacks: Callbacks of the command.
        loggers: Loggers that are open already and stay open; None for those of `loggers_for`.
        plugins: Plugins of the command, in addition to those of the config.
        **kwargs: Arguments of ``pytorch_lightning.Trainer`` that the command sets.

    Yields:
        The trainer.

    Raises:
        ValueError: If a sweep in one process uses the strategy ``ddp``, if the devices do not exist, or if
            the precision is not one of `Precision`.
    """
    _hush()
    _check_sweep(cfg)
    _check_devices(cfg)
    _check_precision(cfg)
    environment = [] if TorchElasticEnvironment.detect() else [LightningEnvironment()]
    given = cfg.trainer.get("plugins")  # without one, Lightning would treat each job of SLURM as a rank
    kwargs["plugins"] = [*(environment if given is None else map(instantiate, given)), *plugins]
    with loggers_for(cfg, folder) if loggers is None else nullcontext(loggers) as opened:
        yield instantiate(
            cfg.trainer,
            default_root_dir=str(folder),
            callbacks=[_Rank(), *callbacks, _Beginning(folder, describe(cfg))],
            logger=list(opened) or False,
            **kwargs,
        )


def _close_wandb(loggers: Sequence[Logger], exit_code: int) -> None:
    if any(type(logger).__name__ == "WandbLogger" for logger in loggers):
        import wandb

        wandb.finish(exit_code=exit_code)
