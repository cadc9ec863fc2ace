"""The experiments on the embedded digits."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from robustsmooth.commands import conf_dir
from tests.papers import stage

from .test_report_experiments import compare, composed, rows

ALL = "digits/all_methods"


def test_every_method_takes_part():
    """Except self-training, since there are no extra images of digits, and a variant of SODM."""
    known = {path.stem for path in (conf_dir() / "method").glob("*.yaml")}
    known -= {"smoothadv_selftraining", "sodm_softmax"}
    assert {row["method"] for row in rows(composed(ALL, "full")).values()} == known


def test_what_rows_start_from_comes_first():
    cfg = composed(ALL, "full")
    starts = OmegaConf.to_container(cfg.start, resolve=False)
    assert {name.removeprefix("denoiser_of_") for name in starts} <= set(rows(cfg))
    needed = {Path(place).name.removesuffix("-${seed}") for place in starts.values()} | set(cfg.votes)
    first = cfg.hydra.sweeper.first
    assert needed == {row for row in rows(cfg) if stage(first, row) < stage(first, "anything else")}


@pytest.mark.slow
@pytest.mark.timeout(560)
def test_all_methods_in_one_table(run, tmp_path):
    run("train", f"experiment={ALL}", "scale=smoke", cwd=tmp_path, timeout=500)
    sweep = tmp_path / "multirun" / f"{ALL}-smoke"
    found = json.loads((sweep / "report" / "tables" / "overview.json").read_text())["rows"]
    assert len(found) == len(rows(composed(ALL, "smoke")))
    columns = {key.split("/")[-1] for key in found[0]}
    assert {"top1", "acr", "certified_acc@0", "certified_acc@0.5", "seconds"} <= columns
    assert {"pgd on network ε=0.5", "epgd on smoothed ε=0.5 m=8"} <= columns
    assert all(value is not None for row in found for value in row.values())
    compare(ALL, "overview", found)
    for row, source in (
        ("heat", "natural"),
        ("heat_adversarial", "adversarial"),
        ("cpni_epgd", "cpni"),
        ("denoiser", "natural"),
    ):
        config = OmegaConf.load(sweep / f"{row}-0" / ".hydra" / "config.yaml")
        assert Path(config.model.checkpoint).name == f"{source}-0"


@pytest.mark.slow
def test_a_search_compares_settings_on_validation_images(run, tmp_path):
    words = ("row=macer", "loss.robust_weight=1,4", "++loss.inverse_temperature=4", "trainer.max_epochs=2")
    run("train", "experiment=digits/search", *words, cwd=tmp_path, timeout=200)
    table = tmp_path / "multirun" / "digits" / "search-full" / "report" / "tables" / "training.json"
    found = json.loads(table.read_text())["rows"]
    assert [row["run"] for row in found] == [f"macer (loss.robust_weight={weight})" for weight in (1, 4)]
    assert all(0 < row["val/acr"] < 0.6 for row in found)
