"""The configs have a key for every setting of an attack, and one config for every attack of the papers."""

import dataclasses

import pytest

from robustsmooth.attacks import (
    DDN,
    FGSM,
    PGD,
    AutoAttack,
    CarliniWagner,
    Expectation,
    Plain,
    PlugIn,
    Stein,
)
from robustsmooth.commands import conf_dir
from robustsmooth.instantiation import instantiate

NAMED = {
    "fgsm": (FGSM, "linf", Plain),
    "pgd_l2": (PGD, "l2", Plain),
    "pgd_linf": (PGD, "linf", Plain),
    "ddn": (DDN, "l2", Plain),
    "smoothadv_pgd": (PGD, "l2", PlugIn),
    "smoothadv_ddn": (DDN, "l2", PlugIn),
    "pgd_noisy": (PGD, "linf", Expectation),
    "epgd": (PGD, "linf", Expectation),
    "stein": (PGD, "l2", Stein),
    "carlini_wagner": (CarliniWagner, "l2", Plain),
    "autoattack": (AutoAttack, "l2", Plain),
    "smoothmix": (PGD, "l2", PlugIn),
}
NOISES = {"noise_cat_rs", "noise_sun2025"}
"""Attacks on the noise; see test_noise_pgd.py."""


def test_every_config_is_tested_here():
    assert {path.stem for path in conf_dir().glob("attack/*.yaml")} == NAMED.keys() | NOISES


@pytest.mark.parametrize("name", NAMED)
def test_a_config_names_its_attack_and_every_setting(compose, name):
    cfg = compose("train", f"attack={name}").attack
    attack = instantiate(cfg)
    kind, norm, objective = NAMED[name]
    assert (type(attack), attack.norm, type(attack.objective)) == (kind, norm, objective)
    settings = {field.name for field in dataclasses.fields(kind) if field.init}
    assert set(cfg) - {"_target_"} == settings - {"noise"}  # filled in by the caller


@pytest.mark.parametrize("objective", ["plain", "plug_in", "expectation", "stein"])
@pytest.mark.parametrize("name", ["pgd_l2", "pgd_linf", "ddn", "fgsm"])
def test_any_optimiser_goes_with_any_objective(compose, name, objective):
    attack = instantiate(compose("train", f"attack={name}", f"attack/objective={objective}").attack)
    assert type(attack) is NAMED[name][0]
    assert type(attack.objective).__name__.lower() == objective.replace("_", "")


def test_the_attacks_of_cpni_draw_new_noise_in_every_pass(compose):
    """Nemcovsky et al., section 3.4: one draw per step for PGD, eight for EPGD."""
    for name, copies in (("pgd_noisy", 1), ("epgd", 8)):
        attack = instantiate(compose("train", f"attack={name}", "attack.epsilon=0.1").attack)
        assert (attack.num_noise, attack.fixed_noise, attack.sigma) == (copies, False, None)
        assert attack.step_size == pytest.approx(0.025)


def test_epgds_step_is_a_quarter_of_its_budget(compose):
    cfg = compose("train", "attack=epgd", "attack.epsilon=0.1")
    assert instantiate(cfg.attack).step_size == pytest.approx(0.025)
    assert instantiate(compose("train", "attack=epgd").attack).epsilon == 8 / 255
