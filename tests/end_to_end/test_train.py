"""Training as a user runs it: twice the same, killed and resumed the same, on two ranks."""

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import Timer

from robustsmooth.report import find_runs, read_evaluations
from robustsmooth.resuming import check_evaluations
from robustsmooth.training_records import _out_of_time
from tests.conftest import forked, started

FAST = ["trainer.max_epochs=4", "trainer=cpu"]


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def same_weights(first: Path, second: Path) -> bool:
    a, b = weights(first), weights(second)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def same(first: Path, second: Path) -> None:
    assert same_weights(first, second)
    assert (first / "metrics.csv").read_bytes() == (second / "metrics.csv").read_bytes()


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("reference")
    assert started("train", *FAST, f"hydra.run.dir={folder}") == 0
    return folder


def test_a_run_folder_holds_what_it_should(reference):
    for name in (
        ".hydra/config.yaml",
        ".hydra/environment.json",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
        "metrics.csv",
        "summary.json",
    ):
        assert (reference / name).is_file(), name
    summary = json.loads((reference / "summary.json").read_text())
    assert summary["epochs"] == 4
    assert len(summary["seconds_per_epoch"]) == 4
    log = (reference / "train.log").read_text()
    assert "19 steps per epoch" in log
    assert "epoch   4/4  train/loss" in log
    environment = json.loads((reference / ".hydra" / "environment.json").read_text())
    assert environment["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]  # +cu130
    assert "${" not in (reference / ".hydra" / "config.yaml").read_text().split("hydra:")[0]


def test_the_same_run_twice_is_identical(reference, run, tmp_path):
    """Also in another process."""
    run("train", *FAST, f"hydra.run.dir={tmp_path}")
    same(reference, tmp_path)


@pytest.mark.parametrize("within_epochs", [False, True])
def test_killed_and_resumed_is_identical(reference, call, tmp_path, within_epochs):
    words = [*FAST, f"hydra.run.dir={tmp_path}", *(["save_every_steps=3"] if within_epochs else [])]
    child, metrics = forked("train", *words), tmp_path / "metrics.csv"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if metrics.exists() and len(metrics.read_text().splitlines()) >= 3:  # two epochs are done
            time.sleep(0.05 if within_epochs else 0)
            break
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, "it ended before the kill"
    assert not (tmp_path / "summary.json").exists()
    assert "continued after step" in call("train", *words)
    same(reference, tmp_path)


def test_a_finished_run_is_not_trained_again(reference, call):
    before = (reference / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    call("train", *FAST, f"hydra.run.dir={reference}")
    assert (reference / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("method.sigma=0.5", "method.sigma=0.25 then, 0.5 now"),
        ("trainer.limit_train_batches=1", "trainer.limit_train_batches=1.0 then, 1 now"),
        ("trainer.gradient_clip_val=0.1", "trainer.gradient_clip_val=None then, 0.1 now"),
        ("trainer.accumulate_grad_batches=2", "trainer.accumulate_grad_batches=1 then, 2 now"),
        ("trainer.precision=bf16-mixed", "trainer.precision=32-true then, bf16-mixed now"),
        ("trainer.max_epochs=3", "reached epoch 4, beyond trainer.max_epochs=3"),
    ],
)
def test_other_settings_are_refused_and_leave_no_trace(reference, call, word, message):
    before = {path.name: path.read_bytes() for path in (reference / ".hydra").iterdir()}
    assert message in call("train", *FAST, word, f"hydra.run.dir={reference}", status=1)
    assert {path.name: path.read_bytes() for path in (reference / ".hydra").iterdir()} == before


def test_a_truncated_checkpoint_is_one_sentence(reference, call, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    whole = (reference / "checkpoints" / "last.ckpt").read_bytes()
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(whole[: len(whole) // 2])
    said = call("train", *FAST, f"hydra.run.dir={tmp_path}", status=1)
    assert len(said.strip().splitlines()) == 1
    assert "last.ckpt` cannot be read (truncated or damaged" in said


@pytest.mark.ddp
def test_two_ranks_of_two_threads_train_and_validate_every_image_once(run, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # a forked process would wait forever
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")  # no spinning where others need the cores too
    words = ["trainer=ddp_cpu", "trainer.max_epochs=2", "trainer.limit_train_batches=6"]
    done = run("train", *words, f"hydra.run.dir={tmp_path}")
    assert "Warning" not in done.stderr
    assert json.loads((tmp_path / "summary.json").read_text())["epochs"] == 2
    metrics = pd.read_csv(tmp_path / "metrics.csv")
    correct = metrics["val/top1"] * 180  # a whole number only if each of the 180 images counts once
    assert (correct - correct.round()).abs().max() < 1e-3
    assert metrics["train/loss"].iloc[-1] < metrics["train/loss"].iloc[0]


def test_a_sweep_makes_complete_runs_and_continues(call, tmp_path):
    words = ["-m", "method=natural,gaussian", "trainer.max_epochs=1", f"hydra.sweep.dir={tmp_path}"]
    call("train", *words)
    runs = sorted(path.parent for path in tmp_path.glob("*/summary.json"))
    assert [path.name for path in runs] == ["0_natural-digits", "1_gaussian-digits"]
    stamps = [(item / "checkpoints" / "last.ckpt").stat().st_mtime_ns for item in runs]
    call("train", *words)
    assert [(item / "checkpoints" / "last.ckpt").stat().st_mtime_ns for item in runs] == stamps


def test_the_folder_of_a_sweep_is_named_by_its_time_by_default(call, tmp_path):
    call("train", "-m", "method=natural", "scale=smoke", "trainer.max_epochs=1", cwd=tmp_path)
    assert len(list(tmp_path.glob("multirun/*/*-train/0_natural-digits/summary.json"))) == 1


def test_a_failed_job_of_a_sweep_says_so_at_once_and_the_others_run(call, tmp_path):
    words = ["-m", "method=heat,natural", "trainer.max_epochs=1", f"hydra.sweep.dir={tmp_path}"]
    said = call("train", *words, status=1)
    assert said.index("job 0 failed: HeatSmoothing starts from") < said.index("#1 :")
    assert [path.parent.name for path in tmp_path.glob("*/summary.json")] == ["1_natural-digits"]


def test_checkpoints_can_be_chosen_by_certified_radius(call, tmp_path):
    words = [
        "callbacks=certify",
        "monitor=val/acr",
        "callbacks.certify.every=2",
        "callbacks.certify.images=20",
        "callbacks.certify.certificate.n=200",
    ]
    for epochs in (2, 4):  # continues; the last value is kept
        call("train", *words, f"trainer.max_epochs={epochs}", f"hydra.run.dir={tmp_path}")
    metrics = pd.read_csv(tmp_path / "metrics.csv")
    assert metrics["val/acr"].notna().all()
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] == metrics["val/acr"].idxmax()
    assert {"val/certified_acc@0.25", "val/abstention"} <= set(metrics.columns)


def test_a_run_that_diverges_says_so_and_writes_no_checkpoint_of_it(call, tmp_path):
    words = [*FAST, "method.scheduler=null", "method.optimizer.lr=1e30", f"hydra.run.dir={tmp_path}"]
    said = call("train", *words, status=1)
    assert "training diverged in epoch 1" in said
    assert "Traceback" not in said
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_training_that_its_time_limit_has_ended_is_not_taken_for_a_complete_one(call, tmp_path):
    certify = "+evaluate.certify='certify certificate.n=100 certificate.n0=10 data.subset.max=5'"
    words = ["trainer=cpu", "trainer.max_epochs=5000", "trainer.max_time=00:00:00:01", certify]
    said = call("train", *words, f"hydra.run.dir={tmp_path}")
    stopped = json.loads((tmp_path / "summary.json").read_text())["stopped"]
    assert re.fullmatch(r"stopped by trainer.max_time in epoch \d+ of 5000", stopped)
    assert stopped in said.splitlines()
    call("train", *words, f"hydra.run.dir={tmp_path}")  # does not train again
    assert json.loads((tmp_path / "summary.json").read_text())["stopped"] == stopped
    for reported in (tmp_path, tmp_path / "certify"):
        assert read_evaluations(find_runs(str(reported))).problems == [
            f"{tmp_path}: the training was {stopped}"
        ]


def test_a_complete_training_was_not_stopped(reference):
    assert "stopped" not in json.loads((reference / "summary.json").read_text())


@pytest.mark.parametrize(("epoch", "whole", "stopped"), [(3, True, True), (4, False, True), (4, True, False)])
def test_a_time_limit_within_the_last_epoch_counts(epoch, whole, stopped):
    limit = Timer(duration={"seconds": 1})
    limit._offset = 2.0  # seconds of training before
    trainer = SimpleNamespace(callbacks=[limit], current_epoch=epoch, max_epochs=4, is_last_batch=whole)
    assert (_out_of_time(trainer) is not None) is stopped


def test_a_network_that_was_evaluated_is_not_trained_further(call, tmp_path):
    predict = "+evaluate.mine='predict prediction.n=10 data.subset.max=2'"
    train = ["trainer=cpu", predict, f"hydra.run.dir={tmp_path}"]
    call("train", *train, "trainer.max_epochs=1")
    evaluated = json.loads((tmp_path / "mine" / "predict.settings.json").read_text())["network"]
    assert json.loads((tmp_path / "summary.json").read_text())["network"] == evaluated
    before = weights(tmp_path)
    said = call("train", *train, "trainer.max_epochs=2", status=1)
    assert (
        f"the evaluations in `mine` of `{tmp_path}` are of the network that it holds now, which more "
        "training would overwrite; choose another folder with hydra.run.dir=..., or remove them"
    ) in said
    assert all(torch.equal(before[key], value) for key, value in weights(tmp_path).items())
    (tmp_path / "metrics.csv").unlink()
    call("train", *train, "trainer.max_epochs=1")  # repairs it
    (tmp_path / "sweep").mkdir()
    (tmp_path / "mine").rename(tmp_path / "sweep" / "0")
    older = tmp_path / "checkpoints" / "previous.ckpt"  # continued from where last.ckpt is damaged
    with pytest.raises(ValueError, match=r"the evaluations in `sweep/0` of .* that it holds now"):
        check_evaluations(tmp_path, older, OmegaConf.create({"trainer": {"max_epochs": 2}}))
    check_evaluations(tmp_path, older, OmegaConf.create({"trainer": {"max_epochs": 1}}))  # repairs it
    assert "`sweep/0`" in call("train", *train[:1], *train[2:], "trainer.max_epochs=2", status=1)
    shutil.rmtree(tmp_path / "sweep")
    call("train", *train, "trainer.max_epochs=2")


def test_a_network_that_was_evaluated_within_the_last_epoch_is_not_trained_further(call, tmp_path):
    train = ["trainer=cpu", "trainer.max_epochs=1", "save_every_steps=3", f"hydra.run.dir={tmp_path}"]
    call("train", *train)
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.with_name("previous.ckpt").replace(last)  # killed after step 18 of 19
    (tmp_path / "summary.json").unlink()
    few = ["prediction.n=10", "data.subset.max=2"]
    call("predict", f"checkpoint={last}", *few, f"hydra.run.dir={tmp_path}/mine")
    said = call("train", *train, status=1)
    assert f"the evaluations in `mine` of `{tmp_path}` are of the network that it holds now" in said


@pytest.mark.slow
def test_the_first_of_two_processes_evaluates_what_both_have_trained(run, tmp_path):
    """Both evaluated, in the same folder."""
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "scale=smoke"]
    certify = "+evaluate.certify='certify certificate.n=100 certificate.n0=10'"
    done = run("train", *two, certify, f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path)
    log = pd.read_csv(tmp_path / "run" / "certify" / "certify.tsv", sep="\t")
    assert log.idx.is_unique
    assert json.loads((tmp_path / "run" / "certify" / "summary.json").read_text())["images"] == len(log) == 25
    assert (done.stdout + done.stderr).count("certifying 25 images") == 1
