"""The statistics of robustness: bounds of counts, sequential tests, numbers over images and over seeds.

NumPy and SciPy alone, in float64 on the host. Certificates, evaluations and reports all take them from here.
"""

from robustsmooth.statistics.bounds import (
    chernoff_interval,
    clopper_pearson_lower,
    clopper_pearson_upper,
    dispersion_test,
    majority_test,
    randomized_clopper_pearson_lower,
)
from robustsmooth.statistics.images import (
    ABSTAIN,
    METHOD_TITLES,
    Contradiction,
    Distances,
    Method,
    Paired,
    Radii,
    abstention_rate,
    acr,
    agreement,
    attack_curve,
    certified_accuracy,
    certified_counts,
    contradiction,
    distance_statistics,
    envelope,
    exceedance,
    interval,
    is_correct,
    mcnemar,
    paired_acr,
    radius_statistics,
)
from robustsmooth.statistics.radii import l2_radius, linf_radius, reachable_radius
from robustsmooth.statistics.seeds import mean_and_std
from robustsmooth.statistics.sequential import SequentialPlan, looks, sequential_plan, upper_boundaries

__all__ = [
    "ABSTAIN",
    "METHOD_TITLES",
    "Contradiction",
    "Distances",
    "Method",
    "Paired",
    "Radii",
    "SequentialPlan",
    "abstention_rate",
    "acr",
    "agreement",
    "attack_curve",
    "certified_accuracy",
    "certified_counts",
    "chernoff_interval",
    "clopper_pearson_lower",
    "clopper_pearson_upper",
    "contradiction",
    "dispersion_test",
    "distance_statistics",
    "envelope",
    "exceedance",
    "interval",
    "is_correct",
    "l2_radius",
    "linf_radius",
    "looks",
    "majority_test",
    "mcnemar",
    "mean_and_std",
    "paired_acr",
    "radius_statistics",
    "randomized_clopper_pearson_lower",
    "reachable_radius",
    "sequential_plan",
    "upper_boundaries",
]
