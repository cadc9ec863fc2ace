import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch._dynamo.utils import counters

from robustsmooth.models import CifarResNet
from robustsmooth.smoothing import (
    Cohen,
    FixedRadius,
    Forward,
    GaussianNoise,
    GridGaussianNoise,
    HardVote,
    LBound,
    NoNoise,
    Numerics,
    Predict,
    RankVote,
    RunnerUpVote,
    SmoothedClassifier,
    SoftVote,
    Tally,
    TopVote,
    TwoSided,
    TwoStage,
    UniformNoise,
    VoteEngine,
    check_network,
    contains_label,
    dispersion_test,
    generator,
)
from robustsmooth.smoothing.ballots import SCORE_UNIT
from robustsmooth.smoothing.noise import BLOCK

SHAPE = (2, 5, 5)


class Seen:
    """The inputs of a network and of its copies."""

    def __init__(self):
        self.shapes = []

    def __deepcopy__(self, memo):
        return self


class Network(nn.Module):
    """A small network that records the shapes of its inputs."""

    def __init__(self, classes=6):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(200, classes)
        )
        self.seen = Seen()

    def forward(self, images):
        self.seen.shapes.append(tuple(images.shape))
        return self.layers(images)


class RandomInside(Network):
    """Adds one draw per pass to the logits of the whole batch, as noise on weights does."""

    def forward(self, images):
        logits = super().forward(images)
        return 0.1 * logits + 5 * torch.randn(logits.shape[1])


