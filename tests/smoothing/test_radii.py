"""Certified accuracies at several radii from one sequence of votes: error probability, votes, table."""

import numpy as np
import pytest
from scipy import stats

from robustsmooth.smoothing import (
    ABSTAIN,
    Case,
    Cohen,
    FixedRadius,
    GaussianNoise,
    NoNoise,
    RadiusGrid,
    UniformNoise,
    drive,
    largest_radius,
    unanimous,
)
from robustsmooth.smoothing.certificates.radii import _tests
from robustsmooth.statistics import detectable_probability, looks, table_plan
from robustsmooth.statistics.sequential import _shares

SIGMA = 0.25
NOISE = GaussianNoise(SIGMA)
GIVEN = {"n0": 0, "candidate": "label"}


def voter(p, rng):
    """Votes of a binary classifier whose class 0 has probability p."""

    def vote(request):
        successes = rng.binomial(request.votes, p)
        return np.array([successes, request.votes - successes])

    return vote


def chances(p, certificate, noise=NOISE):
    """Exact P(radius = ...) of the certificate where the candidate has probability p, by recursion.

    The state is what the stopping rule uses: the count, the tests that have concluded, those given up.
    """
    grid = certificate.only_radii(noise)
    rules = (certificate.n, certificate.alpha, certificate.beta, certificate.first_look, certificate.growth)
    plan, accept, give_up = _tests(tuple(noise.probability(radius) for radius in grid), *rules)
    nothing = (False,) * len(grid)
    alive, ended, drawn = {(0, nothing, nothing): 1.0}, np.zeros(len(grid) + 1), 0
    for at, look in enumerate(plan):
        step, drawn = look - drawn, look
        pmf = stats.binom.pmf(np.arange(step + 1), step, p)
        after = {}
        for (count, concluded, given), mass in alive.items():
            for more, chance in enumerate(pmf):
                total = count + more
                now = tuple(a or total >= b for a, b in zip(concluded, accept[at], strict=True))
                up = tuple(a or total <= b for a, b in zip(given, give_up[at], strict=True))
                state = (total, now, up)
                after[state] = after.get(state, 0.0) + mass * chance
        alive = {}
        for (count, concluded, given), mass in after.items():
            passed = next((place for place, one in enumerate(concluded) if not one), len(grid))
            if passed == len(grid) or given[passed] or look == plan[-1]:
                ended[passed] += mass
            else:
                alive[count, concluded, given] = mass
    return ended


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_a_radius_that_is_too_large_has_probability_alpha_at_most_exactly(alpha):
    certificate = RadiusGrid(
        radii=[0.0, 0.1, 0.2, 0.3], n=80, first_look=10, growth=1.4, alpha=alpha, **GIVEN
    )
    for wrong, radius in enumerate(certificate.radii):
        # At the edge of a hypothesis, where its test errs most, and between two edges.
        for p in (NOISE.probability(radius), NOISE.probability(radius) - 0.02):
            too_large = chances(p, certificate)[wrong + 1 :].sum()
            assert too_large <= alpha
    edge = chances(NOISE.probability(0.1), certificate)[2:].sum()
    assert edge > 0.4 * alpha  # and nearly all of alpha is used


def test_the_recursion_is_what_the_procedure_does():
    certificate = RadiusGrid(radii=[0.0, 0.2], n=80, first_look=10, growth=1.4, alpha=0.05, **GIVEN)
    rng, p, runs = np.random.default_rng(0), 0.8, 2000
    found = [drive(certificate, Case(NOISE, 2, label=0), voter(p, rng)) for _ in range(runs)]
    exact = chances(p, certificate)
    for place, (prediction, radius) in enumerate([(ABSTAIN, 0.0), (0, 0.0), (0, 0.2)]):
        hits = sum((item.prediction, item.radius) == (prediction, radius) for item in found)
        assert abs(hits - runs * exact[place]) < 4.5 * np.sqrt(runs * exact[place] * (1 - exact[place])) + 1


@pytest.mark.parametrize("place", [0, 1, 2, 3, 4])
def test_simulated_on_each_edge_with_a_real_plan(place):
    certificate = RadiusGrid(n=3000, first_look=50, growth=1.2, alpha=0.05, **GIVEN)
    grid = certificate.only_radii(NOISE)
    assert grid == (0.0, 0.25, 0.5, 0.75)
    # Every radius of the last one is true: no claim can be wrong, and none is missed.
    p = 0.99999 if place == len(grid) else NOISE.probability(grid[place])
    rng, runs = np.random.default_rng(place), 600
    records = [drive(certificate, Case(NOISE, 2, label=0), voter(p, rng)) for _ in range(runs)]
    true = NOISE.radius(p)
    wrong = sum(record.prediction == 0 and record.radius > true - 1e-9 for record in records)
    if place == len(grid):
        assert np.mean([record.radius == 0.75 for record in records]) > 0.9
    else:
        assert wrong <= stats.binom.isf(1e-5, runs, 0.05)


def test_a_single_radius_gives_the_result_of_fixed_radius():
    one = unanimous(RadiusGrid(radii=[0.5]), NOISE)
    other = unanimous(FixedRadius(radius=0.5), NOISE)
    assert (one.radius, one.p_a_lower, one.prediction) == (other.radius, other.p_a_lower, other.prediction)


