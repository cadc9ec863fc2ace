"""metrics.csv: one row per step, continued by a resumed run; W&B and TensorBoard show the same numbers."""

import csv
import json

import pandas as pd
import pytest

from robustsmooth.evaluation import Certification
from robustsmooth.loggers import CsvLogger, log_evaluation, wandb_logger
from robustsmooth.report.publish import folder_content, run_id
from tests.report.conftest import write_certification, write_training
from tests.report.wandb_files import read_back

SWEEP = [
    "-m",
    "scale=smoke",
    "method=gaussian,natural",
    "method.sigma=0.25",
    "trainer.limit_train_batches=2",
    "hydra.sweep.dir=sweeps/two",
    "hydra.sweep.subdir=${hydra:runtime.choices.method}",
    '+evaluate.certify="certify certificate.n0=20 certificate.n=200"',
    '+evaluate.pgd="attack attack=pgd_l2 target=network attack.steps=2 epsilons=[0.25,0.5]"',
]
"""Two jobs in one process; each writes a table of radii and adversarial pictures."""


def trained_metrics(job):
    """The metrics of a run folder's metrics.csv, by key: a list of (step, value)."""
    found = {}
    with (job / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            for key, value in row.items():
                if "/" in key and value:
                    found.setdefault(key, []).append((int(row["step"]), float(value)))
    return found


def acr(job):
    """The ACR of the certification in a run folder, from its rows."""
    with (job / "certify" / "certify.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return sum(float(row["radius"]) * int(row["correct"]) for row in rows) / len(rows)


def test_metrics_of_one_step_share_a_row(tmp_path):
    logger = CsvLogger(str(tmp_path))
    logger.log_metrics({"epoch": 0, "train/loss": 2.0}, step=4)
    logger.log_metrics({"epoch": 0, "val/top1": 0.5}, step=4)
    logger.log_metrics({"epoch": 1, "train/loss": 1.0}, step=9)
    table = pd.read_csv(tmp_path / "metrics.csv")
    assert list(table.columns) == ["step", "epoch", "train/loss", "val/top1"]
    assert list(table["step"]) == [4, 9]
    assert table["val/top1"][0] == 0.5
    assert pd.isna(table["val/top1"][1])


def test_a_resumed_run_replaces_what_came_after_its_checkpoint(tmp_path):
    killed = CsvLogger(str(tmp_path))
    for step in (1, 2, 3):
        killed.log_metrics({"train/loss": float(step)}, step=step)
    resumed = CsvLogger(str(tmp_path))
    resumed.log_metrics({"train/loss": 20.0}, step=2)
    assert list(pd.read_csv(tmp_path / "metrics.csv")["train/loss"]) == [1.0, 20.0]


def test_wandb_without_a_key_works_offline(tmp_path, monkeypatch, capsys):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("wandb.api._api_key", None, raising=False)
    logger = wandb_logger(str(tmp_path), mode="online")
    assert "offline" in capsys.readouterr().err
    assert logger._wandb_init["mode"] == "offline"


@pytest.mark.slow
def test_a_separate_evaluation_logs_the_same_keys_as_one_after_training(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    trained = write_training(tmp_path / "trained")
    for folder in (trained / "certify", tmp_path / "alone"):
        write_certification(folder, trained)
        summary = {"metrics": {"test/top1": 0.75}, "certified_accuracy": [{"radius": 0.0}, {"radius": 0.25}]}
        (folder / "summary.json").write_text(json.dumps(summary))
    logger = wandb_logger(str(tmp_path / "alone"), mode="offline")
    log_evaluation([logger], tmp_path / "alone", "certify", trained)
    wandb.finish()
    wandb.teardown()  # waits for the process that writes the files
    ((about, history, summary, media),) = read_back(tmp_path / "alone").values()
    inside = folder_content(trained, ["certify"])
    assert "certificate/certify/clean_accuracy" in inside.numbers
    assert inside.numbers.items() <= summary.items()
    curve = history["certificate/certify/accuracy"]
    assert curve[0] == summary["certificate/certify/accuracy@0.00"]
    assert 0 < summary["certificate/certify/accuracy@0.25"] < curve[0]
    assert "certificate/certify/accuracy" not in summary  # which would be the one at the largest radius
    assert list((media / "table" / "certificate" / "certify").glob("*.json"))
    config = {item.key: json.loads(item.value_json) for item in about.config.update}
    assert config["training"] == {"run_id": run_id(trained), "folder": str(trained)}


def test_an_evaluation_before_an_interruption_is_logged_once(call, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    logged, begin = [], Certification.begin
    monkeypatch.setattr(
        "robustsmooth.loggers._log", lambda loggers, content: logged.append(sorted(content.curves))
    )
    certify = "certify certificate.n0=10 certificate.n=100 data.subset.max=2"
    lines = [f"+evaluate.{name}='{certify}'" for name in ("one", "two")]
    words = ["trainer=cpu", "trainer.max_epochs=1", *lines, f"hydra.run.dir={tmp_path}"]

    def stopped(self, *args):
        if self.folder.name == "two":
            raise ValueError("no time is left")
        return begin(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Certification, "begin", stopped)
        call("train", *words, "logger=tensorboard", status=1)
        assert logged == [["certificate/one/accuracy"]]
    for _ in range(2):
        call("train", *words, "logger=tensorboard")
        assert logged == [["certificate/one/accuracy"], ["certificate/two/accuracy"]]


@pytest.mark.slow
def test_a_sweep_with_wandb_makes_a_run_per_job(run, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for variable in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # no server answers there
    run("train", *SWEEP, "logger=wandb", "logger.wandb.tags=[mine]", cwd=tmp_path)
    runs = {about.display_name: entry for entry in read_back(tmp_path).values() for about in entry[:1]}
    assert set(runs) == {"gaussian", "natural"}
    assert len({about.run_id for about, *_ in runs.values()}) == 2
    for method, (about, history, summary, media) in runs.items():
        job = tmp_path / "sweeps" / "two" / method
        assert (about.project, about.run_group) == ("robustsmooth", "two")
        assert list(about.tags) == [method, "digits", "mine"]
        assert len(list((job / "wandb").glob("offline-run-*"))) == 1
        for key, points in trained_metrics(job).items():
            assert history[key] == pytest.approx([value for _, value in points], rel=1e-6)
        assert {step for points in trained_metrics(job).values() for step, _ in points} <= set(
            history["trainer/global_step"]
        )
        curve = history["certificate/certify/accuracy"]
        assert len(curve) == len(history["certificate/radius"]) == 101
        assert summary["certificate/certify/acr"] == pytest.approx(acr(job))
        assert {"empirical/pgd@0.25,1/accuracy", "empirical/pgd@0.5,1/accuracy"} <= set(summary)
        (table,) = (media / "table" / "certificate" / "certify").glob("*.json")
        content = json.loads(table.read_text())
        assert content["columns"] == ["idx", "correct", "l2 radius"]
        assert len(content["data"]) == 25
        assert len(list((media / "table" / "empirical").glob("pgd@*/*.json"))) == 2
        assert list((media / "images" / "empirical" / "pgd").glob("attack_grid*.png"))
    configs = {
        method: {item.key: json.loads(item.value_json) for item in about.config.update}
        for method, (about, *_) in runs.items()
    }
    assert configs["gaussian"]["method"]["_target_"].endswith("GaussianModule")
    assert configs["natural"]["method"]["_target_"] != configs["gaussian"]["method"]["_target_"]
    assert configs["gaussian"]["trainer"]["limit_train_batches"] == 2
    assert "${" not in json.dumps(configs)

    run("train", *SWEEP, "logger=wandb", cwd=tmp_path)  # nothing is left to do: nothing more is logged
    assert len(list(tmp_path.glob("**/offline-run-*"))) == 2


@pytest.mark.slow
def test_tensorboard_has_the_same_numbers(run, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run("train", *SWEEP, "method=gaussian", "logger=tensorboard", cwd=tmp_path)
    job = tmp_path / "sweeps" / "two" / "gaussian"
    events = EventAccumulator(str(job / "tensorboard"), size_guidance={"scalars": 0, "images": 0}).Reload()
    scalars = {
        key: [(Scalar.step, Scalar.value) for Scalar in events.Scalars(key)]
        for key in events.Tags()["scalars"]
    }
    for key, points in trained_metrics(job).items():
        assert [step for step, _ in scalars[key]] == [step for step, _ in points]
        assert [value for _, value in scalars[key]] == pytest.approx([value for _, value in points], rel=1e-6)
    assert scalars["certificate/certify/acr"] == [(0, pytest.approx(acr(job)))]
    thousandths = [step for step, _ in scalars["certificate/certify/accuracy"]]
    assert len(thousandths) == 101
    assert thousandths == sorted(thousandths)
    assert "hp_metric" not in scalars
    assert events.Tags()["images"] == ["empirical/pgd/attack_grid"]