class NoisyWeights(nn.Module):
    """A convolution with noisy weights, as in PNI."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(2, 8, 3)

    def forward(self, images):
        weight = self.convolution.weight
        return nn.functional.conv2d(images, weight + 0.1 * torch.randn_like(weight)).flatten(1)


@pytest.fixture
def network():
    return Network().eval()


@pytest.fixture
def images():
    return torch.randint(0, 256, (9, *SHAPE)) / 255


def by_hand(network, noise, image, index, n, seed=0, purpose="tally"):
    """The votes of one image, from their definition."""
    prepared = noise.prepare(image[None])[0]
    blocks = [
        noise.sample(prepared, BLOCK, generator(seed, purpose, index, block))
        for block in range(math.ceil(n / BLOCK))
    ]
    with torch.no_grad():
        logits = network(torch.cat(blocks)[:n])
    return np.bincount(logits.argmax(dim=1).numpy(), minlength=logits.shape[1])


@pytest.mark.parametrize("noise", [GaussianNoise(0.5), GridGaussianNoise(0.5), UniformNoise(0.5), NoNoise()])
@pytest.mark.parametrize("batch_size", [1, 10, 64])
def test_votes_are_what_their_addresses_say(network, images, noise, batch_size):
    n = 45 if batch_size == 1 else 150
    counts = SmoothedClassifier(network, noise, seed=7).votes(
        images, n, indices=range(100, 109), batch_size=batch_size
    )
    expected = [by_hand(network, noise, image, 100 + at, n, seed=7) for at, image in enumerate(images)]
    assert np.array_equal(counts, expected)


def test_a_vote_does_not_depend_on_the_other_images_or_their_order(network, images):
    classifier = SmoothedClassifier(network, GaussianNoise(0.5))
    together = classifier.votes(images, 100, indices=range(len(images)), batch_size=32)
    order = torch.tensor([4, 2, 8])
    assert np.array_equal(classifier.votes(images[order], 100, indices=order, batch_size=32), together[order])


def test_batches_have_one_shape_and_are_full(network, images):
    engine = VoteEngine(network, GaussianNoise(0.5), Cohen(n0=10, n=123, batch_size=50))
    engine.submit(images, torch.arange(9))
    network.seen.shapes.clear()
    assert len(list(engine.run(flush=True))) == 9
    assert set(network.seen.shapes) == {(50, *SHAPE)}
    # Images that finish share a batch with those that start; only the last one is alone.
    assert len(network.seen.shapes) <= math.ceil(9 * 133 / 50) + 1
    assert engine.votes == 9 * 133


def test_it_waits_for_more_images_until_it_must_finish(network, images):
    engine = VoteEngine(network, GaussianNoise(0.5), Cohen(n0=10, n=30, batch_size=64))
    engine.submit(images[:1], torch.arange(1))
    assert list(engine.run()) == []
    assert engine.votes == 0
    engine.submit(images[1:], torch.arange(1, 9))
    first = list(engine.run())
    assert engine.votes % 64 == 0  # only full batches so far
    rest = list(engine.run(flush=True))
    assert sorted(finished.index for finished in [*first, *rest]) == list(range(9))
    assert engine.waiting == 0


@pytest.mark.parametrize(
    "procedure",
    [
        Cohen(n0=20, n=200, batch_size=32),
        Cohen(n0=0, n=200, candidate="clean", batch_size=32),
        FixedRadius(radius=0.05, n0=20, n=2000, first_look=20, batch_size=32),
        TwoStage(n0=50, n=500, batch_size=32),
        LBound(scores="monte_carlo", n=100, batch_size=32),
        LBound(batch_size=32),
        Predict(n=100, batch_size=32),
    ],
)
def test_records_do_not_depend_on_how_images_arrive(network, images, procedure):
    """All at once, one by one while the engine runs, or in separate runs.

    Equal but for rounding: the L-bound's radius is a network's output, which may differ in its last digits
    with the place in the batch.
    """
    indices, labels = torch.arange(9), torch.arange(9) % 6

    def records(portions):
        engine = VoteEngine(network, GaussianNoise(0.5), procedure, seed=3)
        done = []
        for portion in portions:
            engine.submit(images[portion], indices[portion], labels[portion])
            done += engine.run()
        done += engine.run(flush=True)
        return {finished.index: (finished.label, finished.record) for finished in done}

    def same(found):
        assert found.keys() == everything.keys()
        for at, (label, record) in found.items():
            assert label == everything[at][0]
            for name, value in vars(record).items():
                expected = getattr(everything[at][1], name)
                close = (
                    pytest.approx(expected, rel=1e-5, nan_ok=True)
                    if isinstance(expected, float)
                    else expected
                )
                assert value == close, f"{name} of image {at}"

    everything = records([slice(None)])
    assert len(everything) == 9
    same(records([slice(at, at + 1) for at in range(9)]))
    same(records([slice(4), slice(4, 9)]))
    alone = {}
    for at in range(9):
        alone |= records([slice(at, at + 1)])
    same(alone)


def test_batch_size_changes_only_votes_that_are_ties_to_rounding(network, images):
    classifier = SmoothedClassifier(network, GaussianNoise(0.5))
    small, large = (classifier.votes(images, 500, batch_size=size) for size in (8, 256))
    assert np.abs(small - large).sum() <= 2


def test_votes_that_differ_between_batch_sizes_are_ties_to_rounding():
    torch.manual_seed(3)
    network = CifarResNet(8, 10).eval()  # untrained: nearly all logits are close
    batch = GaussianNoise(0.5).sample(torch.rand(3, 32, 32), 256, generator(0, "test"))
    forward = Forward(network, Numerics(channels_last=False), torch.device("cpu"))
    whole, parts = forward(batch), torch.cat([forward(part) for part in batch.split(32)])
    moved = whole.argmax(1) != parts.argmax(1)
    top = whole.topk(2, dim=1).values
    assert int(moved.sum()) <= 2
    assert ((top[:, 0] - top[:, 1])[moved] < 1e-4).all()


def test_network_and_global_state_are_not_changed(network, images):
    network.train()
    network.layers[1].eval()  # a frozen layer is still frozen
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    SmoothedClassifier(network, GaussianNoise(0.5)).votes(images, 40, batch_size=16)
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training
    assert network.layers[0].training
    assert not network.layers[1].training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_network_is_in_eval_mode_without_gradients(images):
    class Checks(Network):
        def forward(self, inputs):
            assert not self.training
            assert not torch.is_grad_enabled()
            return super().forward(inputs)

    SmoothedClassifier(Checks().train(), GaussianNoise(0.5)).votes(images, 20, batch_size=16)


def test_works_inside_inference_mode(network, images):
    classifier = SmoothedClassifier(network, GridGaussianNoise(0.5))
    outside = classifier.votes(images, 50, batch_size=16)
    with torch.inference_mode():
        assert np.array_equal(classifier.votes(images.clone(), 50, batch_size=16), outside)


def test_seconds_add_up_to_the_time_it_took(network, images):
    engine = VoteEngine(network, GaussianNoise(0.5), Predict(n=200, batch_size=32))
    engine.submit(images, torch.arange(9))
    seconds = [finished.seconds for finished in engine.run(flush=True)]
    assert all(second > 0 for second in seconds)


def test_an_image_named_twice_is_refused(network, images):
    with pytest.raises(ValueError, match="name each image once"):
        SmoothedClassifier(network, GaussianNoise(0.5)).votes(images[:2], 10, indices=[3, 3], batch_size=16)


MEMORY = """
import resource, torch
from robustsmooth.smoothing import GaussianNoise, SmoothedClassifier
network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(300, 3))
classifier = SmoothedClassifier(network, GaussianNoise(0.5))
for n in (2_000, 30_000):
    classifier.votes(torch.rand(2, 3, 10, 10), n, batch_size=64)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_n():
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    little, much = (int(line) for line in done.stdout.split())
    assert much - little < 4096  # KiB; the noise of an image would take 36 MB


