"""The experiments on CIFAR-10 compose for every method, and run at the scale `smoke`."""

import functools

import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from robustsmooth.commands import conf_dir
from robustsmooth.instantiation import instantiate
from tests import composing

SWEEPS = {"cifar10/equal_steps": "short", "cifar10/gpu": "gpu"}


@functools.cache
def composed(name, scale, *words):
    """The config of a job; read-only."""
    words = [f"experiment={name}", f"scale={scale}", "hydra.sweep.dir=sweep", *words]
    return composing.composed("train", *words, whole=True)


def methods(name, scale):
    return composed(name, scale).hydra.sweeper.params.method.split(",")


@pytest.mark.parametrize("name", SWEEPS)
def test_every_method_has_its_settings_at_this_scale(name):
    scale = SWEEPS[name]
    known = {path.stem for path in (conf_dir() / "scale" / "method").glob(f"{scale}-*.yaml")}
    for method in methods(name, scale):
        cfg = composed(name, scale, f"method={method}")
        follows = scale == "gpu" and cfg.get("published_epochs") is not None
        follows |= scale == "short" and cfg.method.optimizer.lr == 0.05  # of conf/scale/short.yaml
        assert follows or f"{scale}-{method}" in known


@pytest.mark.parametrize("name", SWEEPS)
def test_heat_smoothing_and_the_fine_tunings_start_from_what_they_refine(name):
    order = methods(name, SWEEPS[name])
    for later, first in {
        "heat": "natural",
        "heat_adversarial": "adversarial",
        "cpni_gauss": "cpni",
        "cpni_epgd": "cpni",
    }.items():
        assert order.index(first) < order.index(later)
        cfg = composed(name, SWEEPS[name], f"method={later}")
        start = OmegaConf.to_container(cfg.start, resolve=False).get(later)
        assert start is None or start.endswith(f"/{first}")


@pytest.mark.parametrize("name", SWEEPS)
def test_schedules_fit_and_noise_is_that_of_the_comparison(name):
    for method in methods(name, SWEEPS[name]):
        cfg = composed(name, SWEEPS[name], f"method={method}")
        parameter = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD(
            [parameter], lr=cfg.method.optimizer.lr, momentum=cfg.method.optimizer.momentum
        )
        instantiate(cfg.method.scheduler)(optimizer)
        assert cfg.method.sigma == {"cpni_gauss": 0.05928, "cpni_epgd": 0.05928}.get(
            method, 0.0 if method in ("natural", "adversarial", "pni", "cpni") else 0.25
        )
        assert cfg.method.get("time_steps", 1) == 1


def test_short_trains_every_method_but_the_natural_one_in_the_same_number_of_steps():
    for method in methods("cifar10/equal_steps", "short"):
        cfg = composed("cifar10/equal_steps", "short", f"method={method}")
        steps = {"natural": 1.0, "cpni_gauss": 64, "cpni_epgd": 64}.get(method, 256)
        assert cfg.trainer.limit_train_batches == steps
        assert cfg.schedule.total_iters == {"natural": 1915}.get(method, steps)
        assert cfg.data.batch_size == 128
        assert cfg.method.get("robust_weight_epoch") is None  # constant, however many epochs
        assert cfg.model.network.shortcut == "identity"


@pytest.mark.slow
@pytest.mark.timeout(1600)
@pytest.mark.parametrize("name", SWEEPS)
def test_it_runs_to_its_report(name, run, tmp_path):
    run("train", f"experiment={name}", "scale=smoke", cwd=tmp_path, timeout=1500)
    report = tmp_path / "multirun" / f"{name}-smoke" / "report"
    trained = {path.parent.parent.name for path in report.parent.glob("*/checkpoints/last.ckpt")}
    assert trained == set(methods(name, "smoke"))
    for table in ("certified_accuracy", "radii", "attacks", "timing", "agreement"):
        assert (report / "tables" / f"{table}.md").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words", "tables"),
    [
        ("search", ["method=macer", "loss.robust_weight=1,4"], ["training"]),
        ("search_linf", ["method=pni", "method.optimizer.lr=0.01,0.05"], ["training", "attacks"]),
    ],
)
def test_the_search_runs_to_its_report(name, words, tables, run, tmp_path):
    run("train", "method=natural", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}/natural", timeout=120)
    words = [f"experiment=cifar10/{name}", "scale=smoke", *words, f"start.natural={tmp_path}/natural"]
    run("train", *words, cwd=tmp_path, timeout=280)
    report = tmp_path / "multirun" / "cifar10" / f"{name}-smoke" / "report"
    assert {path.stem for path in (report / "tables").glob("*.md")} >= set(tables)


def modern(row):
    """The config of one row of the methods after 2019, as its job composes it."""
    experiment = ("sun2025/cifar10", "full")
    overrides = [f"{key}={value}" for key, value in composed(*experiment).hydra.sweeper.rows[row].items()]
    cfg = composed(*experiment, f"row={row}", *overrides)
    HydraConfig.instance().set_config(cfg)  # for the sweep's folder in `targets`
    return cfg


@pytest.mark.parametrize(
    ("row", "facts"),
    [
        (
            "consistency_025",
            {"loss.terms.consistency.weight": 20, "method.copies": 2, "trainer.max_epochs": 150},
        ),
        ("stability_100", {"loss.terms.stability.weight": 1, "loss.terms.classification.clean": True}),
        ("smoothmix_100", {"attack.step_size": 2.0, "method.one_step": True, "method.mix_weight": 5.0}),
        ("cat_rs_050", {"method.robust_weight": 1.0, "attack.epsilon": 1.0, "method.copies": 4}),
        ("sun2025_050", {"method.warmup_epochs": 70, "attack.steps": 6, "method.discard_below": 0.4}),
        ("smoothadv_050", {"attack.steps": 2, "attack.epsilon": 2.0, "method.copies": 2}),
    ],
)
def test_the_methods_after_2019_have_their_published_settings_of_the_level(row, facts):
    cfg = modern(row)
    for key, value in facts.items():
        assert OmegaConf.select(cfg, key) == value, key
    assert cfg.method.sigma == {"025": 0.25, "050": 0.5, "100": 1.0}[row[-3:]]
    assert cfg.model.network.depth == 110


def test_cat_rs_learns_from_the_votes_of_the_first_row():
    assert modern("cat_rs_100").method.targets == "sweep/gaussian_025-0/votes"
    assert "data.subset.split=train" in modern("gaussian_025").evaluate.votes
    assert modern("gaussian_050").evaluate.votes is None
