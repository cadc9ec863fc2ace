"""The sweep over the rows of a table: which jobs it makes, and in which order."""

import os
from types import SimpleNamespace

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from robustsmooth.commands.explaining import JobError


def batches(*words, **settings):
    """The jobs that the launcher gets for these words of the command line."""
    # As Hydra finds it: its search for plugins executes the modules again.
    found = Plugins.instance().class_name_to_class["hydra_plugins.robustsmooth_rows.rows.RowsSweeper"]
    sweeper = found(**settings)
    sweeper.hydra_context = SimpleNamespace(config_loader=None)
    given = OverridesParser.create().parse_overrides([*sweeper._parse_config(), *words])
    return sweeper.split_arguments(given, sweeper.max_batch_size)


def jobs(*words, **settings):
    return [" ".join(job) for batch in batches(*words, **settings) for job in batch]


ROWS = {
    "cohen": {"method": "gaussian"},
    "ours": {"method": "smoothadv", "attack.epsilon": "0.5,1.0"},
}


def test_every_row_has_its_own_grid():
    assert jobs(params={"seed": "0,1"}, rows=ROWS) == [
        "seed=0 row=cohen method=gaussian",
        "seed=1 row=cohen method=gaussian",
        "seed=0 row=ours method=smoothadv attack.epsilon=0.5",
        "seed=0 row=ours method=smoothadv attack.epsilon=1.0",
        "seed=1 row=ours method=smoothadv attack.epsilon=0.5",
        "seed=1 row=ours method=smoothadv attack.epsilon=1.0",
    ]


def test_the_command_line_overrides_values_and_chooses_rows():
    assert jobs("scale=smoke", "seed=7", params={"seed": "0,1"}, rows=ROWS, first=["cohen"]) == [
        "seed=7 row=cohen method=gaussian scale=smoke",
        "seed=7 row=ours method=smoothadv attack.epsilon=0.5 scale=smoke",
        "seed=7 row=ours method=smoothadv attack.epsilon=1.0 scale=smoke",
    ]
    assert jobs("row=cohen", rows=ROWS) == ["row=cohen method=gaussian"]
    assert len(jobs("row=cohen,ours", "attack.epsilon=0.25", rows=ROWS)) == 2
    assert jobs("row=ours", "++attack.epsilon=0.25", "++attack.more=1", rows=ROWS) == [
        "row=ours method=smoothadv attack.epsilon=0.25 ++attack.more=1"
    ]
    with pytest.raises(ValueError, match="there is no row kohen; known are cohen, ours"):
        jobs("row=kohen", rows=ROWS)


def test_a_row_overrides_the_common_values():
    assert jobs(params={"seed": "0,1"}, rows={"ddn": {"row": "ours", "seed": 3}, "cohen": None}) == [
        "seed=3 row=ours"
    ]


def test_rows_that_others_start_from_are_finished_first():
    rows = {"late": {"method": "heat"}, "early": {"method": "natural"}, "gone": None}
    assert batches(rows=rows, first=["early", "gone"]) == [
        [["row=early", "method=natural"]],
        [["row=late", "method=heat"]],
    ]
    assert len(batches(rows=rows, params={"seed": "0,1"}, max_batch_size=1)) == 4
    between = {"late": {"seed": 2}, "then": {"seed": 1}, "early": {"seed": 0}}
    assert batches(rows=between, first=["early", ["then"]]) == [
        [["row=early", "seed=0"]],
        [["row=then", "seed=1"]],
        [["row=late", "seed=2"]],
    ]
    with pytest.raises(ValueError, match="there is no row never; known are late, early"):
        batches(rows=rows, first=["never"])


def test_values_that_describe_objects_reach_the_job():
    described = {"_target_": "some.Class", "root": "a/b, c", "sizes": [1, None]}
    (job,) = jobs(rows={"own": {"data.extra": described}})
    (_, override) = OverridesParser.create().parse_overrides(["row=own", job.removeprefix("row=own ")])
    assert override.value() == described


def test_without_rows_it_works_as_hydras_sweeper():
    words = ["method=gaussian,macer", "seed=0,1", "scale=smoke"]
    assert jobs(*words) == [
        "method=gaussian seed=0 scale=smoke",
        "method=gaussian seed=1 scale=smoke",
        "method=macer seed=0 scale=smoke",
        "method=macer seed=1 scale=smoke",
    ]


@pytest.fixture
def sweep(monkeypatch, tmp_path):
    """`sweep(launcher, rows=...)`: the sweep of these rows with a launcher."""

    def run(launcher, **settings):
        found = Plugins.instance().class_name_to_class["hydra_plugins.robustsmooth_rows.rows.RowsSweeper"]
        sweeper = found(**settings)
        sweeper.launcher = launcher
        sweeper.hydra_context = SimpleNamespace(config_loader=None)
        sweeper.config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
        sweeper.batch_index = 0
        monkeypatch.setattr(sweeper, "validate_batch_is_legal", lambda batch: None)
        sweeper.sweep([])

    return run


def returned(value):
    status = JobStatus.FAILED if isinstance(value, Exception) else JobStatus.COMPLETED
    done = JobReturn(status=status)
    done.return_value = value
    return done