# ------------------------------------------------------------------ real noise, known radius


@pytest.mark.parametrize("noise", [GaussianNoise(0.5), GridGaussianNoise(0.5)])
def test_votes_of_a_linear_classifier_have_the_exact_probability(noise):
    weight = torch.randn(50)
    image = torch.randint(0, 256, SHAPE) / 255
    distance = 0.3
    bias = distance * weight.norm() - weight @ image.flatten()

    def linear(x):
        score = x.flatten(1) @ weight + bias
        return torch.stack([score, -score], dim=1)

    class Linear(nn.Module):
        def forward(self, x):
            return linear(x)

    n, p = 40_000, stats.norm.cdf(distance / 0.5)
    counts = SmoothedClassifier(Linear(), noise).votes(image[None], n, batch_size=500)[0]
    assert abs(counts[0] - n * p) < 4.5 * math.sqrt(n * p * (1 - p))


@pytest.mark.parametrize(("noise", "norm"), [(GaussianNoise(0.5), 2), (UniformNoise(0.5), 1)])
def test_real_votes_exceed_the_exact_radius_at_most_alpha_often(noise, norm):
    class OnePixel(nn.Module):
        """Decided by the first pixel: its distance to 0.3 is the exact radius in every norm."""

        def forward(self, x):
            score = x.flatten(1)[:, 0] - 0.3
            return torch.stack([score, -score], dim=1)

    runs, alpha, distance = 600, 0.05, 0.25
    images = torch.full((runs, 1, 1, 2), 0.3 + distance)
    certificate = Cohen(n0=16, n=64, alpha=alpha, batch_size=256)
    records = SmoothedClassifier(OnePixel(), noise).certify(images, certificate)
    wrong = sum(record.prediction == 1 or record.radius > distance + 1e-6 for record in records)
    assert wrong <= stats.binom.isf(1e-5, runs, alpha)
    assert {str(record.guarantee) for record in records} == {f"l{norm}-certificate"}


# ------------------------------------------------------------------ networks that are random inside


def test_randomness_inside_is_noticed(images):
    for make, random_inside in ((Network, False), (RandomInside, True)):
        classifier = SmoothedClassifier(make(), GaussianNoise(0.5))
        classifier.votes(images, 5, batch_size=16)
        assert classifier.random_inside is random_inside


def test_active_dropout_is_noticed(images):
    class Dropping(Network):
        def forward(self, inputs):
            return super().forward(nn.functional.dropout(inputs, 0.5, training=True))

    classifier = SmoothedClassifier(Dropping(), GaussianNoise(0.5))
    classifier.votes(images, 5, batch_size=16)
    assert classifier.random_inside


def test_each_pass_takes_one_vote_of_an_image(images):
    network = RandomInside()
    engine = VoteEngine(network, GaussianNoise(0.5), Cohen(n0=10, n=40, batch_size=16))
    engine.submit(images, torch.arange(9))
    network.seen.shapes.clear()
    assert len(list(engine.run(flush=True))) == 9
    assert len(network.seen.shapes) == 50  # as many passes as votes


def test_votes_of_a_random_network_scatter_like_independent_ones(images):
    n, group = 960, 32

    answers = []

    class Recording(RandomInside):
        def forward(self, inputs):
            logits = super().forward(inputs)
            answers.append(logits.argmax(dim=1).clone())
            return logits

    network = Recording().eval()
    classifier = SmoothedClassifier(network, GaussianNoise(0.5), random_inside=True)
    classifier.votes(images, n, batch_size=16)
    votes = torch.stack(answers[-n:])[:, :9]  # votes x images
    for item in votes.T:
        successes = (item == 0).reshape(-1, group).sum(dim=1)
        assert 0.1 < successes.sum() / n < 0.25  # six classes of about equal probability
        assert dispersion_test(successes.numpy(), group) > 1e-5
    # The wrong way: one draw of the network for a batch of noisy copies of one image.
    copies = images[:1].expand(group, *SHAPE)
    shared = [(network(copies + 0.5 * torch.randn_like(copies)).argmax(1) == 0).sum() for _ in range(60)]
    assert dispersion_test(shared, group) < 1e-10


