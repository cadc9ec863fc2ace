"""A scale changes epochs and schedules of the recipes, and some methods by a file of their own."""

import pytest
from omegaconf import OmegaConf

from benchmarks.train_step import METHODS
from robustsmooth.commands import conf_dir
from tests.papers import composed, job_config, jobs
from tests.test_conf import binds, nodes

OF_METHODS = sorted(path.stem for path in conf_dir().glob("scale/method/*.yaml"))
RECIPES = sorted(
    path.stem.removesuffix("-cifar10")
    for path in conf_dir().glob("recipe/*-cifar10.yaml")
    if "published_epochs" in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", OF_METHODS)
def test_every_file_of_a_method_is_picked_up_and_binds(name):
    scale, _, method = name.partition("-")
    experiment = "cifar10/gpu" if scale == "gpu" else "cifar10/equal_steps"
    cfg = composed("train", f"experiment={experiment}", f"scale={scale}", f"method={method}")
    assert cfg.hydra.runtime.choices["scale/method"] == name
    for path, node in nodes(OmegaConf.masked_copy(cfg, ["method", "loss", "attack", "model", "callbacks"])):
        binds(path, node)


@pytest.mark.parametrize("method", RECIPES)
def test_a_shorter_schedule_keeps_its_proportions(method):
    """For the recipes; at full scale they are as published (tests/test_papers.py)."""
    full = composed("train", f"method={method}", "data=cifar10")
    less = composed("train", f"method={method}", "data=cifar10", "scale=gpu", "minutes=10")
    assert full.trainer.max_epochs == full.published_epochs
    share = less.trainer.max_epochs / full.trainer.max_epochs
    assert less.trainer.max_epochs == less.scale.epochs
    for key in ("scheduler.step_size", "scheduler.milestones", "warmup_epochs", "robust_weight_epoch"):
        published, ours = (OmegaConf.select(cfg.method, key) for cfg in (full, less))
        if published is not None:
            lists = (published, ours) if OmegaConf.is_list(published) else ([published], [ours])
            assert [max(1, round(share * epoch)) for epoch in lists[0]] == list(lists[1])
    # Epochs on the command line leave the schedule as it is, so that a run can be continued for longer.
    more = full.copy()
    more.trainer.max_epochs = 1000
    assert more.method.scheduler == full.method.scheduler


@pytest.mark.parametrize(
    ("method", "at_cpu"),
    [
        ("smoothadv", {"attack.steps": 2, "method.copies": 2}),  # of 10 and 8
        ("sodm", {"method.copies": 4, "method.mapping_copies": 32}),  # of 16 and 128
        ("sun2025", {"attack.steps": 2, "method.copies": 2, "method.discard_votes": 25}),  # of 3, 4 and 100
        ("natural", {"trainer.max_epochs": 12}),
    ],
)
def test_a_scale_reduces_what_its_recipes_say(method, at_cpu):
    cfg = composed("train", "experiment=cifar10/equal_steps", "scale=cpu", f"method={method}")
    assert {key: OmegaConf.select(cfg, key) for key in at_cpu} == at_cpu


@pytest.mark.parametrize(
    ("name", "sigma"), [("cifar10/equal_passes", 0.25), ("cifar10/equal_passes_050", 0.5)]
)
def test_equal_passes_are_equal(name, sigma):
    """Steps times the passes of a step's algorithm, as benchmarks/train_step.py counts them."""
    for row, (overrides,) in jobs(name, "short").items():
        cfg = job_config(name, "short", overrides)
        if row not in ("natural", "adversarial"):
            assert cfg.method.sigma == sigma
        assert f"smoothing.sigma={sigma} " in cfg.evaluate.certify
        part = cfg.trainer.limit_train_batches * cfg.data.batch_size
        images = 49_000 if row == "natural" else part
        counted = {"sodm_softmax": "sodm", "heat_adversarial": "heat"}.get(row, row)
        passes = METHODS[counted][2](cfg).needed * images * cfg.trainer.max_epochs
        assert passes == pytest.approx(735_000, rel=0.025), row
