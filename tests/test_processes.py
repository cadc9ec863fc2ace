"""The processes of a command: threads, ranks, signals, and child processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch.multiprocessing import ProcessExitedException

from robustsmooth import runtime
from robustsmooth.commands import explain


def trainer(**settings):
    return OmegaConf.create({"trainer": settings})


def test_more_devices_than_cores_are_refused_at_once(call, tmp_path, capsys):
    said = call("train", "trainer=ddp_cpu", "trainer.devices=99", f"hydra.run.dir={tmp_path}", status=1)
    assert "`trainer.devices` must be at most" in said
    assert len(said.splitlines()) == 1


def test_a_precision_without_certificates_is_refused_before_the_training(call, tmp_path):
    said = call("train", "trainer.precision=bf16-true", f"hydra.run.dir={tmp_path}", status=1)
    assert "`trainer.precision` must be one of 32-true, bf16-mixed, 16-mixed, got 'bf16-true'" in said


@pytest.mark.parametrize("devices", [1, 2, "auto", None])
def test_two_devices_can_be_tried_on_one_core(monkeypatch, devices):
    monkeypatch.setattr(runtime, "cores", lambda: 1)
    runtime._check_devices(trainer(accelerator="cpu", devices=devices, strategy="ddp_spawn"))
    with pytest.raises(ValueError, match="must be at most 2 here"):
        runtime._check_devices(trainer(accelerator="cpu", devices=3))


def test_a_fork_of_several_threads_is_refused(monkeypatch):
    forking = trainer(accelerator="cpu", devices=2, strategy="ddp_fork")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    runtime._check_devices(forking)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.raises(ValueError, match=r"trainer.strategy=ddp_fork hangs .* use .*ddp_spawn"):
        runtime._check_devices(forking)


# ---------------------------------------------------------------------------- signals and children

FAMILY = """
import subprocess, sys, time
from robustsmooth.processes import Stopped, end_children, own_children, stoppable
with stoppable():
    try:
        child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
        print(child.pid, flush=True)
        time.sleep(60)
    except Stopped as stop:
        assert own_children() == {child.pid}
        end_children(grace=0.5)
        print(stop.signal, own_children(), flush=True)
        raise
"""
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
FOLLOWING = "import time; from robustsmooth.processes import follow_parent; follow_parent(); time.sleep(60)"


def family(child):
    parent = subprocess.Popen([sys.executable, "-c", FAMILY, child], stdout=subprocess.PIPE, text=True)
    return parent, int(parent.stdout.readline())


def gone(pid, seconds=5.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_process_and_its_children_with_its_number(signum):
    parent, child = family(STUBBORN)
    time.sleep(0.5)  # wait until it ignores SIGTERM
    parent.send_signal(signum)
    parent.send_signal(signum)  # as `timeout` does: to the process and its group
    said, _ = parent.communicate(timeout=20)
    assert parent.returncode == 128 + signum
    assert said == f"{signal.Signals(signum).name} set()\n"
    assert gone(child)


def test_a_process_that_follows_its_parent_ends_after_sigkill():
    parent, child = family(FOLLOWING)
    time.sleep(1)  # until it follows
    parent.kill()
    parent.communicate()
    assert gone(child)


LOADER = "DataLoader worker (pid 7)"


@pytest.mark.parametrize(
    ("error", "sentence", "status"),
    [
        (ProcessExitedException("with signal SIGKILL", 1, 2, -9, "SIGKILL"), "memory runs out", 1),
        (ProcessExitedException("with exit code 143", 1, 2, 143), "stopped by SIGTERM; ", 143),
        (RuntimeError(f"{LOADER} is killed by signal: Terminated. "), "stopped by SIGTERM; ", 143),
        (RuntimeError(f"{LOADER} is killed by signal: Killed. "), "outside (SIGKILL", 1),
        (RuntimeError("[gloo/pair.cc:553] Connection closed by peer [::1]:7"), "lost its connection", 1),
        (type("TerminatedWorkerError", (Exception,), {})("codes {SIGKILL(-9)}"), "memory runs out", 1),
    ],
    ids=["killed", "ended", "loader stopped", "loader killed", "survivor", "joblib"],
)
def test_an_ended_process_is_reported_in_one_sentence(error, sentence, status):
    told, code = explain(error)
    assert sentence in told
    assert "start the same command again" in told
    assert "unexpected error" not in told
    assert code == status
    assert explain(RuntimeError("Connection pool is full"))[0].startswith("unexpected error")


_FAULTS = """
import ctypes, resource, sys
from robustsmooth.processes import keep_memory
c = ctypes.CDLL(None)
c.malloc.restype, c.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
c.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
if sys.argv[1] == "keep":
    keep_memory()
def use(size=2**26):
    place = c.malloc(size); c.memset(place, 1, size); c.free(place)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="other C libraries manage memory their own way"
)
def test_freed_memory_is_kept_for_the_next_layer():
    def faults(word, **environment):
        run = subprocess.run(
            [sys.executable, "-c", _FAULTS, word],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        return int(run.stdout)

    assert faults("keep") < 100
    assert faults("leave") > 1000
    assert faults("keep", MALLOC_TRIM_THRESHOLD_="0") > 1000  # the user's choice


IN_A_DESTRUCTOR = """
import signal, time
from robustsmooth.processes import stoppable

class Loader:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.01)

with stoppable():
    loader = Loader()
    del loader
    time.sleep(20)
"""


def test_a_signal_that_arrives_in_a_destructor_stops_the_process_too():
    """Python drops an exception that is raised there; torch's loaders wait for their workers in one."""
    done = subprocess.run([sys.executable, "-c", IN_A_DESTRUCTOR], capture_output=True, text=True, timeout=15)
    assert (done.returncode, done.stderr) == (143, "")
