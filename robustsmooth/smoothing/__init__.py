"""Randomized smoothing itself: noise, votes and certificates; their statistics are `robustsmooth.statistics`.

Needs torch and scipy only; nothing here depends on training, files or configs.
"""

from robustsmooth.smoothing.addressing import (
    BatchRandomness,
    ImageRandomness,
    Randomness,
    address,
    fingerprint,
    generator,
)
from robustsmooth.smoothing.ballots import (
    Ballot,
    HardVote,
    RankVote,
    RunnerUpVote,
    SoftVote,
    TopVote,
    answers,
    contains_label,
)
from robustsmooth.smoothing.certificates.adaptive import FixedRadius, TwoStage
from robustsmooth.smoothing.certificates.anytime import Anytime
from robustsmooth.smoothing.certificates.base import (
    ABSTAIN,
    Begun,
    Candidate,
    Case,
    Certificate,
    Certified,
    Counts,
    Procedure,
    Request,
    Steps,
    drive,
    largest_radius,
    tabulate,
    typical_votes,
    unanimous,
)
from robustsmooth.smoothing.certificates.fixed import Cohen, TopKCertificate, TopVotes, TwoSided, top_k_radius
from robustsmooth.smoothing.certificates.lipschitz import LBound, l_bound
from robustsmooth.smoothing.certificates.prediction import Predict, Predicted, Tally
from robustsmooth.smoothing.certificates.radii import RadiusGrid
from robustsmooth.smoothing.checks import check_images, check_network, check_noise
from robustsmooth.smoothing.classifier import SmoothedClassifier
from robustsmooth.smoothing.engine import Finished, VoteEngine
from robustsmooth.smoothing.inference import SmoothedInference, running_votes
from robustsmooth.smoothing.noise import BLOCK, GaussianNoise, GridGaussianNoise, Noise, NoNoise, UniformNoise
from robustsmooth.smoothing.numerics import Forward, Numerics
from robustsmooth.smoothing.tuning import Tuning, tune
from robustsmooth.statistics import (
    SequentialPlan,
    chernoff_interval,
    clopper_pearson_lower,
    clopper_pearson_upper,
    confidence_sequence,
    dispersion_test,
    linf_radius,
    looks,
    majority_test,
    randomized_clopper_pearson_lower,
    reachable_radius,
    sequential_plan,
    upper_boundaries,
)

__all__ = [
    "ABSTAIN",
    "Anytime",
    "BLOCK",
    "Ballot",
    "BatchRandomness",
    "Begun",
    "Candidate",
    "Case",
    "Certificate",
    "Certified",
    "Cohen",
    "Counts",
    "Finished",
    "FixedRadius",
    "Forward",
    "GaussianNoise",
    "GridGaussianNoise",
    "HardVote",
    "ImageRandomness",
    "LBound",
    "NoNoise",
    "Noise",
    "Numerics",
    "Predict",
    "Predicted",
    "Procedure",
    "RadiusGrid",
    "Randomness",
    "RankVote",
    "Request",
    "RunnerUpVote",
    "SequentialPlan",
    "SmoothedClassifier",
    "SmoothedInference",
    "SoftVote",
    "Steps",
    "Tally",
    "TopKCertificate",
    "TopVote",
    "TopVotes",
    "Tuning",
    "TwoSided",
    "TwoStage",
    "UniformNoise",
    "VoteEngine",
    "address",
    "answers",
    "check_images",
    "check_network",
    "check_noise",
    "chernoff_interval",
    "clopper_pearson_lower",
    "clopper_pearson_upper",
    "confidence_sequence",
    "contains_label",
    "dispersion_test",
    "drive",
    "fingerprint",
    "generator",
    "l_bound",
    "largest_radius",
    "linf_radius",
    "looks",
    "majority_test",
    "randomized_clopper_pearson_lower",
    "reachable_radius",
    "running_votes",
    "sequential_plan",
    "top_k_radius",
    "tune",
    "tabulate",
    "typical_votes",
    "unanimous",
    "upper_boundaries",
]
