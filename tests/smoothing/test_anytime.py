"""A bound that holds after every vote: its formula, its coverage, stopping and extending."""

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn

from robustsmooth.smoothing import (
    Anytime,
    Begun,
    Case,
    Cohen,
    GaussianNoise,
    SmoothedClassifier,
    clopper_pearson_lower,
    confidence_sequence,
    drive,
)
from tests.comparing import written

NOISE = GaussianNoise(0.25)
GIVEN = {"n0": 0, "candidate": "label"}


@pytest.mark.parametrize(("k", "n"), [(1, 3), (3, 3), (0, 5), (30, 40), (50, 100), (199, 200)])
@pytest.mark.parametrize("alpha", [0.001, 0.1])
def test_the_ends_are_where_the_averaged_likelihood_is_as_much_larger(k, n, alpha):
    low, high = confidence_sequence(k, n, alpha)
    prior = stats.beta(0.5, 0.5)
    average, _ = integrate.quad(lambda u: np.sin(u) ** (2 * k) * np.cos(u) ** (2 * (n - k)), 0, np.pi / 2)
    average *= 2 / np.pi  # p = sin(u)^2 has the density of Beta(1/2, 1/2)
    assert prior.cdf(0.5) == pytest.approx(0.5)
    for end, trivial in ((low, 0.0), (high, 1.0)):
        if end == trivial:
            assert k in (0, n)
        else:
            assert average / (end**k * (1 - end) ** (n - k)) == pytest.approx(1 / alpha, rel=1e-6)
    assert low <= k / n <= high
    assert low <= clopper_pearson_lower(k, n, alpha)


@pytest.mark.parametrize("p", [0.5, 0.9, 0.995])
def test_no_stopping_rule_makes_it_err_more_often_than_alpha(p):
    rng, runs, alpha = np.random.default_rng(0), 800, 0.05
    votes = np.unique(np.geomspace(1, 2000, 80).astype(int))
    counts = rng.binomial(np.diff(votes, prepend=0), p, size=(runs, len(votes))).cumsum(axis=1)
    low, high = confidence_sequence(counts, votes, alpha)
    # The bound is checked after every vote, and the worst one counts.
    ever = ((low > p) | (high < p)).any(axis=1).sum()
    assert ever <= stats.binom.isf(1e-5, runs, alpha)
    assert ever > 0.05 * alpha * runs
    # The same with Clopper-Pearson errs far more often.
    plain = (clopper_pearson_lower(counts, votes, alpha) > p).any(axis=1).sum()
    assert plain > 1.5 * alpha * runs


def voter(p, rng):
    def vote(request):
        successes = rng.binomial(request.votes, p)
        return np.array([successes, request.votes - successes])

    return vote


def test_it_stops_when_the_radius_is_decided_or_the_width_is_reached():
    rng, case = np.random.default_rng(0), Case(NOISE, 2, label=0)
    reached = drive(Anytime(radius=0.25, **GIVEN), case, voter(0.98, rng))
    assert reached.radius >= 0.25
    assert reached.votes < 1000
    excluded = drive(Anytime(radius=0.25, **GIVEN), case, voter(0.6, rng))
    assert excluded.radius < 0.25
    assert excluded.votes < 1000
    narrow = drive(Anytime(width=0.1, **GIVEN), case, voter(0.9, rng))
    low, high = confidence_sequence(narrow.counts[0][1], narrow.votes, 0.001)
    assert NOISE.radius(high) - NOISE.radius(low) <= 0.1
    assert narrow.votes < 5000
    whole = drive(Anytime(n=3000, **GIVEN), case, voter(0.9, rng))
    assert whole.votes == 3000
    assert str(whole.guarantee) == "l2-certificate"


def test_at_equal_votes_the_radius_is_a_few_per_cent_smaller():
    for share in (0.7, 0.9, 0.99, 1.0):
        votes = [round(100_000 * share), 100_000 - round(100_000 * share)]
        one, other = (
            drive(made(n=100_000, **GIVEN), Case(NOISE, 2, label=0), lambda _, votes=votes: np.array(votes))
            for made in (Anytime, Cohen)
        )
        assert 0.94 * other.radius < one.radius < other.radius


def test_simulated_radii_under_optional_stopping_and_extending():
    """Stop at a radius; if it is not reached, extend with ten times the votes: wrong at most alpha often."""
    rng, runs, alpha, p, wrong = np.random.default_rng(1), 60, 0.05, 0.8, 0
    true = NOISE.radius(p)
    for _ in range(runs):
        vote = voter(p, rng)
        for n in (100, 1000, 10_000):
            certificate = Anytime(n=n, radius=true + 1e-6, first_look=10, alpha=alpha, **GIVEN)
            begun = None if n == 100 else certificate.begun(record)  # noqa: F821
            record = drive(certificate, Case(NOISE, 2, label=0, begun=begun), vote)
            if record.radius > true:
                wrong += 1
                break
    assert wrong <= stats.binom.isf(1e-5, runs, alpha)


class Shade(nn.Module):
    def __init__(self, middle=0.4, persistent=True):
        super().__init__()
        self.register_buffer("middle", torch.tensor(middle), persistent)

    def forward(self, batch):
        score = batch.flatten(1)[:, 0] - self.middle
        return torch.stack([score, -score], dim=1)