def test_random_networks_repeat_their_votes_and_do_not_change_the_global_generator(images):
    classifier = SmoothedClassifier(RandomInside(), GaussianNoise(0.5))
    first = classifier.votes(images, 60, batch_size=16)
    state = torch.get_rng_state()
    assert np.array_equal(classifier.votes(images, 60, batch_size=16), first)
    assert torch.equal(torch.get_rng_state(), state)
    # Noise on weights is addressed by the vote: the same votes for one image and for several.
    assert np.array_equal(classifier.votes(images[3:4], 60, indices=[3], batch_size=16)[0], first[3])


def test_noise_that_depends_on_the_row_is_the_same_after_a_restart(images):
    class PerSample(Network):
        def forward(self, inputs):
            logits = super().forward(inputs)
            return logits + torch.randn_like(logits)

    network = PerSample().eval()

    def records(finished):
        engine = VoteEngine(network, GaussianNoise(0.5), Tally(n=50, batch_size=4), random_inside=True)
        done = []
        for at in range(9):
            engine.submit(images[at : at + 1], torch.tensor([at]), finished=finished)
            done += engine.run()
        done += engine.run(flush=True)
        return {item.index: item.record.tolist() for item in done}

    whole = records(set())
    at_once = SmoothedClassifier(network, GaussianNoise(0.5), random_inside=True).votes(
        images, 50, indices=range(9), batch_size=4
    )
    assert at_once.tolist() == [whole[index] for index in range(9)]
    resumed = records({0, 2, 5, 6})
    assert resumed == {index: whole[index] for index in (1, 3, 4, 7, 8)}


def test_a_random_network_needs_no_input_noise(images):
    counts = SmoothedClassifier(RandomInside(), NoNoise()).votes(images[:2], 300, batch_size=8)
    assert (counts > 0).sum() > 4  # its own noise makes the votes differ


# ------------------------------------------------------------------ ballots and numerics


def test_ballots_by_hand():
    logits = torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, 5.0]])
    assert HardVote()(logits).tolist() == [[0, 1, 0], [0, 0, 1]]
    assert TopVote(2)(logits).tolist() in ([[0, 1, 1], [1, 0, 1]], [[0, 1, 1], [0, 1, 1]])
    assert TopVote(9)(logits).tolist() == [[1, 1, 1], [1, 1, 1]]
    soft = SoftVote()(logits).double() / SCORE_UNIT
    assert torch.allclose(soft, logits.double().softmax(1), atol=1e-6)
    assert (soft.sum(1) <= 1 + 1e-6).all()


INF = math.inf


@pytest.mark.parametrize("ballot", [HardVote(), TopVote(2), SoftVote(), RankVote(), RunnerUpVote()])
def test_logits_without_a_largest_number_vote_for_no_class(ballot):
    answer = torch.tensor([[1.0, 3.0, 2.0], [-INF, 3.0, -INF], [0.0, INF, 2.0], [-INF, INF, 1.0]])
    votes = ballot(answer)
    assert (votes[:, 1] == votes.amax(1)).all()
    assert (votes[:, 1] > 0).all()
    none = torch.tensor([[math.nan] * 3, [9.0, math.nan, INF], [-INF] * 3, [INF, INF, 1.0], [INF] * 3])
    assert not ballot(none).any()


def test_the_soft_vote_of_an_infinite_logit_is_the_limit():
    votes = SoftVote()(torch.tensor([[5.0, INF, -INF], [0.0, 1e30, 0.0]]))
    assert votes.tolist() == [[0, SCORE_UNIT, 0]] * 2


def test_an_answer_of_nan_is_never_right():
    logits = torch.tensor([[3.0, 1.0, 2.0], [math.nan] * 3, [-INF] * 3, [INF, INF, 0.0], [2.0, 2.0, 0.0]])
    zeros = torch.zeros(5, dtype=torch.int64)
    assert contains_label(logits, zeros).tolist() == [True, False, False, False, True]
    assert contains_label(logits, zeros + 2).tolist() == [False] * 5
    assert contains_label(logits, zeros + 2, k=2).tolist() == [True, False, False, False, False]
    assert contains_label(logits, zeros + 1, k=3).tolist() == [True, False, False, False, True]


