"""The experiments on the embedded digits, and what any experiment asks of the order of its jobs."""

import json
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from robustsmooth.commands import conf_dir

from .test_report_experiments import EXPERIMENTS, composed, sweep

ALL = "digits/all_methods"
STARTS = [
    name
    for name in (*EXPERIMENTS, ALL)
    if "\nstart:" in (conf_dir() / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")
]


def methods_in_order(name):
    return [method.strip() for method in sweep(composed(name, "full"))["method"]]


@pytest.mark.parametrize("name", STARTS)
def test_jobs_start_from_earlier_jobs(name):
    """The jobs run in the order of the sweep: what one starts from must have been trained."""
    methods = methods_in_order(name)
    starts = OmegaConf.to_container(composed(name, "full").start, resolve=False)
    assert set(starts) <= set(methods)
    for method, place in starts.items():
        source = re.fullmatch(r"\$\{hydra:sweep\.dir\}/(\w+)(?:-\$\{seed\})?", place)
        assert source, place
        assert methods.index(source[1]) < methods.index(method)


def test_every_method_takes_part():
    """Self-training is left out: there are no extra images of digits."""
    known = {path.stem for path in (conf_dir() / "method").glob("*.yaml")} - {"smoothadv_selftraining"}
    assert set(methods_in_order(ALL)) == known


@pytest.mark.slow
def test_all_methods_in_one_table(run, tmp_path):
    run("train", f"experiment={ALL}", "scale=smoke", cwd=tmp_path, timeout=500)
    sweep_folder = tmp_path / "multirun" / f"{ALL}-smoke"
    rows = json.loads((sweep_folder / "report" / "tables" / "overview.json").read_text())
    assert len(rows) == len(methods_in_order(ALL))
    columns = {key.split("/")[-1] for key in rows[0]}
    assert {"top1", "acr", "certified_acc@0", "certified_acc@0.5", "seconds"} <= columns
    assert {"pgd on network ε=0.5", "epgd on smoothed ε=0.5 m=8"} <= columns
    assert all(value is not None for row in rows for value in row.values())
    for method, source in (("heat", "natural"), ("heat_adversarial", "adversarial"), ("cpni_epgd", "cpni")):
        config = OmegaConf.load(sweep_folder / method / ".hydra" / "config.yaml")
        assert Path(config.model.checkpoint).name == source


@pytest.mark.slow
def test_a_search_compares_settings_on_validation_images(run, tmp_path):
    words = (
        "method=macer",
        "loss.robust_weight=1,4",
        "trainer.max_epochs=2",
        "trainer.limit_train_batches=2",
    )
    run("train", "experiment=digits/search", *words, cwd=tmp_path, timeout=200)
    rows = json.loads((tmp_path / "multirun/digits/search/report/tables/training.json").read_text())
    assert [row["run"] for row in rows] == [f"macer (loss.robust_weight={weight})" for weight in (1, 4)]
    assert all(0 < row["val/acr"] < 0.6 for row in rows)
