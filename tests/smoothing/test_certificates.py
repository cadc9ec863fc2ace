"""Every certificate against classifiers whose exact radius is known.

The classifiers depend on one number z, the projection of the image on a unit vector; classes are
intervals of z. With one edge this is a linear classifier, whose exact radius is its distance to the
edge, |w.x + b| / ||w||. With several, the exact radius is found by walking along z.
"""

import math
import re
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from robustsmooth.smoothing import (
    ABSTAIN,
    Anytime,
    Case,
    Cohen,
    FixedRadius,
    GaussianNoise,
    LBound,
    NoNoise,
    Predict,
    RadiusGrid,
    Request,
    TopKCertificate,
    TopVotes,
    TwoSided,
    TwoStage,
    UniformNoise,
    chernoff_interval,
    clopper_pearson_lower,
    drive,
    l_bound,
    largest_radius,
    tabulate,
    top_k_radius,
    unanimous,
)
from robustsmooth.smoothing.ballots import SCORE_UNIT, SoftVote
from tests.comparing import written

SIGMA = 0.5
NOISE = GaussianNoise(SIGMA)


class Line:
    """Intervals of z, each with its order of classes; noise N(0, sigma²)."""

    def __init__(self, edges, orders):
        self.edges, self.orders = np.array([-np.inf, *edges, np.inf]), orders
        self.classes = len(orders[0])

    def shares(self, z):
        """Probability of each interval under noise."""
        return np.diff(special.ndtr((self.edges - z) / SIGMA))

    def membership(self, k):
        """(intervals, classes): whether a class is among the first k of an interval."""
        return np.array([[label in order[:k] for label in range(self.classes)] for order in self.orders])

    def top(self, z):
        """The smoothed classifier's answer."""
        return int(np.argmax(self.shares(z) @ self.membership(1)))

    def radius(self, z, holds):
        """Smallest distance at which `holds(z)` is false."""
        steps = np.linspace(0, 4, 8001)
        for step in steps:
            if not (holds(z + step) and holds(z - step)):
                return step
        return np.inf

    def voter(self, z, rng, k=1):
        """Counts of new votes; without noise, the answer of the classifier at z itself."""
        shares, members = self.shares(z), self.membership(k).astype(np.int64)
        here = int(np.searchsorted(self.edges, z)) - 1

        def vote(request):
            if not request.noisy:
                return members[here] * request.votes
            return rng.multinomial(request.votes, shares) @ members

        return vote


LINEAR = Line([0.0], [(1, 0), (0, 1)])
THREE = Line([-0.35, 0.4], [(1, 0, 2), (0, 1, 2), (2, 0, 1)])
CERTIFICATES = {
    "cohen": Cohen(n0=20, n=150, alpha=0.05),
    "cohen_randomized": Cohen(n0=20, n=150, alpha=0.05, randomized=True),
    "given_class": Cohen(n0=0, n=150, alpha=0.05, candidate="clean"),
    "given_label": Cohen(n0=0, n=150, alpha=0.05, candidate="label"),
    "two_sided": TwoSided(n0=20, n=150, alpha=0.05),
    "topk": TopKCertificate(k=1, n0=20, n=150, alpha=0.05),
    "top_votes": TopVotes(k=1, n0=20, n=150, alpha=0.05),
    "two_stage": TwoStage(n0=30, n=400, cost=1e-4, alpha=0.05),
    "l_bound": LBound(scores="monte_carlo", n=150, alpha=0.05),
}
SLOW = ("cohen_randomized", "l_bound")
RUNS = 1000


def tolerated(runs):
    """More failures than this have probability 1e-5, if each has probability alpha."""
    return int(stats.binom.isf(1e-5, runs, 0.05))


TOLERATED = tolerated(RUNS)


def scores(vote):
    """Votes as soft scores: the classifier gives all of its score to one class."""
    return lambda request: vote(request) * SCORE_UNIT


def failures(certificate, line, z, exact, k=1, label=0, runs=RUNS):
    """The number of runs that claim more than is true."""
    rng, failed = np.random.default_rng(0), 0
    for run in range(runs):
        vote = line.voter(z, rng, k)
        if isinstance(certificate.ballot, SoftVote):
            vote = scores(vote)
        record = drive(certificate, Case(NOISE, line.classes, label, index=run), vote)
        assert (record.prediction == ABSTAIN) == (record.radius == 0.0)
        failed += record.radius > exact(record.prediction) if record.prediction != ABSTAIN else 0
    return failed


