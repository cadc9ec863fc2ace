"""Attacks: one family of optimisers times objectives, for training and for evaluation.

An attack is an optimiser (`FGSM`, `PGD`, `DDN`, or one from a library) with an objective, the gradient
it follows (`Plain`, `PlugIn`, `Expectation`, `Stein`). The papers' attacks are points in the product:
SmoothAdv_PGD is `PGD` with `PlugIn`, EPGD is `PGD` with `Expectation`.
"""

from robustsmooth.attacks.base import Attack
from robustsmooth.attacks.ddn import DDN
from robustsmooth.attacks.geometry import Norm, distance, project
from robustsmooth.attacks.library import AutoAttack, CarliniWagner
from robustsmooth.attacks.noise_pgd import NoisePGD
from robustsmooth.attacks.objectives import Expectation, Network, Objective, Plain, PlugIn, Stein
from robustsmooth.attacks.pgd import FGSM, PGD

__all__ = [
    "Attack",
    "AutoAttack",
    "CarliniWagner",
    "DDN",
    "Expectation",
    "FGSM",
    "Network",
    "NoisePGD",
    "Norm",
    "Objective",
    "PGD",
    "Plain",
    "PlugIn",
    "Stein",
    "distance",
    "project",
]
