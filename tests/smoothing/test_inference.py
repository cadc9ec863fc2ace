"""Smoothed inference: votes against NumPy, series of samples, independent votes of random networks."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from robustsmooth.models import NoiseLayers, ParametricNoise
from robustsmooth.smoothing import (
    HardVote,
    ImageRandomness,
    RankVote,
    RunnerUpVote,
    SmoothedInference,
    SoftVote,
    dispersion_test,
    running_votes,
)
from robustsmooth.smoothing.ballots import SCORE_UNIT

BALLOTS = {"hard": HardVote(), "soft": SoftVote(), "rank": RankVote(), "runner_up": RunnerUpVote(0.3)}


class Flat(nn.Sequential):
    """A linear classifier of 2x2 images."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__(nn.Flatten(), nn.Linear(4, classes))


def images(count: int = 5) -> torch.Tensor:
    return torch.rand(count, 1, 2, 2, generator=torch.Generator().manual_seed(0))


def randomness(count: int = 5, first: int = 0) -> ImageRandomness:
    return ImageRandomness(7, "test", torch.arange(first, first + count))


def votes(
    network: nn.Module, sigma: float = 0.3, samples=(1, 2, 8, 20), **changes
) -> dict[str, torch.Tensor]:
    settings = {"sigma": sigma, "samples": samples, "ballots": BALLOTS, "randomness": randomness(), "seed": 3}
    return running_votes(network, images(), **{**settings, **changes})


def numpy_weights(name: str, logits: np.ndarray) -> np.ndarray:
    """Eq. 8, 9, 11 and 12, one image at a time."""
    given = np.zeros(logits.shape)
    for image, scores in enumerate(logits):
        ranking = sorted(range(len(scores)), key=lambda label: (-scores[label], label))
        for place, label in enumerate(ranking, start=1):
            given[image, label] = {
                "hard": 1.0 if place == 1 else 0.0,
                "soft": np.exp(scores[label]) / np.exp(scores).sum(),
                "rank": 2.0 ** (1 - place),
                "runner_up": {1: 1.0, 2: 0.3}.get(place, 0.0),
            }[name]
    return given


@pytest.mark.parametrize("name", BALLOTS)
def test_votes_are_those_of_the_paper(name):
    logits = torch.randn(50, 6)
    logits[0, :] = 1.0  # all tied
    unit = 1 if name == "hard" else SCORE_UNIT
    found = BALLOTS[name](logits).double().numpy() / unit
    np.testing.assert_allclose(found, numpy_weights(name, logits.double().numpy()), atol=1e-6)


def test_ranks_of_a_thousand_classes():
    ballots = RankVote()(torch.randn(2, 1000))
    assert ballots.sum(1).tolist() == [2 * SCORE_UNIT - 1] * 2
    assert RunnerUpVote()(torch.randn(3, 1)).tolist() == [[SCORE_UNIT]] * 3


@pytest.mark.parametrize("name", BALLOTS)
def test_the_series_is_the_running_sum_of_single_votes(name):
    network = Flat()
    found = votes(network)[name]
    blocks = [0.3 * randomness().normal(images(), 8, draw=draw) for draw in range(3)]
    single = [BALLOTS[name](network(images() + noise)) for noise in torch.cat(blocks)[:20]]
    for position, count in enumerate((1, 2, 8, 20)):
        assert torch.equal(found[position], torch.stack(single[:count]).sum(0))


def test_more_samples_contain_fewer():
    network = Flat()
    long, short = votes(network, samples=(2, 8, 64)), votes(network, samples=(2, 8))
    for name in BALLOTS:
        assert torch.equal(long[name][:2], short[name])


@pytest.mark.parametrize("noisy", [False, True])
def test_an_images_votes_do_not_depend_on_its_batch(noisy):
    """Also for noise on weights: a vote has the same draw in every batch."""
    network = NoiseLayers(ParametricNoise)(Flat()) if noisy else Flat()
    together = votes(network)
    alone = running_votes(
        network,
        images()[3:4],
        sigma=0.3,
        samples=(1, 2, 8, 20),
        ballots={"hard": HardVote()},
        randomness=randomness(1, first=3),
        seed=3,
    )
    assert torch.equal(together["hard"][:, 3:4], alone["hard"])


def test_global_random_state_is_not_changed():
    network = NoiseLayers(ParametricNoise)(Flat())
    before = torch.get_rng_state()
    votes(network)
    assert torch.equal(before, torch.get_rng_state())


def test_without_any_noise_all_votes_agree():
    network = Flat()
    hard = votes(network, sigma=0.0)["hard"]
    assert torch.equal(hard[-1], 20 * hard[0])
    assert torch.equal(hard[0].argmax(1), network(images()).argmax(1))


def test_noise_inside_the_network_alone_is_enough():
    hard = votes(NoiseLayers(partial(ParametricNoise, scale=3.0))(Flat()), sigma=0.0)["hard"]
    assert (hard[-1] > 0).sum() > len(images()), "votes differ"
    assert torch.equal(hard[-1].sum(1), torch.full((5,), 20))


def test_wrapper_is_the_last_of_the_series():
    network = Flat()
    smoothed = SmoothedInference(network, SoftVote(), samples=20, sigma=0.3, seed=3)
    shares = smoothed(images(), randomness())
    expected = votes(network)["soft"][-1].double()
    torch.testing.assert_close(shares, expected / expected.sum(1, keepdim=True))
    torch.testing.assert_close(shares.sum(1), torch.ones(5, dtype=torch.float64))


def test_votes_on_one_image_are_binomial_only_with_one_draw_per_pass():
    """What Clopper-Pearson needs of a network that is random inside (docs/certificates.md).

    Groups of 20 votes on one image: with a pass of its own for each vote their variance is binomial; with 20
    copies of the image in one pass, which share one draw of the weights, it is not.
    """
    torch.manual_seed(0)
    network = NoiseLayers(partial(ParametricNoise, scale=2.0))(Flat(classes=2)).eval()
    image = images(1)
    groups, trials = 80, 20
    apart, together = [], []
    for group in range(groups):
        noise = partial(ImageRandomness, 0, f"group {group}")
        result = running_votes(
            network,
            image,
            sigma=0.1,
            samples=[trials],
            ballots={"hard": HardVote()},
            randomness=noise(torch.tensor([0])),
            seed=group,
        )
        apart.append(int(result["hard"][0, 0, 0]))
        copies = image.expand(trials, -1, -1, -1)
        shared = network(copies + 0.1 * torch.randn(copies.shape)).argmax(1)
        together.append(int((shared == 0).sum()))
    assert 0.1 < np.mean(apart) / trials < 0.9, "the image must not be certain"
    assert dispersion_test(apart, trials) > 1e-3
    assert dispersion_test(together, trials) < 1e-9


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: votes(Flat(), samples=()), "`samples` must be ascending"),
        (lambda: votes(Flat(), samples=(0, 1)), "`samples` must be ascending"),
        (lambda: votes(Flat(), samples=(2, 1)), "`samples` must be ascending"),
        (lambda: votes(Flat(), sigma=-0.1), "`sigma` must be at least 0"),
        (lambda: RunnerUpVote(1.5), "`share` must be in"),
        (lambda: SmoothedInference(Flat(), HardVote(), samples=0), "`samples` must be at least 1"),
        (lambda: SmoothedInference(Flat(), HardVote(), samples=1, sigma=-1), "`sigma` must be at least 0"),
    ],
)
def test_bad_input_is_one_sentence(build, message):
    with pytest.raises(ValueError, match=message):
        build()
