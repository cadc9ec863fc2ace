"""Two commands cannot work in one run folder at once; a killed command does not block it."""

import json
import os
import signal
import subprocess
import sys

import pytest

from robustsmooth import lock

HOLD = """
import sys, time
from pathlib import Path
from robustsmooth.lock import hold
hold(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""
TRY = "import sys; from pathlib import Path; from robustsmooth.lock import hold; hold(Path(sys.argv[1]))"


@pytest.fixture
def holder(tmp_path):
    """Another process that has locked the folder."""
    child = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "held\n"
    yield child
    child.kill()
    child.communicate()


@pytest.fixture(autouse=True)
def _let_go():
    yield
    lock.release()


def test_another_process_is_refused_until_the_first_is_killed(tmp_path, holder):
    with pytest.raises(ValueError, match=rf"in use by process {holder.pid} on .*, since .* choose") as caught:
        lock.hold(tmp_path)
    assert "\n" not in str(caught.value)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    lock.hold(tmp_path)
    lock.hold(tmp_path)  # a second time, by the same process
    assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


def test_a_released_folder_contains_no_lock_file(tmp_path):
    lock.hold(tmp_path)
    lock.release()
    assert list(tmp_path.iterdir()) == []
    done = subprocess.run([sys.executable, "-c", TRY, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_ranks_of_the_same_run_share_the_lock(tmp_path, monkeypatch):
    """As srun starts them: separate processes with the numbers of the job and of the step."""
    srun = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}
    for name, value in srun.items():
        monkeypatch.setenv(name, value)
    lock.hold(tmp_path)

    def rank(step):
        environment = {**os.environ, **srun, "SLURM_STEP_ID": step, "SLURM_PROCID": "1"}
        return subprocess.run(
            [sys.executable, "-c", TRY, tmp_path], env=environment, capture_output=True, text=True
        )

    assert rank("0").returncode == 0
    refused = rank("1")  # of another srun, whose first task is refused too
    assert refused.returncode == 1
    assert f"in use by process {os.getpid()}" in refused.stderr
    assert (tmp_path / ".lock").exists()


def test_without_locks_the_process_is_searched_by_its_number(tmp_path, holder, monkeypatch):
    """On a file system without locks, such as some Lustre mounts."""

    def no_locks(file, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    with pytest.raises(ValueError, match=f"in use by process {holder.pid}"):
        lock.hold(tmp_path)
    facts = json.loads((tmp_path / ".lock").read_text())
    (tmp_path / ".lock").write_text(json.dumps({**facts, "process_started": "1"}))  # a later process
    lock.hold(tmp_path)
    lock.release()
    (tmp_path / ".lock").write_text(json.dumps({**facts, "host": "elsewhere", "pid": 1}))
    with pytest.raises(ValueError, match=r"on elsewhere.*if it is gone, delete"):
        lock.hold(tmp_path)


def test_children_of_a_killed_process_are_waited_for(tmp_path):
    """They are forked and hold its lock; they end within seconds."""
    forking = HOLD.replace(
        'print("held"', 'import os\nif not os.fork(): time.sleep(1); os._exit(0)\nprint("held"'
    )
    child = subprocess.Popen([sys.executable, "-c", forking, tmp_path], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "held\n"
    child.kill()
    child.communicate()
    lock.hold(tmp_path)
