"""What every command shares once its config is composed: a quiet process, loggers, the trainer."""

import logging
import logging.config
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

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
from robustsmooth.instantiation import instantiate
from robustsmooth.processes import cores, follow_parent, handle_signals, keep_memory

__all__ = ["loggers_for", "named_parts", "trainer_for"]


def _hush() -> None:
    """Leave out the libraries' notices that tell our users nothing."""
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
        ".*your dataloader is not resumable.*",  # our sampler goes on by itself
        ".*The `srun` command is available.*",  # trainer=slurm uses it
        ".*was called before the ``update`` method.*",  # of a rank without images
        ".*Be aware that when using `ckpt_path`.*",  # a changed time limit is no loss
    ):
        warnings.filterwarnings("ignore", message=message)


def _check_sweep(cfg: DictConfig) -> None:
    """Lightning's ``ddp`` starts this process's command line in the others: the whole sweep, in each."""
    launched = "SLURM_PROCID" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ
    sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    if sweep and cfg.trainer.get("strategy") == "ddp" and not launched:
        raise ValueError(
            "a sweep cannot use trainer.strategy=ddp, which starts the whole sweep in every process; "
            "use trainer.strategy=ddp_spawn"
        )


class SlurmEnvironment(SLURMEnvironment):
    """Lightning's, for any way to say how many tasks there are: ``-n``, ``--ntasks-per-node``, a step.

    Jobs are queued again by us. Lightning would write ``hpc_ckpt_1.ckpt`` for it, beside the checkpoint that
    every start goes on from.
    """

    def __init__(self) -> None:
        super().__init__(auto_requeue=False)

    @staticmethod
    def _validate_srun_used() -> None:
        """`check_launcher` has done it."""

    @staticmethod
    def _validate_srun_variables() -> None:
        """There is none that is not supported."""

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """A rank for each task.

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
        """Where the first rank is: here, if all are."""
        if "MASTER_ADDR" not in os.environ and slurm("nodes") == 1:
            os.environ["MASTER_ADDR"] = "127.0.0.1"
        return str(super().main_address)

    @property
    def main_port(self) -> int:
        """A port of its own for each step of each job."""
        job, step = (int(os.environ.get(name, "0")) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
        return int(os.environ.setdefault("MASTER_PORT", str(10_000 + (17 * job + step) % 20_000)))

    def world_size(self) -> int:
        """All tasks."""
        return tasks()


def _check_devices(cfg: DictConfig) -> None:
    """Each device of a processor is a process; what is more than its cores was not meant."""
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


def named_parts(cfg: DictConfig, group: str, **kwargs: Any) -> list[Any]:
    """The objects of a config group that names its parts, as ``callbacks`` and ``logger`` do; not the nulls.

    Args:
        cfg: A command's config.
        group: The group's key in it.
        **kwargs: Arguments that all of the parts get.

    Raises:
        ValueError: If settings were given to a part that nobody chose.
    """
    parts = {name: part for name, part in (cfg.get(group) or {}).items() if part is not None}
    for name, part in parts.items():
        if "_target_" not in part:
            raise ValueError(
                f"`{group}.{name}` has settings but is not there; choose a {group}=... that has it or leave "
                f"the settings out, got {OmegaConf.to_container(part)}"
            )
    return [instantiate(part, **kwargs) for part in parts.values()]


@contextmanager
def loggers_for(cfg: DictConfig, folder: Path) -> Iterator[list[Logger]]:
    """The loggers of ``cfg.logger``, with the resolved config in them.

    Args:
        cfg: A command's config.
        folder: The run folder.

    Yields:
        The loggers. They are closed at the end; after an error as failed.
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
    """Makes a process that a strategy has spawned one like that which spawned it: as quiet, and with its log.

    It ends with the one that spawned it. Being read there is the first thing that happens to it.
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
        """Share the cores; take SIGTERM back from Lightning, whose ranks wait for each other."""
        handle_signals()
        if os.getpid() != self.spawned_by:  # the counts of metrics came in memory that all ranks share
            for each in pl_module.modules():
                if isinstance(each, Metric):
                    each.reset()
        if trainer.num_devices > 1 and trainer.strategy.root_device.type == "cpu":
            torch.set_num_threads(max(1, min(torch.get_num_threads(), cores() // trainer.num_devices)))


class _Beginning(Callback):
    """Write what a run is when it begins, which is after all who may refuse to go on in its folder.

    Args:
        folder: The run folder.
        files: What `robustsmooth.commands.describe` found; a spawned process could not find it.
    """

    def __init__(self, folder: Path, files: Mapping[str, str]) -> None:
        self.folder, self.files = folder, dict(files)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A training begins or goes on."""
        if trainer.is_global_zero:
            write_description(self.folder, self.files)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """An evaluation begins or goes on; a finished one is left as it is."""
        if trainer.is_global_zero and not (self.folder / "summary.json").exists():
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
        loggers: Loggers that are open already, and stay open; None for those of `loggers_for`.
        plugins: Plugins of the command, beside those of the config.
        **kwargs: Arguments of ``pytorch_lightning.Trainer`` that the command itself decides.

    Yields:
        The trainer.

    Raises:
        ValueError: If a sweep in one process asks for the strategy ``ddp``, or if the devices are not there.
    """
    _hush()
    _check_sweep(cfg)
    _check_devices(cfg)
    environment = [] if TorchElasticEnvironment.detect() else [LightningEnvironment()]
    given = cfg.trainer.get("plugins")  # without any, Lightning would take each job of SLURM for a rank
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