@pytest.mark.parametrize("name", CERTIFICATES)
@pytest.mark.parametrize("z", [0.02, 0.4])
def test_the_radius_on_a_linear_classifier_is_exceeded_at_most_alpha_often(name, z):
    runs = 300 if name in SLOW else RUNS

    def exact(prediction):
        return z if prediction == 0 else 0.0

    assert failures(CERTIFICATES[name], LINEAR, z, exact, runs=runs) <= tolerated(runs)


@pytest.mark.parametrize("name", ["cohen", "two_sided", "topk", "two_stage", "l_bound"])
@pytest.mark.parametrize("z", [0.0, 0.3])
def test_the_radius_with_three_classes_is_exceeded_at_most_alpha_often(name, z):
    exact = {label: THREE.radius(z, lambda at, label=label: THREE.top(at) == label) for label in range(3)}
    runs = 300 if name in SLOW else RUNS
    assert failures(CERTIFICATES[name], THREE, z, exact.__getitem__, runs=runs) <= tolerated(runs)


@pytest.mark.parametrize("z", [0.0, 0.45])
@pytest.mark.parametrize("label", [0, 1, 2])
def test_the_top_k_radius_is_exceeded_at_most_alpha_often(z, label):
    def among_two(at):
        probabilities = THREE.shares(at) @ THREE.membership(1)
        return np.sum(probabilities > probabilities[label]) < 2

    exact = THREE.radius(z, among_two)
    certificate = TopKCertificate(k=2, n0=0, n=150, alpha=0.05, candidate="label")
    assert failures(certificate, THREE, z, lambda prediction: exact, label=label) <= TOLERATED


@pytest.mark.parametrize("z", [0.0, 0.45])
@pytest.mark.parametrize("label", [0, 1, 2])
def test_the_radius_of_top_votes_is_exceeded_at_most_alpha_often(z, label):
    exact = THREE.radius(z, lambda at: (THREE.shares(at) @ THREE.membership(2))[label] > 0.5)
    certificate = TopVotes(k=2, n0=0, n=150, alpha=0.05, candidate="label")
    assert failures(certificate, THREE, z, lambda prediction: exact, k=2, label=label) <= TOLERATED


def test_the_coverage_tests_notice_a_wrong_certificate():
    too_bold = replace(CERTIFICATES["cohen"], alpha=0.12)
    assert failures(too_bold, LINEAR, 0.4, lambda prediction: 0.4 if prediction == 0 else 0.0) > TOLERATED


class Reusing(TwoStage):
    """The published ISC code: the pilot votes count again in the bound."""

    def steps(self, case):
        candidate, pilot = yield from self.select(case)
        votes = self.plan(int(pilot[candidate]))
        counts = pilot + (yield Request("estimate", votes))
        lower = float(clopper_pearson_lower(counts[candidate], votes + self.n0, self.alpha))
        return self.conclude(case, candidate, counts, votes, case.noise.radius(lower), p_a_lower=lower)


def test_reusing_the_pilot_errs_more_often_than_fresh_votes():
    # On the edge every claim is wrong, and the count of the pilot's winner is biased upwards.
    certificate = Reusing(n0=1000, n=400, alpha=0.05)
    assert failures(certificate, LINEAR, 0.0, lambda prediction: 0.0) > TOLERATED
    honest = TwoStage(n0=1000, n=400, alpha=0.05)
    assert failures(honest, LINEAR, 0.0, lambda prediction: 0.0) <= TOLERATED


@pytest.mark.parametrize("z", [0.1, 0.5])
def test_fixed_radius_certifies_at_its_boundary_at_most_alpha_often(z):
    certificate = FixedRadius(radius=z, n0=20, n=2000, alpha=0.05, beta=0.05, first_look=20)
    failed = failures(certificate, LINEAR, z - 1e-9, lambda prediction: z - 1e-9)
    assert failed <= TOLERATED
    assert failed > 0.5 * 0.05 * RUNS  # and uses at least half of alpha


