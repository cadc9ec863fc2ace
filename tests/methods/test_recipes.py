"""The recipes are the papers' settings, independent of the methods' defaults."""

import pytest
from omegaconf import OmegaConf

from robustsmooth.commands import conf_dir

PAPERS = {
    "heat-cifar10": {
        "trainer.max_epochs": 1000,
        "data.batch_size": 100,
        "loss.fidelity": "logits",
        "loss.num_probes": 10,
        "loss.difference_step": 0.1,
        "loss.probe_scaling": "sum",
        "method.sigma": 0.1,
        "method.time_steps": 5,
        "method.student": "random",
        "method.noise_probability": 0.0,
        "method.optimizer.lr": 0.1,
        "method.optimizer.weight_decay": 0.0,
        "method.scheduler.milestones": [60, 120, 160],
    },
    "heat-imagenet": {
        "model.checkpoint": "torchvision:IMAGENET1K_V1",
        "trainer.max_epochs": 1,
        "data.batch_size": 48,
        "loss.fidelity": "softmax",
        "loss.penalty_weight": 1.0,
        "method.sigma": 0.25,
        "method.time_steps": 1,
        "method.student": "copy",
        "method.noise_probability": 0.5,
        "method.optimizer.lr": 0.01,
        "method.scheduler": None,
    },
    "smoothadv-cifar10": {
        "trainer.max_epochs": 150,
        "data.batch_size": 256,
        "attack._target_": "robustsmooth.attacks.PGD",
        "attack.epsilon": 1.0,
        "attack.steps": 10,
        "attack.step_size": None,
        "attack.objective._target_": "robustsmooth.attacks.PlugIn",
        "method.copies": 8,
        "method.multi_noise": True,
        "method.warmup_epochs": 10,
        "method.scheduler.step_size": 50,
    },
    "smoothadv-imagenet": {"trainer.max_epochs": 90, "attack.steps": 1, "method.copies": 1},
    "vanilla_smoothed-cifar10": {
        "attack.objective._target_": "robustsmooth.attacks.Plain",
        "method.copies": 1,
    },
    "macer-cifar10": {
        "model.normalization": "none",
        "trainer.max_epochs": 440,
        "data.batch_size": 64,
        "loss.robust_weight": 12.0,
        "loss.inverse_temperature": 16.0,
        "loss.margin": 8.0,
        "method.copies": 16,
        "method.optimizer.lr": 0.01,
        "method.optimizer.weight_decay": 5e-4,
        "method.scheduler.milestones": [200, 400],
    },
    "consistency-cifar10": {
        "trainer.max_epochs": 150,
        "data.batch_size": 256,
        "loss.terms.consistency.weight": 20.0,
        "loss.terms.consistency.entropy_weight": 0.5,
        "method.copies": 2,
        "method.optimizer.lr": 0.1,
        "method.optimizer.weight_decay": 1e-4,
        "method.scheduler.step_size": 50,
    },
    "stability-cifar10": {
        "trainer.max_epochs": 150,
        "data.batch_size": 256,
        "loss.terms.classification.clean": True,
        "loss.terms.stability.weight": 2.0,
        "method.copies": 1,
    },
    "sodm-cifar10": {
        "trainer.max_epochs": 55,
        "loss.threshold": 0.99,
        "method.copies": 16,
        "method.mapping_copies": 128,
        "method.mapping_interval": 5,
        "method.robust_weight": 6.0,
        "method.robust_weight_factor": 10.0,
        "method.robust_weight_epoch": 35,
        "method.optimizer._target_": "torch.optim.SGD",
        "method.scheduler.milestones": [35, 50],
    },
    "sodm-mini_imagenet50": {
        "trainer.max_epochs": 40,
        "method.copies": 4,
        "method.optimizer._target_": "torch.optim.Adam",
        "method.scheduler.milestones": [30, 45],
    },
    "sodm-imagenet": {
        "trainer.max_epochs": 30,
        "method.copies": 2,
        "method.robust_weight": 2.5,
        "method.robust_weight_epoch": 25,
        "method.optimizer.lr": 0.01,
        "method.scheduler.milestones": [20, 25],
    },
    "adversarial-cifar10": {"attack.norm": "l2", "attack.epsilon": 0.5, "attack.steps": 7},
    "adversarial-imagenet": {"attack.norm": "l2", "attack.epsilon": 3.0},
    "adversarial_linf-cifar10": {"attack.norm": "linf", "attack.epsilon": 8 / 255},
}


@pytest.mark.parametrize("recipe", PAPERS)
def test_recipe(recipe, compose):
    method, data = recipe.split("-")
    config = compose("train", f"method={method}", f"data={data}")
    for key, value in PAPERS[recipe].items():
        assert OmegaConf.select(config, key, throw_on_missing=True) == value, key


IMAGENET = sorted(path.stem for path in (conf_dir() / "recipe").glob("*imagenet*.yaml"))


@pytest.mark.parametrize("recipe", IMAGENET)
def test_a_training_on_imagenet_loses_at_most_500_steps(recipe, compose):
    """An epoch takes hours, and HeatSmoothing trains for only one."""
    method, data = recipe.split("-")
    assert 0 < compose("train", f"method={method}", f"data={data}").save_every_steps <= 500


VARIANTS = {"sodm_softmax": "sodm", "heat_adversarial": "heat"}
"""Methods with a name of their own, so that one sweep can contain both."""


@pytest.mark.parametrize(
    ("variant", "data"),
    [
        (variant, path.stem.rpartition("-")[2])
        for variant, method in VARIANTS.items()
        for path in (conf_dir() / "recipe").glob(f"{method}-*.yaml")
        if not path.stem.endswith("-digits")
    ],
)
def test_a_variant_has_its_methods_recipe(variant, data, compose):
    config, base = (
        compose("train", f"method={name}", f"data={data}") for name in (variant, VARIANTS[variant])
    )
    for part in ("trainer", "data", "loss"):
        assert config[part] == base[part]
    for key in ("copies", "robust_weight", "time_steps", "student", "optimizer", "scheduler"):
        assert config.method.get(key) == base.method.get(key)


def test_heat_needs_the_adversarial_network_to_start_from(compose):
    assert compose("train", "method=heat_adversarial", "data=imagenet").model.checkpoint is None


@pytest.mark.parametrize("method", ["adversarial_linf", "vanilla_smoothed"])
def test_attacks_count_among_the_passes_that_fit_into_the_minutes(method, compose):
    config = compose("train", f"method={method}", "data=cifar10", "scale=gpu", "minutes=10")
    plain = compose("train", "method=gaussian", "data=cifar10", "scale=gpu", "minutes=10")
    assert config.trainer.max_epochs == 10 * 60 * 20000 // (config.passes * 49000)
    assert config.trainer.max_epochs < plain.trainer.max_epochs / 4
    assert config.method.scheduler.step_size == round(50 * config.trainer.max_epochs / 150)


def test_the_command_line_overrides_the_recipe(compose):
    config = compose("train", "method=heat", "data=imagenet", "loss.num_probes=6", "model.checkpoint=mine")
    assert config.loss.num_probes == 6
    assert config.method.start == "mine"
    assert compose("train", "method=sodm", "data=imagenet", "method.optimizer.lr=1").method.optimizer.lr == 1
