"""SLURM, and other programs that start several processes with the same command line."""

import os
import re
import subprocess
from collections.abc import Mapping
from typing import Any


def tasks() -> int:
    """How many tasks ``srun`` has started together with this one; 1 without ``srun``."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))


def slurm(what: str) -> int:
    """``${slurm:nodes}`` and ``${slurm:tasks_per_node}`` of this task's SLURM step.

    Raises:
        ValueError: If the tasks are not spread evenly over the nodes.
    """
    nodes = int(os.environ.get("SLURM_STEP_NUM_NODES", "1"))
    if tasks() % nodes:
        raise ValueError(
            f"srun has spread {tasks()} tasks over {nodes} nodes, but each node needs as many as the others; "
            "use --ntasks-per-node=..."
        )
    return nodes if what == "nodes" else tasks() // nodes


def check_launcher(trainer: Mapping[str, Any] | None, timed: bool) -> None:
    """Check that several processes with the same command line are one run, in one folder.

    Args:
        trainer: The config of the trainer; None for a command that has none.
        timed: Whether the name of the run folder contains the time.

    Raises:
        ValueError: If every process would do all of the work or write to its own folder, or if there are no
            such processes.
    """
    torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    ranks = any("SlurmEnvironment" in str(plugin) for plugin in (trainer or {}).get("plugins") or ())
    if not ranks and tasks() > 1 and not torchrun:
        share = "start one with srun -n 1" if trainer is None else "add trainer=slurm, or use srun -n 1"
        raise ValueError(
            f"srun has started {tasks()} processes, each of which would do all of the work; {share}"
        )
    if ranks and "SLURM_STEP_NUM_TASKS" not in os.environ:
        raise ValueError(
            "trainer=slurm is for the tasks of srun, and this is none; use srun python -m robustsmooth..., "
            "or choose another trainer"
        )
    if timed and (tasks() > 1 or torchrun):
        raise ValueError(
            "the processes that srun or torchrun starts need one run folder, and the default name contains "
            "the time at which each one started; give hydra.run.dir=..."
        )


def requeue() -> str | None:
    """Put this job into the queue again, because its time is over; SLURM then kills it.

    Returns:
        The reason if it failed, otherwise None.
    """
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID", "")
    if not re.fullmatch(r"\d+(_\d+)?", job):
        return "there is no SLURM job to queue again"
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    return f"job {job} cannot be queued again: {done.stderr.strip()}" if done.returncode else None