def test_fixed_radius_decides_early_and_records_how():
    certificate = FixedRadius(radius=0.25, n0=20, n=100_000)
    rng = np.random.default_rng(0)
    clear = drive(certificate, Case(NOISE, 2), LINEAR.voter(0.9, rng))
    assert (clear.outcome, clear.radius, clear.prediction) == ("certified", 0.25, 0)
    assert clear.votes < 1000
    hopeless = drive(certificate, Case(NOISE, 2), LINEAR.voter(0.02, rng))
    assert (hopeless.outcome, hopeless.radius, hopeless.prediction) == ("refuted", 0.0, ABSTAIN)
    assert hopeless.votes < 2000
    assert str(clear.guarantee) == "l2-at-radius-certificate"
    close = drive(replace(certificate, n=500), Case(NOISE, 2), LINEAR.voter(0.25, rng))
    assert close.outcome == "abstained"
    assert close.votes == 520


def test_fixed_radius_agrees_with_fixed_n_for_far_fewer_votes():
    radius, rng = 0.25, np.random.default_rng(1)
    distances = rng.uniform(-0.2, 1.5, size=150)
    fixed, adaptive = Cohen(n=100_000), FixedRadius(radius=radius, n=100_000)
    votes, disagreements = 0, 0
    for z in distances:
        case = Case(NOISE, 2)
        sure = drive(fixed, case, LINEAR.voter(z, rng))
        quick = drive(adaptive, case, LINEAR.voter(z, rng))
        votes += quick.votes
        disagreements += (sure.radius >= radius) != (quick.radius >= radius)
    assert disagreements <= 1
    assert votes / len(distances) < 100_100 / 10


def test_two_stage_needs_fewer_votes_at_equal_acr():
    # As in published logs: a quarter of the images is certain, the others are spread.
    rng, case = np.random.default_rng(2), Case(NOISE, 2)
    distances = np.where(rng.random(800) < 0.25, 5.0, rng.normal(1.2, 1.3, 800)) * SIGMA
    adaptive = [drive(TwoStage(), case, LINEAR.voter(z, rng)) for z in distances]
    acr, votes = (
        np.mean([record.radius for record in adaptive]),
        np.mean([record.votes for record in adaptive]),
    )
    fixed = Cohen(n=round(1.3 * votes))
    assert acr > np.mean([drive(fixed, case, LINEAR.voter(z, rng)).radius for z in distances])


# ---------------------------------------------------------------------- single facts


def votes_of(*counts):
    """A voter that answers every request with the same shares."""
    counts = np.array(counts)
    return lambda request: counts * request.votes // counts.sum()


def test_cohen_by_hand():
    record = drive(Cohen(n0=10, n=1000, alpha=0.001), Case(NOISE, 3), votes_of(900, 80, 20))
    lower = stats.binomtest(900, 1000).proportion_ci(0.998, "exact").low
    assert record.prediction == record.candidate == 0
    assert record.p_a_lower == pytest.approx(lower)
    assert record.radius == pytest.approx(SIGMA * stats.norm.ppf(lower))
    assert record.votes == 1010
    assert record.counts == ((0, 900), (1, 80), (2, 20))
    assert (str(record.guarantee), record.alpha, record.sigma) == ("l2-certificate", 0.001, SIGMA)
    assert math.isnan(record.uniform)


def test_cohen_abstains_without_a_majority():
    record = drive(Cohen(n0=10, n=1000), Case(NOISE, 3), votes_of(45, 30, 25))
    assert (record.prediction, record.radius, record.outcome) == (ABSTAIN, 0.0, "abstained")
    assert record.p_a_lower > 0  # the estimate is kept


def test_two_sided_certifies_without_a_majority():
    record = drive(TwoSided(n0=10, n=10_000), Case(NOISE, 3), votes_of(45, 30, 25))
    assert record.prediction == 0
    upper = stats.binomtest(3000, 10_000).proportion_ci(0.999, "exact").high
    assert record.p_b_upper == pytest.approx(upper)
    assert record.radius == pytest.approx(
        SIGMA / 2 * (stats.norm.ppf(record.p_a_lower) - stats.norm.ppf(upper))
    )


def test_the_candidate_is_selected_by_votes_of_its_own():
    seen = []

    def vote(request):
        seen.append((request.purpose, request.votes, request.noisy))
        return np.array([10, 0]) if request.purpose == "select" else np.array([0, 100])

    record = drive(Cohen(n0=10, n=100), Case(NOISE, 2), vote)
    assert record.candidate == 0  # although all votes of the estimate are for the other
    assert seen == [("select", 10, True), ("estimate", 100, True)]


