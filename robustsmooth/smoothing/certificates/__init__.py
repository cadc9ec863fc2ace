"""Certificates and predictions: procedures that request votes and return a record."""

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

__all__ = [
    "ABSTAIN",
    "Anytime",
    "Begun",
    "Candidate",
    "Case",
    "Certificate",
    "Certified",
    "Cohen",
    "Counts",
    "FixedRadius",
    "LBound",
    "Predict",
    "Predicted",
    "Procedure",
    "RadiusGrid",
    "Request",
    "Steps",
    "Tally",
    "TopKCertificate",
    "TopVotes",
    "TwoSided",
    "TwoStage",
    "drive",
    "l_bound",
    "largest_radius",
    "top_k_radius",
    "tabulate",
    "typical_votes",
    "unanimous",
]
