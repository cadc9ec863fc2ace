"""Offline W&B runs of a sweep, read back from their files."""

import json
import re
import warnings
from pathlib import Path

import pytest
import yaml

from robustsmooth.report import find_runs, label_runs, read_evaluations, write_report
from robustsmooth.report.publish import STEP, content_of, evaluation_content, publish

from .conftest import write_attack, write_certification, write_training
from .wandb_files import read_back

wandb = pytest.importorskip("wandb")


@pytest.mark.slow
def test_a_sweep_of_two_jobs_becomes_two_runs(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    evaluations = read_evaluations(label_runs(find_runs([str(runs / "0_gaussian"), str(runs / "3_heat")])))
    ids = publish(evaluations, tmp_path, project="p", tags=["mine"])
    back = read_back(tmp_path)
    assert list(back) == ids
    assert len(set(ids)) == 2
    for (about, history, summary, media), method, sigma, job in zip(
        back.values(), ("gaussian", "heat"), (0.25, 0.5), ("0_gaussian", "3_heat"), strict=True
    ):
        config = {item.key: json.loads(item.value_json) for item in about.config.update}
        assert config["method"] == {"_target_": f"robustsmooth.methods.{method}", "sigma": sigma}
        assert (about.project, about.run_group) == ("p", runs.name)
        assert list(about.tags) == [method, "digits", "mine"]
        assert history["val/top1"] == [0.5, 0.6, 0.7]
        curve = history["certificate/certify/accuracy"]
        assert len(curve) == 101
        assert curve == sorted(curve, reverse=True)
        lines = [
            line.split("\t") for line in (runs / job / "certify/certify.tsv").read_text().splitlines()[1:]
        ]
        acr = sum(float(line[3]) * int(line[4]) for line in lines) / len(lines)
        assert summary["certificate/certify/acr"] == pytest.approx(acr)
        tables = [
            json.loads(path.read_text()) for path in (media / "table/certificate/certify").glob("*.json")
        ]
        assert [row[0] for row in tables[0]["data"]] == list(range(60))
        assert {key for key in summary if key.startswith("empirical") and key.endswith("accuracy")} == {
            "empirical/attack@0.25,4/accuracy",
            "empirical/attack@0.5,4/accuracy",
        }


def test_no_key_stands_for_two_evaluations_or_another_model(tmp_path):
    """All but the last are evaluations of one network, two of them certifications under one name."""
    first, second = (write_training(tmp_path / f"{seed}", seed=seed) for seed in range(2))
    write_certification(tmp_path / "a" / "certify", first, n=100)
    write_certification(tmp_path / "b" / "certify", first, seed=1)
    write_attack(tmp_path / "b" / "attack", first)
    for folder in (
        write_certification(tmp_path / "c" / "certify", first, seed=2),
        write_attack(tmp_path / "c" / "attack", first, seed=2),
    ):
        config = folder / ".hydra" / "config.yaml"
        model = {"members": [str(second)]}
        config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), "model": model}))
    evaluations = read_evaluations(label_runs(find_runs(str(tmp_path))))
    numbers = content_of(evaluations, first).numbers
    ensemble = evaluations.certifications[-1].run.facts["family"]
    names = ["certify (a/certify)", "certify (b/certify)", f"certify of {ensemble}"]
    assert [numbers[f"certificate/{name}/acr"] for name in names] == [
        item.acr for item in evaluations.certifications
    ]
    names = ["attack", f"attack of {ensemble}"]
    assert [numbers[f"empirical/{name}@{budget},4/accuracy"] for name in names for budget in (0.25, 0.5)] == [
        float((~attack.won).mean()) for attack in evaluations.attacks
    ]


def test_a_separate_evaluation_has_no_numbers_of_another_one_below_its_folder(tmp_path):
    trained = write_training(tmp_path / "a")
    alone = write_certification(tmp_path / "alone", trained)
    (own,) = read_evaluations(find_runs(str(alone))).certifications
    write_certification(alone / "more", trained, seed=1)
    assert evaluation_content(alone, "certify").numbers["certificate/certify/acr"] == own.acr


def test_a_wrong_setting_of_wandb_is_an_error(tmp_path):
    trained = write_training(tmp_path / "a")
    write_certification(trained / "certify", trained)
    with pytest.raises(ValueError, match=r"`wandb.mode` must be online or offline"):
        write_report(str(tmp_path), tmp_path / "out", formats=[], wandb={"mode": "sideways"})


def test_the_documented_dashboard_shows_keys_that_are_logged(runs):
    with warnings.catch_warnings():  # of pydantic's, about the library's own code
        warnings.simplefilter("ignore")
        pytest.importorskip("wandb_workspaces.reports.v2")
        text = (Path(__file__).parents[2] / "docs" / "wandb.md").read_text()
        names = {}
        exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], names)
        panels = [panel._to_model().model_dump(by_alias=True)["config"] for panel in names["panels"]]
    evaluations = read_evaluations(label_runs(find_runs(str(runs / "0_gaussian"))))
    content = content_of(evaluations, runs / "0_gaussian")
    pictures = {"empirical/attack/attack_grid"}  # there are no pictures here; see test_loggers
    history = {STEP, *content.curves, *(curve.x_key for curve in content.curves.values())}
    history |= {key for item in evaluations.trainings for key in item.metrics}
    certified, search, sure, training, attacked, media = panels
    assert {certified["xAxis"], *certified["metrics"], training["xAxis"], *training["metrics"]} <= history
    assert search["xAxis"] == "config:method.value.sigma"
    assert "sigma" in next(run for run in evaluations.runs if run.config.get("method")).config["method"]
    summary = {search["yAxis"].removeprefix("summary:")}
    summary |= {sure[axis].removeprefix("summary:") for axis in ("xAxis", "yAxis")}
    summary |= {key.removeprefix("summary_metrics.") for key in attacked["metrics"]}
    assert len(summary) == 3
    assert summary <= set(content.numbers)
    assert set(media["mediaKeys"]) == pictures
