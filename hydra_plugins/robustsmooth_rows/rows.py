"""A sweep over the rows of a table: a union of grids, where Hydra's own sweeper has one grid."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any
from unittest import mock

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, flag_override

__all__ = ["RowsSweeper", "jobs_at_once"]

_JOBLIB = "hydra_plugins.hydra_joblib_launcher.joblib_launcher"
_MEMORY = 2 * 2**30  # bytes that a job may need


class RowsSweeper(BasicSweeper):
    """Hydra's basic sweeper, once per row of a table.

    A row is a set of overrides, each with one value or several; its jobs are all combinations, with those of
    `params` and of the command line. Every job gets the override ``row=<name>``. On the command line,
    ``row=a,b`` leaves the other rows out, and any other value wins over the rows'.

    Args:
        max_batch_size: As in Hydra's sweeper: the most jobs that are given to the launcher at once.
        params: As in Hydra's sweeper: what all rows have in common.
        rows: The overrides of each row, by its name; None leaves a row out. Without rows it is Hydra's
            sweeper.
        first: Names of rows that others start from. Their jobs are finished before any other job starts,
            so that the rest may run in parallel. A list among the names is a further stage: rows that start
            from those and that others start from.

    Raises:
        ValueError: If `first` or the command line names an unknown row.
    """

    def __init__(
        self,
        max_batch_size: int | None = None,
        params: Mapping[str, str] | None = None,
        rows: Mapping[str, Mapping[str, Any] | None] | None = None,
        first: Sequence[str | Sequence[str]] = (),
    ) -> None:
        super().__init__(max_batch_size, dict(params or {}))
        self.rows = {name: row for name, row in (rows or {}).items() if row is not None}
        stages = [names for names in first if not isinstance(names, str)]
        self.stages = [[name for name in first if isinstance(name, str)], *stages]
        if unknown := sorted({name for stage in self.stages for name in stage} - set(rows or {})):
            raise ValueError(f"`hydra.sweeper.first`: there is no row {unknown[0]}; {self._known()}")

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        """The launcher that was chosen; if none was, and rows run on a CPU, a job for each core at once."""
        jobs = jobs_at_once(config) if self.rows else 1
        if jobs > 1:
            with flag_override(config, ["readonly", "struct"], False):
                config.hydra.launcher = {"_target_": f"{_JOBLIB}.JoblibLauncher", "n_jobs": jobs}
            print(f"{jobs} jobs at once; with hydra/launcher=basic one after the other", flush=True)
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> Any:
        """Run all jobs. A failed job does not stop the others; its error is raised at the end."""
        self.launcher: Any = _Tolerant(self.launcher)
        returns = super().sweep(arguments)
        for item in self.launcher.failed:
            _ = item.return_value  # raises its error
        return returns

    def _known(self) -> str:
        return f"known are {', '.join(self.rows)}"

    def split_arguments(  # type: ignore[override]  # Hydra calls it as a method
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """The jobs, as batches for the launcher.

        Args:
            overrides: Those of `params`, then those of the command line.
            max_batch_size: The most jobs in a batch.
        """
        if not self.rows:
            return list(super().split_arguments(overrides, max_batch_size))
        assert self.hydra_context is not None
        parse = OverridesParser.create(config_loader=self.hydra_context.config_loader).parse_overrides
        common, given = overrides[: len(self.params)], overrides[len(self.params) :]
        chosen = self._chosen(given)
        given = [item for item in given if item.get_key_element() != "row"]
        stages: list[list[list[str]]] = [[] for _ in range(len(self.stages) + 1)]
        for name, row in self.rows.items():
            if name not in chosen:
                continue
            own = parse([f"row={name}", *(f"{key}={_spelled(value)}" for key, value in row.items())])
            # A row's setting exists, so pluses are left out: the value replaces the row's.
            lines = [str(item.input_line) for item in given]
            theirs = parse([line.lstrip("+") if _key(line) in row else line for line in lines])
            stage = next((at for at, names in enumerate(self.stages) if name in names), -1)
            stages[stage].extend(super().split_arguments([*common, *own, *theirs], None)[0])
        return [
            list(batch)
            for jobs in stages
            if jobs
            for batch in self.split_overrides_to_chunks(jobs, max_batch_size)
        ]

    def _chosen(self, given: Sequence[Override]) -> list[str]:
        """The rows that the command line names; all if it names none."""
        named = [item for item in given if item.get_key_element() == "row"]
        chosen = [
            job[0].partition("=")[2]
            for item in named
            for job in BasicSweeper.split_arguments([item], None)[0]
        ]
        if unknown := sorted(set(chosen) - set(self.rows)):
            raise ValueError(f"`row`: there is no row {unknown[0]}; {self._known()}")
        return chosen or list(self.rows)


def _installed() -> bool:
    try:
        return find_spec(_JOBLIB) is not None
    except ModuleNotFoundError:
        return False


def jobs_at_once(config: DictConfig) -> int:
    """How many jobs of a sweep run at once by default: one for each core.

    Args:
        config: The sweep's.

    Returns:
        1 if a launcher was chosen, if joblib is not installed, on a GPU, or with several devices for a job.
        Never more than there is memory for.
    """
    chosen = any(item.startswith("hydra/launcher=") for item in config.hydra.overrides.hydra)
    chosen = chosen or config.hydra.runtime.choices.get("hydra/launcher") != "basic"
    trainer = config.get("trainer") or {}
    alone = trainer.get("devices") == 1 and trainer.get("accelerator") in ("cpu", "auto")
    if chosen or not alone or not _installed():
        return 1
    from robustsmooth.processes import cores, free_memory

    if trainer["accelerator"] == "auto":
        import torch

        if torch.accelerator.is_available():
            return 1
    return max(1, min(cores(), free_memory() // _MEMORY))


class _Tolerant:
    """A launcher that keeps the failed jobs to itself, which would end the sweep before the next batch.

    Args:
        launcher: The launcher.
    """

    def __init__(self, launcher: Any) -> None:
        self._launcher = launcher
        self.failed: list[JobReturn] = []

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Launch a batch of jobs."""
        with _submitit_returns_errors():
            returns = self._launch(job_overrides, initial_job_idx)
        self.failed += [item for item in returns if item.status == JobStatus.FAILED]
        return [item for item in returns if item.status != JobStatus.FAILED]

    def _launch(self, jobs: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
        """Launch jobs; if one is killed, which ends the others of its pool, both halves again.

        A finished job ends at once, and an unfinished one continues.
        """
        from robustsmooth.commands.explaining import job_error
        from robustsmooth.commands.stopping import own_signal
        from robustsmooth.processes import ended_process

        try:
            returns = list(self._launcher.launch(jobs, initial_job_idx=first))
        except Exception as error:
            if not ended_process(error):
                raise
            own_signal(error)
            returns = [error]
            if len(jobs) > 1:
                print("a job was killed, and others with it; they continue", file=sys.stderr, flush=True)
                half = len(jobs) // 2
                return [*self._launch(jobs[:half], first), *self._launch(jobs[half:], first + half)]
        return [
            _failed(job_error(item, first + place), jobs[place]) if isinstance(item, Exception) else item
            for place, item in enumerate(returns)
        ]


def _failed(error: Exception, overrides: Sequence[str]) -> JobReturn:
    failed = JobReturn(overrides=list(overrides), status=JobStatus.FAILED)
    failed.return_value = error
    return failed


@contextmanager
def _submitit_returns_errors() -> Iterator[None]:
    """Have a job of submitit that was killed or ran out of time return its error.

    If it were raised, nobody would wait for the other jobs.
    """
    if find_spec("submitit") is None:
        yield
        return
    from submitit import Job
    from submitit.core.utils import UncompletedJobError

    def results(job: Any) -> list[Any]:
        try:
            return list(waited(job))
        except UncompletedJobError:
            how = "it was ended from outside, or ran out of time or memory"
            return [ValueError(f"{how} (state {job.state}); its log is `{job.paths.stderr}`")]

    waited = Job.results
    with mock.patch.object(Job, "results", results):
        yield


def _key(line: str) -> str:
    """The setting that a word of the command line sets."""
    return line.lstrip("+").partition("=")[0]


def _spelled(value: Any, inner: bool = False) -> str:
    """A value as it is written on the command line; a text inside of another value is quoted."""
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_spelled(part, True)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_spelled(part, True) for part in value) + "]"
    return f"'{value}'" if inner and isinstance(value, str) else str(value)