def test_records_by_hand():
    certificate = RadiusGrid(radii=[0.0, 0.25, 0.5], n=20_000)
    rng, case = np.random.default_rng(0), Case(NOISE, 2)
    far = drive(certificate, case, voter(0.9999, rng))
    assert (far.prediction, far.radius, far.outcome) == (0, 0.5, "certified")
    assert far.p_a_lower == NOISE.probability(0.5)
    between = drive(certificate, case, voter(0.92, rng))
    assert (between.prediction, between.radius) == (0, 0.25)
    assert between.votes < 3000
    majority = drive(certificate, case, voter(0.6, rng))
    assert (majority.prediction, majority.radius, majority.outcome) == (0, 0.0, "certified")
    assert majority.p_a_lower == NOISE.probability(0.0)
    none = drive(RadiusGrid(n=20_000, **GIVEN), Case(NOISE, 2, label=0), voter(0.45, rng))
    assert (none.prediction, none.radius, none.outcome, none.p_a_lower) == (ABSTAIN, 0.0, "abstained", 0.0)
    assert str(none.guarantee) == "l2-at-radii-certificate"


def published_like(count, rng):
    """Probabilities that spread like those of published networks on CIFAR-10 at sigma 0.25.

    z = radius / sigma of the images of Cohen's network: certified accuracy at 0, 0.25, 0.5, 0.75 of 77, 61,
    43 and 25 %, the rest wrong with small radii or undecided.
    """
    z = np.interp(rng.random(count), [0, 0.08, 0.35, 0.57, 0.75, 1], [-0.5, 0.02, 1, 2, 3, 5.4])
    return stats.norm.cdf(z)


def test_the_same_table_for_at_least_four_times_fewer_votes():
    rng, case = np.random.default_rng(3), Case(NOISE, 2, label=0)
    fixed, quick = Cohen(n=100_000, **GIVEN), RadiusGrid(n=100_000, **GIVEN)
    grid = quick.only_radii(NOISE)
    votes, differences, images = 0, np.zeros(len(grid)), 300
    for p in published_like(images, rng):
        sure, found = drive(fixed, case, voter(p, rng)), drive(quick, case, voter(p, rng))
        votes += found.votes
        for place, radius in enumerate(grid):
            one = sure.prediction != ABSTAIN and sure.radius >= radius
            other = found.prediction != ABSTAIN and found.radius >= radius
            differences[place] += one != other
    assert differences.max() <= 0.01 * images
    assert votes / images < 100_100 / 6


def test_a_radius_that_all_votes_would_certify_is_given_up_beta_often_at_most():
    n, alpha, beta = 2000, 0.01, 0.05
    for p0 in (0.5, 0.84, 0.977):
        p1 = detectable_probability(p0, n, alpha, beta)
        needed = next(k for k in range(n) if stats.binom.sf(k - 1, n, p0) <= alpha)
        assert stats.binom.cdf(needed - 1, n, p1) == pytest.approx(beta)
        plan = table_plan(p0, n, alpha, beta)
        mass, drawn, given_up = np.ones(1), 0, 0.0
        for look, low in zip(plan.looks, plan.refute, strict=True):
            mass = np.convolve(mass, stats.binom.pmf(np.arange(look - drawn + 1), look - drawn, p1))
            given_up += mass[: max(low + 1, 0)].sum()
            mass[: max(low + 1, 0)] = 0
            drawn = look
        assert 0.3 * beta < given_up <= beta


def test_the_default_grid_ends_where_the_votes_do():
    assert RadiusGrid().only_radii(NOISE) == (0.0, 0.25, 0.5, 0.75)
    assert RadiusGrid(n=1000).only_radii(GaussianNoise(0.5)) == (0.0, 0.25, 0.5, 0.75, 1.0)
    for n in (100, 1000, 5000):
        certificate = RadiusGrid(n=n)
        grid = certificate.only_radii(NOISE)
        assert largest_radius(certificate, NOISE) == grid[-1]
    assert RadiusGrid(n=5, first_look=5).only_radii(NOISE) == (0.0,)
    assert unanimous(RadiusGrid(n=5, first_look=5), NOISE).prediction == ABSTAIN
    uniform = RadiusGrid(n=1000).only_radii(UniformNoise(0.5))
    assert uniform[-1] < 2 * UniformNoise(0.5).half_width / 2
    assert unanimous(RadiusGrid(), NoNoise()).prediction == ABSTAIN


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: RadiusGrid(radii=[]), "`radii` must ascend"),
        (lambda: RadiusGrid(radii=[0.5, 0.25]), "`radii` must ascend"),
        (lambda: RadiusGrid(radii=[0.25, 0.25]), "`radii` must ascend"),
        (lambda: RadiusGrid(radii=[-0.25]), "`radii` must ascend"),
        (lambda: RadiusGrid(radii=[float("nan")]), "`radii` must ascend"),
        (lambda: RadiusGrid(beta=0.0), "`beta` must be in"),
        (lambda: RadiusGrid(growth=1.0), "`growth` must be above 1"),
        (lambda: RadiusGrid(first_look=0), "`first_look` must be"),
        (
            lambda: unanimous(RadiusGrid(radii=[0.25, 1.0]), NOISE),
            r"radius=1 cannot .* largest possible is 0\.95",
        ),
    ],
)
def test_nonsense_is_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_root_spending_adds_up_to_the_budget():
    plan = looks(1000)
    for spending in ("halves", "root"):
        assert _shares(spending, plan).sum() == pytest.approx(1)
        assert (_shares(spending, plan) > 0).all()
