"""A sweep that is killed in the middle and started again ends with every job once, and with its report."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

WORDS = [
    "scale=smoke",
    "method=natural,gaussian",
    "seed=0,1",
    "method.sigma=0.25",
    "data.subset.every=4",
    "hydra/callbacks=report",
    "hydra.sweep.dir=sweep",
    "hydra.sweep.subdir=${hydra:runtime.choices.method}-${seed}",
    '+evaluate.certify="certify certificate.n0=20 certificate.n=1000"',
]
JOBS = ["gaussian-0", "gaussian-1", "natural-0", "natural-1"]


def command(*words):
    return [sys.executable, "-m", "robustsmooth.train", "-m", *WORDS, *words]


def check(sweep):
    """Every job ran once: it is trained, 91 images are certified once, and the report has one row of it."""
    assert sorted(path.name for path in sweep.iterdir() if path.is_dir() and path.name != "report") == JOBS
    for job in JOBS:
        assert json.loads((sweep / job / "summary.json").read_text())["epochs"] == 2
        lines = (sweep / job / "certify" / "certify.tsv").read_text().splitlines()[1:]
        assert len({line.split("\t")[0] for line in lines}) == len(lines) == 91
        assert not list((sweep / job / "certify").glob("*.rank*.tsv"))
    rows = json.loads((sweep / "report" / "tables" / "certified_accuracy.json").read_text())["rows"]
    assert len(rows) == 4
    assert (sweep / "report" / "report.html").exists()


@pytest.mark.slow
def test_a_killed_sweep_goes_on_without_doing_finished_jobs_again(tmp_path):
    sweep = tmp_path / "sweep"
    process = subprocess.Popen(
        command(), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    second = (
        sweep / "natural-1" / "summary.json"
    )  # written after the second job's training and before its certification
    deadline = time.monotonic() + 120
    while not second.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (sweep / "report").exists()
    first = [sweep / "natural-0" / name for name in ("checkpoints/last.ckpt", "summary.json", "metrics.csv")]
    before = [(path.stat().st_mtime_ns, path.stat().st_ino) for path in [*first, second]]
    rows = (sweep / "natural-0" / "certify" / "certify.tsv").read_text()

    subprocess.run(command(), cwd=tmp_path, check=True, timeout=200, capture_output=True)
    check(sweep)
    assert [(path.stat().st_mtime_ns, path.stat().st_ino) for path in [*first, second]] == before
    assert (sweep / "natural-0" / "certify" / "certify.tsv").read_text() == rows


@pytest.mark.slow
def test_a_sweep_reports_although_a_job_has_diverged(run, tmp_path):
    words = [
        "-m",
        "scale=smoke",
        "hydra/callbacks=report",
        "hydra.sweep.dir=sweep",
        "hydra.sweep.subdir=${hydra:job.num}",
        "method.scheduler=null",
        "method.optimizer.lr=1e30,0.01",
    ]
    failed = run("train", *words, cwd=tmp_path, status=1)
    assert "training diverged in epoch 1" in failed.stderr
    assert (tmp_path / "sweep" / "1" / "summary.json").exists()
    assert (tmp_path / "sweep" / "report" / "report.html").exists()


@pytest.mark.slow
@pytest.mark.ddp
def test_jobs_of_a_sweep_run_in_parallel(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    subprocess.run(command(*words), cwd=tmp_path, check=True, timeout=200, capture_output=True)
    check(tmp_path / "sweep")


@pytest.mark.slow
def test_a_search_maximises_the_acr_of_validation_images(run, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    search = [
        "hydra/sweeper=optuna",
        "hydra.sweeper.direction=maximize",
        "hydra.sweeper.n_trials=2",
        "hydra.sweeper.n_jobs=1",
        "hydra.sweeper.max_failure_rate=1",
        "hydra.sweeper.sampler.seed=3",
        "hydra.sweep.dir=search",
        "hydra.sweep.subdir=${hydra:job.num}",
        "callbacks=certify",
        "monitor=val/acr",
        "callbacks.certify.images=20",
        "callbacks.certify.every=1",
        "trainer.max_epochs=1",
    ]
    run("train", "-m", "scale=smoke", *search, "method.sigma=interval(0.1,0.5)", cwd=tmp_path)
    found = yaml.safe_load((tmp_path / "search" / "optimization_results.yaml").read_text())
    values = {}
    for job in ("0", "1"):
        sigma = yaml.safe_load((tmp_path / "search" / job / ".hydra" / "config.yaml").read_text())["method"][
            "sigma"
        ]
        values[sigma] = json.loads((tmp_path / "search" / job / "summary.json").read_text())["metrics"][
            "val/acr"
        ]
    assert len(values) == 2
    assert found["best_value"] == max(values.values())
    assert values[found["best_params"]["method.sigma"]] == max(values.values())
