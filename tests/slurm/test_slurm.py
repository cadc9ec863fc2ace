"""A SLURM cluster of two nodes on this machine, started for these tests."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from robustsmooth.report.logs import read_log

NEEDED = ("srun", "sbatch", "scontrol", "slurmctld", "slurmd", "munged")
PATH = f"{os.environ['PATH']}:/usr/sbin"
MISSING = [name for name in NEEDED if shutil.which(name, path=PATH) is None]
ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
CLUSTER = Path(__file__).with_name("cluster.sh")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ddp,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(MISSING) or not ROOT, reason="needs root, slurm-wlm and munge, see tests/slurm"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The environment of a shell on the cluster."""
    folder = tmp_path_factory.mktemp("slurm")
    environment = {**os.environ, "PATH": PATH, "SLURM_CONF": f"{folder}/slurm.conf"}
    environment["MASTER_ADDR"] = "127.0.0.1"  # the names of the nodes cannot be resolved
    subprocess.run([CLUSTER, "up", folder], check=True, env=environment, timeout=60)
    yield environment
    subprocess.run([CLUSTER, "down", folder], check=True, env=environment, timeout=60)


@pytest.fixture
def shell(cluster):
    """Run a line on the cluster."""

    def run(*words, status=0):
        done = subprocess.run(
            [str(word) for word in words], capture_output=True, text=True, env=cluster, timeout=800
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done

    return run


def python(command, *words):
    return [sys.executable, "-m", f"robustsmooth.{command}", *words]


def test_tasks_of_srun_share_the_work(shell, tmp_path):
    train = python("train", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}/run")
    refused = shell("srun", "-n", 2, *train, status=1)
    assert "would do all of the work; add trainer=slurm" in refused.stderr
    shell("srun", "-n", 2, *train, "trainer=slurm")
    words = [f"checkpoint={tmp_path}/run", "certificate.n=200", "certificate.batch_size=32"]
    certify = python("certify", *words, "data.subset.max=5")
    shell("srun", "-N", 2, "-n", 2, *certify, "trainer=slurm", f"hydra.run.dir={tmp_path}/two")
    shell(*certify, "trainer=cpu", f"hydra.run.dir={tmp_path}/one")
    one, two = (
        read_log(tmp_path / name / "certify.tsv").rows.drop(columns="time") for name in ("one", "two")
    )
    assert one.equals(two)


def test_a_job_whose_time_ends_is_queued_again_and_continued(shell, tmp_path):
    run, said = tmp_path / "run", tmp_path / "job.out"
    line = " ".join(python("train", "trainer=slurm", "trainer.max_epochs=12", f"hydra.run.dir={run}"))
    options = f"--nodes=2 --ntasks-per-node=1 --requeue --open-mode=append --output={said}"
    (tmp_path / "job.sh").write_text(f"#!/bin/bash\n#SBATCH {options}\nsrun --kill-on-bad-exit=1 {line}\n")
    job = shell("sbatch", "--parsable", tmp_path / "job.sh").stdout.strip()

    def wait_for(condition):
        end = time.monotonic() + 800
        while not condition():
            assert time.monotonic() < end, said.read_text()
            time.sleep(0.1)

    metrics = run / "metrics.csv"
    wait_for(lambda: metrics.exists() and len(metrics.read_text().splitlines()) >= 3)
    shell("scancel", "--signal=USR1", job)  # as with sbatch --signal=USR1@60
    wait_for(lambda: "JobState=PENDING" in shell("scontrol", "show", "job", job).stdout)
    shell("scontrol", "update", f"jobid={job}", "StartTime=now")  # instead of in two minutes
    wait_for((run / "summary.json").exists)
    assert "stopped by SIGUSR1; what is finished is kept" in said.read_text()
    assert "continued after step" in said.read_text()
    assert len(metrics.read_text().splitlines()) == 1 + 12
    assert not list(tmp_path.rglob("hpc_ckpt*"))


def test_jobs_of_a_sweep_are_jobs_of_slurm(shell, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    sweep = ["-m", "method=natural,gaussian", "trainer.max_epochs=1", f"hydra.sweep.dir={tmp_path}"]
    limits = ["hydra.launcher.timeout_min=10", "hydra.launcher.max_num_timeout=3"]
    shell(*python("train", *sweep, "hydra/launcher=submitit_slurm", *limits))
    assert sorted(path.parent.name for path in tmp_path.glob("*/summary.json")) == [
        "0_natural-digits",
        "1_gaussian-digits",
    ]
