"""Commands of several processes that are stopped or killed: all processes end with one sentence."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.ddp, pytest.mark.timeout(600)]

LONG = ["trainer.max_epochs=100000", "model.network.width=8"]


def processes_of(mark: str) -> set[int]:
    """The running processes whose environment contains a mark, except those that clean up at the end."""
    found = set()
    for folder in Path("/proc").iterdir():
        try:
            started = folder.name.isdigit() and mark.encode() in (folder / "environ").read_bytes()
            if started and b"resource_tracker" not in (folder / "cmdline").read_bytes():
                found.add(int(folder.name))
        except OSError:
            continue
    return found


def shared_by(pid: int) -> list[str]:
    """What the workers of a process's parallel sweep keep in shared memory, by names with its number."""
    beginnings = (f"sem.loky-{pid}-", f"joblib_memmapping_folder_{pid}_")
    return [path.name for path in Path("/dev/shm").glob("*") if path.name.startswith(beginnings)]


@pytest.fixture
def start(tmp_path):
    """Start a training in its own process group, and wait until each of its runs has trained an epoch."""
    mark = f"ROBUSTSMOOTH_TEST={tmp_path}"
    started = []

    def begin(*words, runs=1):
        name, _, value = mark.partition("=")
        child = subprocess.Popen(
            [sys.executable, "-m", "robustsmooth.train", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, name: value},
            start_new_session=True,
        )
        started.append(child)
        while child.poll() is None and len(list(tmp_path.rglob("metrics.csv"))) < runs:
            time.sleep(0.1)
        assert child.poll() is None, child.stderr.read()
        return child

    yield begin, mark
    for child in started:
        child.kill()
        child.communicate()
    for pid in processes_of(mark):
        os.kill(pid, signal.SIGKILL)


def all_gone(mark, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not processes_of(mark):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_two_ranks_are_stopped(start, tmp_path, signum):
    begin, mark = start
    child = begin("trainer=ddp_cpu", *LONG, f"hydra.run.dir={tmp_path}")
    child.send_signal(signum)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 128 + signum
    assert said.splitlines()[-1] == (
        f"robustsmooth train: stopped by {signal.Signals(signum).name}; what is finished is kept in "
        f"`{tmp_path}`: start the same command again to continue"
    )
    assert "Traceback" not in said
    assert all_gone(mark, 5)


def test_a_killed_rank_ends_the_run_with_a_sentence(start, tmp_path):
    begin, mark = start
    child = begin("trainer=ddp_cpu", *LONG, f"hydra.run.dir={tmp_path}")
    rank = max(pid for pid in processes_of(mark) if pid != child.pid)
    os.kill(rank, signal.SIGKILL)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "one of its processes was ended from outside (SIGKILL" in said
    assert "start the same command again to continue" in said
    assert "unexpected error" not in said
    assert all_gone(mark, 5)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_parallel_sweep_leaves_nothing_behind(start, tmp_path, signum):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    begin, mark = start
    jobs = ["-m", "method=natural,gaussian", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    child = begin(*jobs, "trainer=cpu", *LONG, f"hydra.sweep.dir={tmp_path}", runs=2)
    assert shared_by(child.pid)
    child.send_signal(signum)
    _, said = child.communicate(timeout=60)
    if signum != signal.SIGKILL:
        assert child.returncode == 128 + signum, said
        assert f"stopped by SIGTERM; what is finished is kept in `{tmp_path}`" in said
    assert all_gone(mark, 10)
    time.sleep(2)
    assert not shared_by(child.pid)


def test_a_killed_job_does_not_end_a_parallel_sweep(start, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    begin, mark = start
    jobs = ["-m", "method=natural,gaussian", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    short = ["hydra/sweeper=rows", "trainer=cpu", "trainer.max_epochs=20", "model.network.width=8"]
    child = begin(*jobs, *short, f"hydra.sweep.dir={tmp_path}", runs=2)
    os.kill(max(processes_of(mark)), signal.SIGKILL)
    _, said = child.communicate(timeout=200)
    assert child.returncode == 0, said
    assert "a job was killed, and others with it; they continue" in said
    assert len(list(tmp_path.glob("**/summary.json"))) == 2


def test_a_stopped_loader_stops_the_run(start, tmp_path):
    """Schedulers send the signal to every process, also to the workers that load images."""
    begin, mark = start
    child = begin("trainer=cpu", "data.num_workers=1", *LONG, f"hydra.run.dir={tmp_path}")
    os.killpg(child.pid, signal.SIGTERM)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 143, said
    assert "stopped by SIGTERM; what is finished is kept" in said
    assert "unexpected error" not in said
    assert all_gone(mark, 10)