def test_the_other_jobs_run_after_a_failed_one(sweep):
    """Also those of later batches: most rows do not start from the failed one."""
    launched = []

    class Launcher:
        def launch(self, job_overrides, initial_job_idx):
            launched.append((initial_job_idx, [job[0] for job in job_overrides]))
            bad, good = returned(ValueError("training diverged")), returned(0.5)
            return [bad, good][: len(job_overrides)] if initial_job_idx == 0 else [good]

    with pytest.raises(ValueError, match="training diverged"):
        sweep(Launcher(), rows={"late": {"seed": 1}, "early": {"seed": "2,3"}}, first=["early"])
    assert launched == [(0, ["row=early", "row=early"]), (2, ["row=late"])]


@pytest.mark.parametrize("times", [1, 9], ids=["once", "always"])
def test_the_other_jobs_run_after_a_killed_one(sweep, monkeypatch, times):
    """It ends the other jobs of joblib's pool, which are launched again."""
    monkeypatch.setattr("robustsmooth.commands.stopping.time.sleep", lambda seconds: None)
    done, kills = [], []

    class TerminatedWorkerError(RuntimeError):
        pass

    class Launcher:
        def launch(self, job_overrides, initial_job_idx):
            if ["row=early", "seed=3"] in job_overrides and len(kills) < times:
                kills.append(initial_job_idx)
                raise TerminatedWorkerError("The exit codes of the workers are {SIGKILL(-9)}")
            done.extend((initial_job_idx + at, job[1]) for at, job in enumerate(job_overrides))
            return [returned(0.5) for _ in job_overrides]

    rows = {"late": {"seed": 1}, "early": {"seed": "2,3,4,5"}}
    if times == 1:
        sweep(Launcher(), rows=rows, first=["early"])
        assert done == [(0, "seed=2"), (1, "seed=3"), (2, "seed=4"), (3, "seed=5"), (4, "seed=1")]
        return
    with pytest.raises(JobError, match=r"job 1 failed: one of its processes was ended from outside .SIGKILL"):
        sweep(Launcher(), rows=rows, first=["early"])
    assert done == [(0, "seed=2"), (2, "seed=4"), (3, "seed=5"), (4, "seed=1")]


def test_the_sweep_waits_for_the_other_jobs_of_submitit(sweep, tmp_path):
    """Also if one was killed: its result is an error, and not raised before the others are done."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    from submitit import LocalExecutor

    ended = []

    class Launcher:
        def launch(self, job_overrides, initial_job_idx):
            executor = LocalExecutor(tmp_path)
            killed = executor.submit(os._exit, 9)
            good = executor.submit(JobReturn, status=JobStatus.COMPLETED)
            results = [job.results()[0] for job in (killed, good)]
            ended.append(good.done())
            return results

    with pytest.raises(JobError, match=r"job 0 failed: it was ended from outside.*its log is `"):
        sweep(Launcher(), rows={"early": {"seed": "2,3"}})
    assert ended == [True]


@pytest.mark.parametrize(
    ("given", "trainer", "gigabytes", "gpu", "expected"),
    [
        ([], {"devices": 1, "accelerator": "cpu"}, 100, False, 4),
        ([], {"devices": 1, "accelerator": "auto"}, 100, False, 4),
        ([], {"devices": 1, "accelerator": "auto"}, 100, True, 1),
        ([], {"devices": 1, "accelerator": "gpu"}, 100, False, 1),
        ([], {"devices": 2, "accelerator": "cpu"}, 100, False, 1),
        ([], {"devices": 1, "accelerator": "cpu"}, 5, False, 2),
        ([], {"devices": 1, "accelerator": "cpu"}, 0, False, 1),
        (["hydra/launcher=basic"], {"devices": 1, "accelerator": "cpu"}, 100, False, 1),
    ],
)
def test_jobs_run_in_parallel_where_it_is_safe(given, trainer, gigabytes, gpu, expected, monkeypatch):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    import torch

    from hydra_plugins.robustsmooth_rows.rows import jobs_at_once
    from robustsmooth import processes

    monkeypatch.setattr(processes, "cores", lambda: 4)
    monkeypatch.setattr(processes, "free_memory", lambda: gigabytes * 2**30)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: gpu)
    hydra = {"overrides": {"hydra": given}, "runtime": {"choices": {"hydra/launcher": "basic"}}}
    config = OmegaConf.create({"hydra": hydra, "trainer": trainer})
    assert jobs_at_once(config) == expected
    config.hydra.runtime.choices["hydra/launcher"] = "submitit_slurm"
    assert jobs_at_once(config) == 1


def test_the_free_memory_is_some_of_the_machines():
    from robustsmooth.processes import free_memory

    assert 2**26 < free_memory() < 2**45


def test_parallel_rows_use_joblib(monkeypatch):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    plugins = Plugins.instance()
    found = plugins.class_name_to_class["hydra_plugins.robustsmooth_rows.rows.RowsSweeper"]
    monkeypatch.setitem(found.setup.__globals__, "jobs_at_once", lambda config: 3)
    launchers = []
    for rows in (ROWS, {}):
        sweeper = found(rows=rows)
        launcher = {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}
        config = OmegaConf.create({"hydra": {"launcher": launcher}})
        OmegaConf.set_readonly(config, True)
        sweeper.setup(hydra_context=None, task_function=None, config=config)
        launchers.append(sweeper.launcher)
    assert [type(launcher).__name__ for launcher in launchers] == ["JoblibLauncher", "BasicLauncher"]
    assert launchers[0].joblib["n_jobs"] == 3