def test_an_extended_run_equals_the_run_with_more_votes():
    images = torch.rand(6, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    classifier = SmoothedClassifier(Shade(), NOISE, seed=4)
    indices = [5, 3, 9, 12, 1, 0]
    few, many = Anytime(n=333, batch_size=32), Anytime(n=1200, batch_size=32)
    first = classifier.certify(images, few, indices=indices)
    extended = classifier.certify(images, many, indices=indices, previous=first)
    assert written(extended) == written(classifier.certify(images, many, indices=indices))
    assert {record.votes for record in extended} == {1300}
    fewer = classifier.certify(images, few, indices=indices, previous=extended)
    assert written(fewer) == written(extended)  # nothing to add
    fixed = classifier.certify(images, Cohen(n=100, batch_size=32), indices=indices)
    again = classifier.certify(images, Cohen(n=100, batch_size=16), indices=indices, previous=fixed)
    assert written(again) == written(fixed)  # nothing to add
    with pytest.raises(ValueError, match="`previous` must hold 6 records, got 1"):
        classifier.certify(images, many, previous=first[:1])


@pytest.mark.parametrize(
    "change",
    [
        {"certificate": Anytime(n=1200, n0=400)},  # counted votes would be drawn again
        {"certificate": Anytime(n=1200, alpha=0.01)},
        {"certificate": Anytime(n=1200, candidate="clean", n0=0)},
        {"certificate": Cohen(n=1200)},
        {"noise": GaussianNoise(1.0)},
        {"seed": 5},
        {"indices": [3, 5]},
        {"images": torch.full((2, 1, 2, 2), 0.5)},
        {"network": Shade(0.1)},
    ],
)
def test_votes_of_another_run_are_never_continued(change):
    images = torch.rand(2, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    first = SmoothedClassifier(Shade(), NOISE, seed=4).certify(images, Anytime(n=333), indices=[5, 3])
    network, noise = change.get("network", Shade()), change.get("noise", NOISE)
    classifier = SmoothedClassifier(network, noise, seed=change.get("seed", 4))
    with pytest.raises(ValueError, match=r"`previous\[0\]` is of another network, image, index, noise, seed"):
        classifier.certify(
            change.get("images", images),
            change.get("certificate", Anytime(n=1200)),
            indices=change.get("indices", [5, 3]),
            previous=first,
        )


def test_networks_are_told_apart_by_what_their_state_dict_leaves_out():
    images = torch.rand(2, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    first = SmoothedClassifier(Shade(0.4, False), NOISE).certify(images, Anytime(n=333))
    with pytest.raises(ValueError, match="is of another network"):
        SmoothedClassifier(Shade(0.1, False), NOISE).certify(images, Anytime(n=1200), previous=first)
    frozen = torch.jit.freeze(torch.jit.script(Shade().eval()))
    unknown = SmoothedClassifier(frozen, NOISE).certify(images, Anytime(n=333))
    with pytest.raises(ValueError, match="by which it is recognised, and this one has none"):
        SmoothedClassifier(frozen, NOISE).certify(images, Anytime(n=1200), previous=unknown)


def test_a_wrapped_network_is_the_same_network():
    images = torch.rand(2, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    first = SmoothedClassifier(Shade(), NOISE).certify(images, Anytime(n=333))
    wrapped = SmoothedClassifier(nn.DataParallel(Shade()), NOISE)
    assert {one.votes for one in wrapped.certify(images, Anytime(n=1200), previous=first)} == {1300}


class Blurred(GaussianNoise):
    """A user's noise, with an attribute that its inherited text does not name."""

    def __init__(self, sigma, blur):
        super().__init__(sigma)
        object.__setattr__(self, "blur", blur)


def test_equal_settings_are_continued_however_they_are_written():
    images = torch.rand(2, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    first = SmoothedClassifier(Shade(), GaussianNoise(1)).run(Anytime(n=100, alpha=0.01), images)
    for sigma, alpha in ((1.0, np.float64(0.01)), (np.float32(1), 0.01)):
        classifier = SmoothedClassifier(Shade(), GaussianNoise(sigma))
        longer = classifier.certify(images, Anytime(n=300, alpha=alpha), previous=first)
        assert {record.votes for record in longer} == {400}
    blurred = SmoothedClassifier(Shade(), Blurred(1.0, 0.0)).certify(images, Anytime(n=100))
    SmoothedClassifier(Shade(), Blurred(1.0, 0.0)).certify(images, Anytime(n=200), previous=blurred)
    for first, second in ((torch.zeros(2), torch.ones(2)), (np.zeros(2000), np.arange(2000) == 1000)):
        records = SmoothedClassifier(Shade(), Blurred(1.0, first)).certify(images, Anytime(n=100))
        with pytest.raises(ValueError, match="another network, image, index, noise"):
            SmoothedClassifier(Shade(), Blurred(1.0, second)).certify(
                images, Anytime(n=200), previous=records
            )
    with pytest.raises(ValueError, match="another network, image, index, noise"):
        SmoothedClassifier(Shade(), Blurred(1.0, 0.5)).certify(images, Anytime(n=200), previous=blurred)


def test_votes_on_an_image_end_when_nothing_more_can_be_decided():
    begun = Begun(0, ((0, 980), (1, 20)), 1000)
    assert Anytime(n=2000).goes_on(begun, NOISE)
    assert not Anytime(n=1000).goes_on(begun, NOISE)
    assert not Anytime(n=2000, radius=0.25).goes_on(begun, NOISE)
    assert Anytime(n=2000, radius=0.5).goes_on(begun, NOISE)
    assert not Cohen(n=2000).goes_on(begun, NOISE)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"radius": 0.0}, "`radius` must be a positive number"),
        ({"width": float("nan")}, "`width` must be a positive number"),
        ({"growth": 1.0}, "`growth` must be above 1"),
        ({"n": 0}, "`n` must be a whole number"),
    ],
)
def test_nonsense_is_refused(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        Anytime(**wrong)
