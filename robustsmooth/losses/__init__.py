"""Pure training losses: tensors in, scalars out; one file per paper."""

from robustsmooth.losses.averaging import at_least_float32, log_average, log_mean_exp
from robustsmooth.losses.cat_rs import bottom_cross_entropy, worst_divergence
from robustsmooth.losses.consistency import Consistency
from robustsmooth.losses.copies import CopiesLoss, CrossEntropy, Terms, mean_terms
from robustsmooth.losses.heat import HeatLoss, directions, fidelity, gaussian_probes, jacobian_penalty
from robustsmooth.losses.heat_line import boundary_distance, heat_steps
from robustsmooth.losses.macer import MACERLoss, radius_hinge
from robustsmooth.losses.mappings import DynamicMapping, SoftmaxMapping
from robustsmooth.losses.smoothmix import mixing_divergence
from robustsmooth.losses.sodm import SODMLoss
from robustsmooth.losses.stability import Stability

__all__ = [
    "Consistency",
    "CopiesLoss",
    "CrossEntropy",
    "DynamicMapping",
    "HeatLoss",
    "MACERLoss",
    "SODMLoss",
    "SoftmaxMapping",
    "Stability",
    "Terms",
    "at_least_float32",
    "bottom_cross_entropy",
    "boundary_distance",
    "directions",
    "fidelity",
    "gaussian_probes",
    "heat_steps",
    "jacobian_penalty",
    "log_average",
    "log_mean_exp",
    "mean_terms",
    "mixing_divergence",
    "radius_hinge",
    "worst_divergence",
]