def test_a_given_class_costs_no_selection():
    seen = []

    def vote(request):
        seen.append((request.purpose, request.votes, request.noisy))
        return np.array([0, request.votes])

    assert drive(Cohen(n0=0, n=100, candidate="clean"), Case(NOISE, 2), vote).candidate == 1
    assert seen == [("clean", 1, False), ("estimate", 100, True)]
    assert drive(Cohen(n0=0, n=100, candidate="label"), Case(NOISE, 2, label=0), vote).candidate == 0
    for label in (-1, 2):
        with pytest.raises(ValueError, match=rf"needs the images' labels, in \[0, 2\), got {label}"):
            drive(Cohen(n0=0, n=100, candidate="label"), Case(NOISE, 2, label=label), vote)


def test_the_randomised_bound_logs_its_number_and_is_addressed():
    certificate = Cohen(n0=10, n=100, randomized=True)
    first, again, other = (
        drive(certificate, Case(NOISE, 2, index=index, seed=1), votes_of(9, 1)) for index in (5, 5, 6)
    )
    assert 0 <= first.uniform < 1
    assert written(first) == written(again)
    assert other.uniform != first.uniform
    plain = drive(Cohen(n0=10, n=100), Case(NOISE, 2), votes_of(9, 1))
    assert first.radius >= plain.radius


def test_uniform_noise_certifies_in_l1():
    noise = UniformNoise(1 / math.sqrt(3))
    record = drive(Cohen(n0=10, n=1000), Case(noise, 2), votes_of(9, 1))
    assert str(record.guarantee) == "l1-certificate"
    assert record.radius == pytest.approx(2 * (record.p_a_lower - 0.5))


def slow_top_k(p_lower, uppers, k, sigma):
    """Jia et al. 2020, Theorem 1, by brute force over a grid."""
    largest = sorted(uppers, reverse=True)[:k]
    grid = np.linspace(0, 5 * sigma, 200_001)
    best = 0.0
    for t in range(1, k + 1):
        p_bar = min(sum(sorted(largest)[:t]), 1 - p_lower)
        left = stats.norm.cdf(stats.norm.ppf(p_lower) - grid / sigma)
        right = stats.norm.cdf(stats.norm.ppf(p_bar) + grid / sigma) / t
        if left[0] > right[0]:
            best = max(best, grid[np.nonzero(left >= right)[0][-1]])
    return best


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("p_lower", [0.05, 0.3, 0.6, 0.95])
def test_the_top_k_bound_equals_its_slow_reference(k, p_lower):
    uppers = np.array([0.3, 0.2, 0.15, 0.1, 0.05, 0.02])
    fast = top_k_radius(p_lower, uppers, k, 0.5)
    assert fast == pytest.approx(slow_top_k(p_lower, uppers, k, 0.5), abs=3e-5)


def test_the_top_k_bound_for_k_1_is_the_two_sided_radius():
    expected = 0.25 * (stats.norm.ppf(0.7) - stats.norm.ppf(0.2))
    assert top_k_radius(0.7, np.array([0.2, 0.1]), 1, 0.5) == pytest.approx(expected)


@given(st.floats(0.01, 0.99), st.integers(1, 4))
def test_a_larger_set_never_has_a_smaller_radius(p_lower, k):
    uppers = np.array([0.4, 0.2, 0.1, 0.05, 0.02])
    assert top_k_radius(p_lower, uppers, k + 1, 1.0) >= top_k_radius(p_lower, uppers, k, 1.0) - 1e-12


def test_the_l_bound_is_that_of_the_theorem_and_names_its_assumption():
    softmax = np.array([0.6, 0.3, 0.1])

    def vote(request):
        assert not request.noisy
        return np.floor(softmax * SCORE_UNIT).astype(np.int64)

    for kind in ("assumed", "exact"):
        record = drive(LBound(scores=kind), Case(NOISE, 3), vote)
        assert record.radius == pytest.approx(SIGMA * math.sqrt(math.pi / 2) * 0.3, abs=1e-8)
        assert (str(record.guarantee), record.prediction, record.votes) == (f"l2-lbound-{kind}", 0, 1)
    pair = drive(LBound(k=2), Case(NOISE, 3, label=1), vote)
    assert pair.radius == pytest.approx(l_bound(0.2, SIGMA), abs=1e-8)
    assert pair.prediction == 1  # the label, which is in the set
    assert drive(LBound(k=2), Case(NOISE, 3, label=2), vote).prediction == 0


