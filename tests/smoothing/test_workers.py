"""Every core computes batches: the votes are the same, and the settings of other threads do not change."""

import os
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

from robustsmooth.smoothing import (
    Cohen,
    GaussianNoise,
    NoNoise,
    Numerics,
    SmoothedClassifier,
    Tally,
    Tuning,
    VoteEngine,
)
from robustsmooth.smoothing.noise import BLOCK
from robustsmooth.smoothing.workers import CallingThread, workers_for
from tests.comparing import written

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def several_cores(monkeypatch):
    """Also where there is one; and afterwards as many threads as before."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2}, raising=False)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(72, 5)
    ).eval()


@pytest.fixture
def images():
    return torch.rand(5, 2, 5, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("batch_size", [7, 32])
@pytest.mark.parametrize("inference", [False, True])
def test_votes_do_not_depend_on_the_number_of_cores(network, images, batch_size, inference):
    def votes(cores):
        torch.set_num_threads(cores)
        classifier = SmoothedClassifier(network, GaussianNoise(0.5), random_inside=False)
        return classifier.votes(images, 333, batch_size=batch_size)

    with torch.inference_mode(inference):
        alone = votes(1)
        assert (alone.sum(axis=1) == 333).all()
        for cores in (2, 3):
            assert np.array_equal(votes(cores), alone)


def test_images_may_be_added_at_any_time(network, images):
    """First half of the images, not finished; then the rest. Every record equals that with one core."""

    def records(cores, parts):
        torch.set_num_threads(cores)
        engine = VoteEngine(network, GaussianNoise(0.5), Cohen(n0=10, n=90, batch_size=16))
        found = {}
        for number, part in enumerate(parts):
            engine.submit(images[part], torch.tensor(part))
            found |= {done.index: done.record for done in engine.run(flush=number == len(parts) - 1)}
            assert engine.waiting == sum(len(item) for item in parts[: number + 1]) - len(found)
        assert engine.votes == 500
        return found

    assert written(records(3, [[0, 3], [1], [2, 4]])) == written(records(1, [[0, 1, 2, 3, 4]]))


def test_a_block_is_drawn_once_for_all_passes_that_share_it(network, images):
    drawn = []

    class Watched(GaussianNoise):
        def sample(self, prepared, copies, source):
            drawn.append(copies)
            return super().sample(prepared, copies, source)

    torch.set_num_threads(3)
    engine = VoteEngine(
        network, Watched(0.5), Tally(n=4 * BLOCK, batch_size=5), random_inside=False, examined=True
    )
    engine.submit(images, torch.arange(5))
    assert len(list(engine.run(flush=True))) == 5
    assert drawn == [BLOCK] * 20


def test_an_error_of_a_pass_is_raised(images):
    class Fails(nn.Module):
        def forward(self, batch):
            if len(batch) == 8 and bool((batch[0] != batch[1]).any()):
                raise RuntimeError("too much noise")
            return batch.flatten(1)

    torch.set_num_threads(2)
    tuning = Tuning(8, Numerics(channels_last=False), 0.0)
    known = {"random_inside": False, "tuning": tuning, "examined": True}
    engine = VoteEngine(Fails(), GaussianNoise(0.5), Tally(n=20), **known)
    engine.submit(images, torch.arange(5))
    with pytest.raises(RuntimeError, match="too much noise"):
        list(engine.run(flush=True))
    with pytest.raises(RuntimeError, match="make a new engine"):
        list(engine.run(flush=True))


def test_every_thread_has_its_own_copy_of_the_modules(network, images):
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = network[:3], network[3:]

        def forward(self, batch):
            self.features = self.body(batch)
            time.sleep(0.002)
            return self.head(self.features)

    def votes(cores):
        torch.set_num_threads(cores)
        return SmoothedClassifier(Keeps(), GaussianNoise(0.5)).votes(images, 200, batch_size=8)

    assert np.array_equal(votes(3), votes(1))


def test_networks_that_are_random_inside_use_one_core(images):
    class RandomInside(nn.Module):
        def forward(self, batch):
            return torch.randn(len(batch), 3)

    def votes(cores):
        torch.set_num_threads(cores)
        return SmoothedClassifier(RandomInside(), NoNoise()).votes(images, 30, batch_size=4)

    assert np.array_equal(votes(2), votes(1))


def test_the_number_of_threads_elsewhere_does_not_change():
    torch.set_num_threads(3)
    first = workers_for(CPU)
    assert first.helpers == 3
    assert [first.submit(torch.get_num_threads).result() for _ in range(9)] == [1] * 9
    assert workers_for(CPU) is first
    seen = [torch.get_num_threads()]
    other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert seen == [3, 3]
    torch.set_num_threads(1)
    assert isinstance(workers_for(CPU), CallingThread)


def test_a_thread_that_is_bound_to_one_core_works_alone(monkeypatch):
    torch.set_num_threads(3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {2}, raising=False)
    assert isinstance(workers_for(CPU), CallingThread)
