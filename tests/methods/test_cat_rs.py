"""A step of CAT-RS is its formula."""

import pytest
import torch

from robustsmooth.attacks import NoisePGD
from robustsmooth.losses import bottom_cross_entropy, worst_divergence
from robustsmooth.methods import CATRSModule
from robustsmooth.smoothing.addressing import BatchRandomness
from tests.methods.small import MOVES_IMAGES, SGD, Network, at_epoch, batch, copies_of

MOMENTS = NoisePGD(steps=2, epsilon=0.5, restore="moments")


@pytest.fixture
def votes(tmp_path):
    rows = [f"{index}\t{index % 3}:{9 - index},{(index + 1) % 3}:{1 + index}" for index in range(6)]
    (tmp_path / "predict.tsv").write_text("\n".join(["idx\tcounts", *rows]) + "\n")
    return tmp_path


def cat_rs(votes, **options):
    return CATRSModule(
        Network(), SGD, **{"sigma": 0.2, "attack": MOMENTS, "targets": str(votes), "copies": 3, **options}
    )


@pytest.mark.parametrize("mask", [False, True])
def test_cat_rs_is_its_formula(votes, mask):
    method = cat_rs(votes, robust_weight=2.0, confidence_mask=mask)
    images, labels, indices = batch()
    targets = method.targets.shares(indices)
    noises = method.noises(images, 3)
    attacked = MOMENTS(
        method.network, images, targets, noises=noises, randomness=BatchRandomness(0, "unused")
    )
    logits = copies_of(method.network, images, noises)
    own = targets[torch.arange(6), labels] if mask else (logits.argmax(2) == labels).float().mean(0)
    numbers = method.randomness("binomial").uniform(own, 3)
    kept = (numbers < own).sum(0).clamp(min=1)
    high = worst_divergence(copies_of(method.network, images, attacked), targets) * (kept == 3)
    expected = bottom_cross_entropy(logits, labels, kept).mean() + 2 * high.mean()
    result = method.training_loss(batch())
    torch.testing.assert_close(result["loss"], expected, rtol=1e-4, atol=1e-5)
    assert result["sure"] == (kept == 3).float().mean()


def test_k_is_binomial_and_at_least_one(votes):
    method = cat_rs(votes, copies=4, confidence_mask=True)
    targets = torch.tensor([[0.3, 0.7, 0.0]]).expand(20000, 3)
    kept = method._kept(torch.empty(4, 20000, 3), torch.zeros(20000, dtype=torch.long), targets)
    share = (kept == 4).float().mean().item()
    assert share == pytest.approx(0.3**4, abs=4 * (0.3**4 / 20000) ** 0.5)
    low = (kept == 1).float().mean().item()  # zero or one of four
    assert low == pytest.approx(0.7**4 + 4 * 0.3 * 0.7**3, abs=4 * (0.25 / 20000) ** 0.5)


def test_epsilon_grows_at_its_epoch(votes, monkeypatch):
    method = cat_rs(votes, epsilon_factor=2.0, epsilon_epoch=3)
    assert method._attack().epsilon == 0.5
    at_epoch(monkeypatch, CATRSModule, 3)
    assert method._attack().epsilon == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": None}, r"data\.subset\.split=train prediction\.n=10000"),
        ({"targets": "nowhere"}, "there are no votes in"),
        ({"attack": MOVES_IMAGES}, "an attack that moves the noise"),
        ({"robust_weight": -1.0}, "`method.robust_weight`"),
        ({"epsilon_factor": 0.0}, "`method.epsilon_factor`"),
    ],
)
def test_cat_rs_refuses(votes, options, message):
    with pytest.raises(ValueError, match=message):
        cat_rs(votes, **options)