def test_the_l_bound_of_votes_has_a_union_bound_over_classes():
    shares, n, alpha = np.array([0.7, 0.2, 0.1]), 1000, 0.01

    def vote(request):
        return np.floor(shares * SCORE_UNIT).astype(np.int64) * request.votes

    record = drive(LBound(scores="monte_carlo", n=n, alpha=alpha), Case(NOISE, 3), vote)
    lower, _ = chernoff_interval(0.7, n, alpha / 3)
    _, upper = chernoff_interval(0.2, n, alpha / 3)
    assert record.radius == pytest.approx(l_bound(lower - upper, SIGMA), abs=1e-6)
    assert (record.votes, str(record.guarantee)) == (n, "l2-lbound-certificate")


def test_the_estimated_l_bound_is_the_papers_number_and_no_certificate():
    """HeatSmoothing's tables of stochastic models use the estimated mean itself in Theorem 3."""
    shares = np.array([0.7, 0.2, 0.1])

    def vote(request):
        return np.floor(shares * SCORE_UNIT).astype(np.int64) * request.votes

    certificate = LBound(scores="estimate", n=1000)
    record = drive(certificate, Case(NOISE, 3), vote)
    assert record.radius == pytest.approx(l_bound(0.7 - 0.2, SIGMA), abs=1e-6)
    assert (str(record.guarantee), record.outcome, record.votes) == ("l2-lbound-estimate", "estimated", 1000)
    assert certificate.is_estimate
    assert not any(item.is_estimate for item in CERTIFICATES.values())


def test_the_l_bound_never_exceeds_the_linear_classifiers_radius():
    # f = 1[z > 0] smoothed is Phi(z / sigma); the bound is tight at the edge.
    for z in (0.001, 0.1, 0.5, 2.0):
        gap = 2 * stats.norm.cdf(z / SIGMA) - 1
        assert l_bound(gap, SIGMA) <= z
    assert l_bound(2 * stats.norm.cdf(0.001 / SIGMA) - 1, SIGMA) == pytest.approx(0.001, rel=1e-4)


def test_predict_abstains_by_the_test_of_the_two_top_counts():
    sure = drive(Predict(n=100), Case(NOISE, 3), votes_of(80, 15, 5))
    assert sure.prediction == 0
    assert sure.p_value == pytest.approx(stats.binomtest(80, 95, 0.5).pvalue)
    torn = drive(Predict(n=100), Case(NOISE, 3), votes_of(50, 40, 10))
    assert torn.prediction == ABSTAIN
    assert drive(Predict(n=100), Case(NOISE, 1), votes_of(1)).prediction == 0


def test_without_alpha_predict_is_the_plurality_vote():
    """4 : 3 : 1 has a p-value of 1, so no alpha below 1 lets the test answer."""
    votes = votes_of(4, 3, 1)
    assert drive(Predict(n=8, alpha=0.9999), Case(NOISE, 3), votes).prediction == ABSTAIN
    record = drive(Predict(n=8, alpha=None), Case(NOISE, 3), votes)
    assert (record.prediction, record.alpha) == (0, 1.0)
    assert drive(Predict(n=8, alpha=None), Case(NOISE, 3), votes_of(2, 3, 3)).prediction == 1  # a tie
    silent = Predict(n=8, alpha=None).decide(np.zeros(3, dtype=np.int64), sigma=0.25)  # all answers NaN
    assert silent.prediction == ABSTAIN


def test_predict_is_wrong_at_most_alpha_often():
    rng, procedure, wrong = np.random.default_rng(0), Predict(n=100, alpha=0.05), 0
    for _ in range(RUNS):
        wrong += drive(procedure, Case(NOISE, 2), LINEAR.voter(0.002, rng)).prediction == 1
    assert wrong <= TOLERATED


def test_ten_votes_never_decide():
    assert unanimous(Predict(n=10), NOISE).prediction == ABSTAIN
    assert unanimous(Predict(n=11), NOISE).prediction == 0


