"""Guarantees are values; logs contain them as text."""

import pytest

from robustsmooth.smoothing import (
    Cohen,
    FixedRadius,
    GaussianNoise,
    LBound,
    TopKCertificate,
    TopVotes,
    UniformNoise,
)
from robustsmooth.statistics import Guarantee

TEXTS = [
    *("l2-certificate", "l1-certificate", "l2-at-radius-certificate", "l2-at-radii-certificate"),
    *("l2-top5-certificate", "l1-top5-votes-certificate", "none-certificate"),
    *("l2-lbound-assumed", "l2-lbound-exact", "l2-lbound-estimate"),
]
"""All guarantees that our logs have contained so far."""


@pytest.mark.parametrize("text", TEXTS)
def test_guarantees_are_read_back_from_logs(text):
    assert str(Guarantee.parse(text)) == text


@pytest.mark.parametrize("text", ["", "l2", "certificate", "l3-certificate", "l2-hope"])
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match="a guarantee is a norm, a statement and"):
        Guarantee.parse(text)


def test_certificates_say_what_they_guarantee():
    gaussian, uniform = GaussianNoise(0.25), UniformNoise(0.25)
    assert Cohen().guarantee(gaussian) == Guarantee()
    assert Cohen().guarantee(uniform) == Guarantee("l1")
    assert FixedRadius(radius=0.1).guarantee(gaussian).at_some_radii
    assert TopKCertificate(k=3).guarantee(gaussian) == Guarantee("l2", statement="top3")
    assert TopVotes(k=5).guarantee(uniform) == Guarantee("l1", statement="top5-votes")


@pytest.mark.parametrize(
    ("scores", "kind"),
    [
        ("assumed", "assumption"),
        ("exact", "certificate"),
        ("monte_carlo", "certificate"),
        ("estimate", "estimate"),
    ],
)
def test_certificates_have_no_caveat_and_others_do(scores, kind):
    votes = {"n": 10} if scores in ("monte_carlo", "estimate") else {}
    guarantee = LBound(scores=scores, **votes).guarantee(GaussianNoise(0.25))
    assert (guarantee.kind, guarantee.statement) == (kind, "lbound")
    assert ("No certificate" in guarantee.caveat) == (kind != "certificate")
    assert not guarantee.usual
