"""What voids a certificate: one test for each entry of docs/what-voids-a-certificate.md."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.utils.data import DistributedSampler

from robustsmooth.data import UnrepeatedSampler
from robustsmooth.smoothing import (
    Case,
    Cohen,
    FixedRadius,
    GaussianNoise,
    GridGaussianNoise,
    LBound,
    Numerics,
    SmoothedClassifier,
    TopKCertificate,
    TopVotes,
    address,
    clopper_pearson_lower,
    drive,
    generator,
    largest_radius,
    looks,
)

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "what-voids-a-certificate.md"
RUNS, ALPHA = 1500, 0.05
TOO_MANY = stats.binom.isf(1e-4, RUNS, ALPHA)


def test_every_entry_of_the_page_has_its_test():
    text = PAGE.read_text(encoding="utf-8")
    entries = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert len(entries) >= 15
    for entry in entries:
        tests = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", entry)
        assert tests, f"no test for the entry {entry.splitlines()[0]!r}"
        for file, name in tests:
            assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), (file, name)


class Seeing(nn.Module):
    """Records its inputs."""

    def __init__(self, shown):
        super().__init__()
        self.shown = shown

    def __deepcopy__(self, memo):
        return self

    def forward(self, images):
        self.shown.append(images.clone())
        return images.flatten(1)[:, :2]


def shown_to_the_network(noise, images, n=64):
    shown = []
    SmoothedClassifier(Seeing(shown), noise, numerics=Numerics(channels_last=False)).votes(
        images, n, batch_size=n
    )
    return shown[-1]


def test_noise_is_added_in_pixel_units_before_the_normalisation():
    images = torch.full((1, 1, 16, 16), 102 / 255)
    for noise in (GaussianNoise(0.25), GridGaussianNoise(0.25)):
        spread = float(shown_to_the_network(noise, images).std())
        assert spread == pytest.approx(0.25, rel=0.02)
    # Added after a normalisation by std, the same number would be noise of sigma * std in pixels, and
    # the radius claimed too large by 1 / std.
    claimed, true = GaussianNoise(0.25).radius(0.9), GaussianNoise(0.25 * 0.2).radius(0.9)
    assert claimed == pytest.approx(5 * true)


def test_noisy_images_are_not_clipped():
    images = torch.zeros(1, 1, 16, 16)
    shown = shown_to_the_network(GaussianNoise(0.25), images)
    assert float((shown < 0).float().mean()) == pytest.approx(0.5, abs=0.02)
    # With clipping, half of the probability is at the edge of the box. A classifier that depends on it is
    # "certain" at 0 and not beside it.
    clipped = shown.clamp(0, 1)
    assert float((clipped == 0).float().mean()) > 0.4


def claims_above(p, claim):
    """The number of runs in which the claimed lower bound is above p."""
    rng = np.random.default_rng(0)
    return sum(claim(lambda n: rng.binomial(n, p)) > p for _ in range(RUNS))


def test_votes_that_selected_the_class_must_not_count_again():
    def reused(draw):
        heads = draw(100)
        return clopper_pearson_lower(max(heads, 100 - heads), 100, ALPHA)

    def fresh(draw):
        heads = draw(100)
        again = draw(100)
        return clopper_pearson_lower(again if heads >= 50 else 100 - again, 100, ALPHA)

    assert claims_above(0.5, reused) > TOO_MANY
    assert claims_above(0.5, fresh) <= TOO_MANY
    purposes = []

    def vote(request):
        purposes.append(request.purpose)
        return np.array([request.votes, 0])

    for certificate in (
        Cohen(n=100),
        FixedRadius(radius=0.1),
        TopKCertificate(k=1, n0=100, candidate="votes"),
    ):
        purposes.clear()
        drive(certificate, Case(GaussianNoise(0.5), 2), vote)
        assert purposes[0] == "select"
        assert "select" not in purposes[1:]


def test_interim_analyses_need_a_correction():
    plan = looks(5000)

    def peeking(draw):
        heads = drawn = 0
        best = 0.0
        for look in plan:
            heads += draw(look - drawn)
            drawn = look
            best = max(best, clopper_pearson_lower(heads, drawn, ALPHA))
        return best

    assert claims_above(0.8, peeking) > 2 * TOO_MANY
    radius = GaussianNoise(1.0).radius(0.8)
    sequential, rng, wrong = (
        FixedRadius(radius=radius, n0=1, n=5000, alpha=ALPHA),
        np.random.default_rng(0),
        0,
    )
    p = 0.8 - 1e-9

    def vote(request):
        heads = rng.binomial(request.votes, p)
        return np.array([heads, request.votes - heads]) if request.purpose == "estimate" else np.array([1, 0])

    for _ in range(RUNS):
        wrong += drive(sequential, Case(GaussianNoise(1.0), 2), vote).radius > 0
    assert wrong <= TOO_MANY


def test_the_best_of_several_noise_levels_needs_a_union_bound():
    # A classifier whose radius is 0.2 at every noise level: p = Phi(0.2 / sigma).
    sigmas, n = (0.12, 0.25, 0.5, 1.0), 1000

    def best(alpha):
        rng, wrong = np.random.default_rng(0), 0
        for _ in range(RUNS):
            radii = [
                GaussianNoise(sigma).radius(
                    clopper_pearson_lower(rng.binomial(n, stats.norm.cdf(0.2 / sigma)), n, alpha)
                )
                for sigma in sigmas
            ]
            wrong += max(radii) > 0.2
        return wrong

    assert best(ALPHA) > 2 * TOO_MANY
    assert best(ALPHA / len(sigmas)) <= TOO_MANY


def test_all_noise_has_its_own_address():
    keys = [(seed, purpose, index, block) for seed in (0, 1) for purpose in ("select", "estimate", "predict")
            for index in (0, 1, 50) for block in (0, 1)]  # fmt: skip
    draws = [tuple(torch.randn(4, generator=generator(*key)).tolist()) for key in keys]
    assert len(set(draws)) == len(keys)
    # What a rank is does not enter: two ranks never draw the same noise for different images, nor
    # different noise for the same one.


def test_validation_and_test_do_not_share_noise():
    # A classifier that was chosen by its certified validation accuracy depends on that noise; so validation
    # images that are certified after the training have other noise than in it.
    seeds = (address(0, "validation in training"), address(0, "validation"), 0)
    draws = [torch.randn(8, generator=generator(seed, "estimate", 5, 0)) for seed in seeds]
    assert len({tuple(draw.tolist()) for draw in draws}) == 3


def test_the_adversary_must_not_know_the_noise():
    """An adversary who knows the noise can change every vote; with new noise it cannot."""
    n, image = 64, torch.full((1, 1, 10, 10), 0.5)
    noise = GaussianNoise(0.5)
    known = torch.cat([noise.sample(image[0], 32, generator(7, "predict", 0, block)) for block in range(2)])

    class Recognising(nn.Module):
        """Class 0, except on the 64 noisy images that follow from seed and address."""

        def forward(self, x):
            recognised = torch.cdist(x.flatten(1), known.flatten(1)).amin(1) < 0.1
            return torch.stack([(~recognised).float(), recognised.float()], dim=1)

    def votes(seed):
        classifier = SmoothedClassifier(Recognising(), noise, seed=seed)
        return classifier.votes(image, n, indices=[0], purpose="predict", batch_size=n)[0].tolist()

    assert votes(7) == [0, n]
    assert votes(8) == [n, 0]


def test_train_mode_makes_votes_depend_on_each_other():
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, 5)
    )
    images = torch.rand(3, 1, 8, 8)
    network.train()
    together, alone = network(images.repeat(2, 1, 1, 1))[:1], network(images[:1].repeat(6, 1, 1, 1))[:1]
    assert not torch.allclose(together, alone)
    training = SmoothedClassifier(network, GaussianNoise(0.5)).votes(images, 100, batch_size=32)
    evaluating = SmoothedClassifier(network.eval(), GaussianNoise(0.5)).votes(images, 100, batch_size=32)
    assert np.array_equal(training, evaluating)


def test_noise_added_in_floats_reveals_the_image_and_noise_on_the_grid_does_not():
    """With float noise on a brighter image, the numbers near zero are multiples of a coarser unit."""
    sigma, pixels, n = 1.0, 8000, 100
    dark, bright = torch.zeros(1, 1, 1, pixels), torch.full((1, 1, 1, pixels), 1 / 255)
    distance = float((bright - dark).norm())

    class Suspicious(nn.Module):
        """Class 1 if numbers near zero are all multiples of a coarse unit."""

        def forward(self, x):
            near = x.flatten(1).abs() < 1 / 1024
            coarse = (x.flatten(1) * 2**32).remainder(1) == 0
            share = (near & coarse).sum(1) / near.sum(1).clamp(min=1)
            return torch.stack([0.9 - share, share - 0.9], dim=1)

    def verdicts(noise):
        certificate = Cohen(n0=20, n=n, batch_size=20)
        return SmoothedClassifier(Suspicious(), noise).certify(torch.cat([dark, bright]), certificate)

    at_dark, at_bright = verdicts(GaussianNoise(sigma))
    # The certificate is wrong: it claims a radius of 1.4, and at distance 0.35 the answer is the opposite.
    assert at_dark.radius > 3 * distance
    assert at_bright.radius > 3 * distance
    assert at_dark.prediction != at_bright.prediction
    at_dark, at_bright = verdicts(GridGaussianNoise(sigma))
    assert at_dark.prediction == at_bright.prediction


def test_default_sampling_on_two_ranks_repeats_images():
    dataset = range(13)
    seen = [index for rank in range(2) for index in DistributedSampler(dataset, 2, rank, shuffle=False)]
    assert len(seen) == 14
    assert len(set(seen)) == 13
    seen = [index for rank in range(2) for index in UnrepeatedSampler(dataset, 2, rank)]
    assert sorted(seen) == list(dataset)


def test_rounding_a_radius_to_three_digits_can_round_it_up():
    radius = drive(
        Cohen(n=1000), Case(GaussianNoise(0.5), 2), lambda request: np.array([request.votes, 0])
    ).radius
    assert float(f"{radius:.3f}") != radius
    values = [largest_radius(Cohen(n=n), GaussianNoise(0.5)) for n in range(100, 140)]
    assert any(float(f"{value:.3f}") > value for value in values)
    assert all(float(str(value)) == value for value in values)  # how our logs write it


def test_the_number_of_votes_caps_the_radius():
    few, many = (largest_radius(Cohen(n=n), GaussianNoise(0.25)) for n in (1000, 100_000))
    assert few < 0.65 * many  # a curve at n = 1000 is not comparable with one at 100 000


def test_three_top_5_statements_have_three_names():
    noise = GaussianNoise(0.5)
    names = {
        TopKCertificate(k=5).guarantee(noise),
        TopVotes(k=5).guarantee(noise),
        Cohen().guarantee(noise),
        LBound().guarantee(noise),
        LBound(scores="monte_carlo", n=10).guarantee(noise),
        LBound(scores="exact").guarantee(noise),
        FixedRadius(radius=0.1).guarantee(noise),
    }
    assert len(names) == 7
    assert str(replace(TopVotes(k=5), k=3).guarantee(noise)) == "l2-top3-votes-certificate"


def test_a_single_pass_is_not_what_the_votes_certify():
    """HeatSmoothing's candidate is the single pass, but the record is about the smoothed network."""

    class Spike(nn.Module):
        """One answer at the image itself, another one everywhere else."""

        def forward(self, x):
            there = (x - 0.5).flatten(1).abs().amax(1) < 1e-6
            return torch.stack([there.float(), 0.5 * torch.ones(len(x))], dim=1)

    image = torch.full((1, 1, 4, 4), 0.5)
    certificate = Cohen(n0=0, n=200, candidate="clean", batch_size=50)
    record = SmoothedClassifier(Spike(), GaussianNoise(0.25)).certify(image, certificate)[0]
    assert record.candidate == 0  # the single pass
    assert record.radius == 0.0  # the smoothed network answers otherwise