@pytest.mark.parametrize(
    "procedure",
    [Cohen(n=500), TwoSided(n=500), TwoStage(n=500), FixedRadius(radius=0.1, n=500), Predict(n=500)],
)
def test_an_image_without_an_answer_is_certified_nowhere(procedure):
    class Overflows(nn.Module):
        """Answers NaN for bright images."""

        def forward(self, batch):
            logits = torch.tensor([1.0, 0.0, 0.0]).repeat(len(batch), 1)
            logits[batch.flatten(1).mean(1) > 0.5] = math.nan
            return logits

    images = torch.stack([torch.full(SHAPE, 0.1), torch.full(SHAPE, 0.9)])
    records = SmoothedClassifier(Overflows(), GaussianNoise(0.05)).run(procedure, images)
    assert [record.prediction for record in records] == [0, -1]


def test_lower_precision_is_recorded_as_another_classifier(network, images):
    numerics = Numerics("bf16-mixed", channels_last=True)
    classifier = SmoothedClassifier(network, GaussianNoise(0.5), numerics=numerics)
    counts = classifier.votes(images, 200, batch_size=32)
    assert (counts.sum(axis=1) == 200).all()
    exact = SmoothedClassifier(network, GaussianNoise(0.5)).votes(images, 200, batch_size=32)
    assert 0 < np.abs(counts - exact).sum() < 0.2 * counts.sum()
    assert numerics.described(torch.device("cpu"))["precision"] == "bf16-mixed"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_it_is_the_same_classifier(network, images):
    plain = SmoothedClassifier(network.layers, GaussianNoise(0.5))
    expected = plain.votes(images, 200, batch_size=32)
    for mode in (torch.no_grad, torch.inference_mode):
        compiled = SmoothedClassifier(network.layers, GaussianNoise(0.5), numerics=Numerics(compile=True))
        with mode():
            difference = compiled.votes(images.clone(), 200, batch_size=32) - expected
        assert np.abs(difference).sum() <= 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_its_weights_are_constants_for_any_number_of_networks(images):
    batch = images.contiguous(memory_format=torch.channels_last)
    for _ in range(torch._dynamo.config.recompile_limit + 1):
        network = Network().layers.eval()
        forward = Forward(network, Numerics(channels_last=True, compile=True), torch.device("cpu"))
        counters.clear()
        assert torch.allclose(forward(batch), network(images), atol=1e-5)
        assert counters["inductor"]["binary_folding"] > 0  # BatchNorm went into the convolution


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_a_random_network_stays_random(images):
    forward = Forward(NoisyWeights(), Numerics(channels_last=True, compile=True), torch.device("cpu"))
    batch = images.contiguous(memory_format=torch.channels_last)
    assert check_network(forward, images[0], GaussianNoise(0.5), generator(0, "test"))
    outputs = []
    for _ in range(2):
        with torch.random.fork_rng([]):
            torch.manual_seed(5)
            outputs.append(forward(batch))
    assert torch.equal(*outputs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "bf16-true"}, "`precision` must be one of"),
        ({"channels_last": "maybe"}, "`channels_last`"),
    ],
)
def test_bad_numerics_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Numerics(**arguments)


def test_by_default_an_image_has_noise_of_its_own_whatever_the_batch():
    """In a loop over batches all images had the noise of the first one."""
    images = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    alike = images[:1] + torch.arange(60).view(-1, 1, 1, 1) * 1e-4  # almost one image
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    classifier = SmoothedClassifier(network, GaussianNoise(0.5), seed=1)
    together = classifier.votes(images, 200)
    assert np.array_equal(together, np.concatenate([classifier.votes(image[None], 200) for image in images]))
    assert np.array_equal(together[[4, 2]], classifier.votes(images[[4, 2]], 200))
    counts = np.concatenate([classifier.votes(image[None], 200) for image in alike.clamp(max=1)])
    assert len({tuple(row) for row in counts}) > 10
    repeated = classifier.votes(images[:1].repeat(20, 1, 1, 1), 200)
    assert len({tuple(row) for row in repeated}) > 5  # copies of one image in a call too
    assert np.array_equal(repeated[0], together[0])
