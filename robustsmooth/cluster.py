"""SLURM: one rank for each task that ``srun`` starts."""

import os
import re
import subprocess
from collections.abc import Mapping
from typing import Any

import torch
from lightning_fabric.plugins.environments import SLURMEnvironment

__all__ = ["SlurmEnvironment", "check_tasks", "requeue", "slurm"]


def slurm(what: str) -> int:
    """``${slurm:nodes}`` of the step that this task belongs to, and ``${slurm:tasks_per_node}``.

    Raises:
        ValueError: If the tasks are not spread evenly over the nodes.
    """
    nodes = int(os.environ.get("SLURM_STEP_NUM_NODES", "1"))
    tasks = _tasks()
    if tasks % nodes:
        raise ValueError(
            f"srun has spread {tasks} tasks over {nodes} nodes, but each node needs as many as the others; "
            "use --ntasks-per-node=..."
        )
    return nodes if what == "nodes" else tasks // nodes


def _tasks() -> int:
    """How many tasks ``srun`` has started beside this one, with it; 1 without ``srun``."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))


def check_tasks(trainer: Mapping[str, Any]) -> None:
    """Each task of ``srun`` is a rank of one run with ``trainer=slurm``, and a run of its own without.

    Args:
        trainer: The config of the trainer.

    Raises:
        ValueError: If several tasks would do the same work, or if there is no task to be a rank.
    """
    chosen = any("SlurmEnvironment" in str(plugin) for plugin in trainer.get("plugins") or ())
    if not chosen and _tasks() > 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        raise ValueError(
            f"srun has started {_tasks()} processes, and each of them would do all of the work; add "
            "trainer=slurm to share it, or start one with srun -n 1"
        )
    if not chosen:
        return
    if "SLURM_STEP_NUM_TASKS" not in os.environ:
        raise ValueError(
            "trainer=slurm needs a process for each device from srun: write srun python -m robustsmooth..., "
            "or choose another trainer"
        )
    here, gpus = slurm("tasks_per_node"), torch.cuda.device_count()
    if trainer.get("accelerator") in ("auto", "gpu", "cuda") and 0 < gpus < here:
        raise ValueError(
            f"srun has started {here} tasks on this node and shows this one {gpus} of its GPUs; show all "
            "GPUs of the node to each task (srun --gpu-bind=none, without --gpus-per-task), one task for each"
        )


class SlurmEnvironment(SLURMEnvironment):
    """Lightning's, for any way to say how many tasks there are: ``-n``, ``--ntasks-per-node``, a part of a job.

    Jobs are queued again by `requeue`, not by Lightning, whose checkpoint for it (``hpc_ckpt_1.ckpt``) is another one
    than that which every start goes on from.
    """

    def __init__(self) -> None:
        super().__init__(auto_requeue=False)

    @staticmethod
    def _validate_srun_used() -> None:
        """`check_tasks` has done it."""

    @staticmethod
    def _validate_srun_variables() -> None:
        """Nothing that is not supported."""

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Lightning's idea of the tasks must be SLURM's.

        Raises:
            ValueError: If it is not.
        """
        if num_devices * num_nodes != _tasks():
            raise ValueError(
                f"srun has started {_tasks()} tasks for {num_nodes} x {num_devices} devices; leave "
                "trainer.devices and trainer.num_nodes to trainer=slurm, and start a task for each device"
            )

    @property
    def main_address(self) -> str:
        """Where the first rank is: here, if all are."""
        if "MASTER_ADDR" not in os.environ and slurm("nodes") == 1:
            os.environ["MASTER_ADDR"] = "127.0.0.1"
        return super().main_address

    @property
    def main_port(self) -> int:
        """A port of its own for each step of each job."""
        job, step = (int(os.environ.get(name, "0")) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
        return int(os.environ.setdefault("MASTER_PORT", str(10_000 + (17 * job + step) % 20_000)))

    def world_size(self) -> int:
        """All tasks."""
        return _tasks()


def requeue() -> str:
    """Queue this job again, as its time ends.

    Returns:
        What has become of it, for people.
    """
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID", "")
    if not re.fullmatch(r"\d+(_\d+)?", job):
        return "there is no SLURM job to queue again"
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    return f"job {job} is queued again" if done.returncode == 0 else f"job {job}: {done.stderr.strip()}"