@pytest.mark.parametrize("n", [100, 1000, 10_000, 100_000])
def test_the_largest_radius_is_known_before_starting(n):
    expected = {100: 1.50, 1000: 2.46, 10_000: 3.20, 100_000: 3.81}[n]
    assert largest_radius(Cohen(n=n), GaussianNoise(1.0)) == pytest.approx(expected, abs=0.006)
    assert largest_radius(Cohen(n=n), GaussianNoise(0.25)) == pytest.approx(expected / 4, abs=0.002)


def test_settings_that_certify_nothing_are_known_before_starting():
    assert largest_radius(Cohen(n=9), NOISE) == 0.0
    assert largest_radius(Cohen(n=10), NOISE) > 0.0
    assert largest_radius(Cohen(n=1000), NoNoise()) == 0.0


def test_a_record_is_frozen():
    record = drive(Cohen(n0=10, n=100), Case(NOISE, 2), votes_of(9, 1))
    with pytest.raises(FrozenInstanceError):
        record.radius = 1.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cohen(n=0), "`n` must be a whole number of at least 1, got 0"),
        (lambda: Cohen(n=1.5), "`n` must be a whole number"),
        (lambda: Cohen(n0=0), "`n0` must be a whole number of at least 1, got 0"),
        (lambda: Cohen(alpha=1.5), r"`alpha` must be in \(0, 1\), got 1.5"),
        (lambda: Cohen(candidate="oracle"), "`candidate` must be votes, clean or label"),
        (lambda: Cohen(candidate="clean"), "`n0` must be 0 when the candidate is given"),
        (lambda: Cohen(batch_size=0), "`batch_size` must be a whole number of at least 1"),
        (lambda: TopKCertificate(k=0), "`k` must be a whole number"),
        (lambda: FixedRadius(radius=0), "`radius` must be positive"),
        (lambda: FixedRadius(radius=0.5, beta=0), "`beta` must be in"),
        (lambda: FixedRadius(radius=0.5, growth=1), "`growth` must be above 1"),
        (lambda: TwoStage(cost=0), "`cost` must be positive"),
        (lambda: TwoStage(candidate="clean", n0=0), "`candidate` must be votes"),
        (lambda: LBound(scores="guessed"), "`scores` must be exact, assumed, monte_carlo or estimate"),
        (lambda: LBound(scores="monte_carlo"), "`n` must be a whole number"),
        (lambda: LBound(n=10), "`n` must be 0 for scores=assumed"),
        (lambda: Predict(alpha=0), "`alpha` must be in"),
        (lambda: unanimous(FixedRadius(radius=5), UniformNoise(0.1)), "cannot be certified with sigma=0.1"),
        (lambda: unanimous(TopKCertificate(), UniformNoise(0.1)), "needs Gaussian noise"),
        (lambda: unanimous(TopKCertificate(k=5), NOISE, 5), "below the number of classes"),
        (lambda: unanimous(LBound(), UniformNoise(0.1)), "needs Gaussian noise"),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_certificate_in_the_docs_works():
    page = Path(__file__).parents[2] / "docs" / "certificates.md"
    (code,) = re.findall(r"```python\n(from dataclasses.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    names = {}
    exec(code, names)
    record = drive(names["Simple"](n0=10, n=1000), Case(NOISE, 3), votes_of(900, 80, 20))
    assert written(record) == written(drive(Cohen(n0=10, n=1000), Case(NOISE, 3), votes_of(900, 80, 20)))


def test_records_become_a_table_in_one_call():
    records = [drive(Cohen(n0=10, n=100), Case(NOISE, 2), votes_of(9, 1)) for _ in range(3)]
    table = tabulate(records)
    assert len(table) == 3
    assert table.radius.to_numpy().tolist() == [record.radius for record in records]
    assert table.counts[0] == ((0, 90), (1, 10))
    assert tabulate([]).empty


@pytest.mark.parametrize(
    ("certificate", "options"), [(FixedRadius, {"radius": 0.1}), (RadiusGrid, {}), (Anytime, {"radius": 0.1})]
)
def test_a_first_interim_analysis_after_the_last_vote_is_refused(certificate, options):
    with pytest.raises(ValueError, match="`first_look` must be at most n = 50, got 100"):
        certificate(n=50, **options)
