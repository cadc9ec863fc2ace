"""The search for a fast batch size keeps a given size, and takes little time."""

import math

import pytest
import torch

from robustsmooth.smoothing import GaussianNoise, Numerics, Predict, SmoothedClassifier, tune, tuning
from robustsmooth.smoothing import engine as engine_module
from robustsmooth.smoothing.workers import CallingThread
from tests.smoothing.test_engine import SHAPE, Network, RandomInside


@pytest.fixture
def network():
    return Network().eval()


def test_tuning_keeps_a_given_batch_size(network):
    device = torch.device("cpu")
    found = tune(network, SHAPE, device)
    assert found.batch_size >= 32
    assert found.numerics.channels_last in (True, False)
    assert found.votes_per_second > 0
    fixed = tune(network, SHAPE, device, 17, Numerics(channels_last=True))
    assert (fixed.batch_size, fixed.numerics.channels_last) == (17, True)


def test_tuning_takes_the_smallest_batch_that_is_as_fast(network, monkeypatch):
    speeds = {32: 8e5, 64: 9.6e5, 128: 9.75e5, 256: 1e6}
    monkeypatch.setattr(tuning, "_speed", lambda forward, shape, *_, **__: speeds.get(shape[0], 5e5))
    assert tune(network, SHAPE, torch.device("cpu")).batch_size == 128


def test_the_search_takes_about_a_tenth_of_the_votes_time(network, monkeypatch):
    """With a simulated clock: 10 000 images per second on one core."""
    clock, cpu = [0.0], torch.device("cpu")

    def speed(forward, shape, *_, **__):
        clock[0] += 2 * max(shape[0], 96) / 1e4
        return 1e4

    monkeypatch.setattr(tuning, "_speed", speed)
    monkeypatch.setattr(tuning.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(tuning, "workers_for", lambda *_: CallingThread())
    assert math.isnan(tune(network, SHAPE, cpu, votes=100).votes_per_second)
    assert tune(network, SHAPE, cpu, votes=100).batch_size == 64
    assert tune(network, SHAPE, cpu, votes=10).batch_size == 32
    assert clock[0] == 0.0
    tune(network, SHAPE, cpu, votes=20_000)
    assert 0.1 * 2.0 <= clock[0] <= 0.1 * 2.0 + 4 * 256 / 1e4
    clock[0] = 0.0
    tune(network, SHAPE, cpu)
    assert clock[0] > 1.0


def test_many_more_votes_than_before_are_worth_a_new_search(network, monkeypatch):
    searches, whole = [], engine_module.tune
    monkeypatch.setattr(
        engine_module, "tune", lambda *args, **given: searches.append(given["votes"]) or whole(*args, **given)
    )
    classifier = SmoothedClassifier(network, GaussianNoise(0.25))
    for n in (10, 100, 101, 1000):
        classifier.predict(torch.full((1, *SHAPE), 0.5), Predict(n=n))
    assert searches == [10, 101]


def test_a_batch_of_a_random_network_has_no_more_rows_than_images(monkeypatch):
    monkeypatch.setattr(tuning, "_speed", lambda forward, shape, *_, **__: 1e4 * shape[0])
    cpu, network = torch.device("cpu"), RandomInside()
    for votes in (10, 10**6):
        assert tune(network, SHAPE, cpu, random_inside=True, votes=votes, images=3).batch_size == 3
    assert tune(network, SHAPE, cpu, random_inside=True, votes=10**9, images=50).batch_size == 50
    assert tune(network, SHAPE, cpu, votes=10**9, images=3).batch_size > 1000


@pytest.mark.parametrize("inference", [False, True])
def test_tuning_a_random_network_does_not_change_the_global_generator(inference):
    network, before = RandomInside(), torch.get_rng_state()
    with torch.inference_mode(inference):
        tune(network, SHAPE, torch.device("cpu"), 8, Numerics(channels_last=False))
    assert torch.equal(torch.get_rng_state(), before)
