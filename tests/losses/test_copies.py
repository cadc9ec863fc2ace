"""Losses of noisy copies against NumPy references and finite differences, and sums of several terms."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from robustsmooth.losses import Consistency, CrossEntropy, MACERLoss, Stability, Terms, mean_terms


def some(copies=3, batch=5, classes=4, seed=0, scale=2.0):
    rng = np.random.default_rng(seed)
    logits = scale * rng.normal(size=(copies, batch, classes))
    return logits, rng.integers(classes, size=batch), scale * rng.normal(size=(batch, classes))


def entropy(p):
    return -sum(v * np.log(v) for v in p)


def consistency_twin(logits, labels, clean):
    """Jeong & Shin 2020, image by image, with weights 7 and .3."""
    out = []
    for b in range(logits.shape[1]):
        p = [softmax(row) for row in logits[:, b]]
        mean = np.mean(p, axis=0)
        divergences = [np.sum(mean * (np.log(mean) - np.log(item))) for item in p]
        out.append(7.0 * np.mean(divergences) + 0.3 * entropy(mean))
    return np.array(out)


def stability_twin(logits, labels, clean):
    return np.array(
        [
            1.5 * np.mean([-softmax(clean[b]) @ log_softmax(row) for row in logits[:, b]])
            for b in range(logits.shape[1])
        ]
    )


def cross_entropy_twin(logits, labels, clean):
    return np.array([np.mean([-log_softmax(row)[y] for row in logits[:, b]]) for b, y in enumerate(labels)])


LOSSES = {
    "consistency": (Consistency(weight=7.0, entropy_weight=0.3), consistency_twin),
    "stability": (Stability(weight=1.5), stability_twin),
    "cross_entropy": (CrossEntropy(), cross_entropy_twin),
    "clean_cross_entropy": (
        CrossEntropy(clean=True),
        lambda logits, labels, clean: cross_entropy_twin(clean[None], labels, clean),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_against_the_twin(name):
    loss, twin = LOSSES[name]
    logits, labels, clean = some()
    tensors = [torch.from_numpy(value) for value in (logits, labels, clean)]
    total = sum(loss(*tensors[:2], sigma=0.25, clean=tensors[2]).values())
    np.testing.assert_allclose(total.numpy(), twin(logits, labels, clean), rtol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_finite_differences_in_copies_and_clean_output(name):
    logits, labels, clean = (torch.from_numpy(value) for value in some(seed=1))

    def total(logits, clean):
        return mean_terms(LOSSES[name][0](logits, labels, sigma=0.5, clean=clean))["loss"] + 0 * (
            logits.sum() + clean.sum()
        )

    assert torch.autograd.gradcheck(total, (logits.requires_grad_(), clean.requires_grad_()))


@pytest.mark.parametrize("name", ["consistency", "stability"])
def test_saturated_outputs_have_finite_losses_and_gradients(name):
    logits = torch.tensor([[[300.0, -300.0]], [[-300.0, 300.0]]], requires_grad=True)
    clean = torch.tensor([[300.0, -300.0]], requires_grad=True)
    loss = mean_terms(LOSSES[name][0](logits, torch.tensor([0]), sigma=0.25, clean=clean))["loss"]
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_copies_that_agree_are_consistent():
    logits = torch.randn(1, 6, 4).expand(3, 6, 4)
    terms = Consistency()(logits, torch.zeros(6, dtype=torch.long), sigma=0.25)
    torch.testing.assert_close(terms["consistency"], torch.zeros(6), atol=1e-5, rtol=0)


def test_terms_add_up_under_their_names():
    logits, labels, clean = (torch.from_numpy(value) for value in some())
    both = Terms({"classification": CrossEntropy(), "macer": MACERLoss(), "stability": Stability()})
    terms = both(logits, labels, sigma=0.25, clean=clean)
    assert list(terms) == ["classification", "macer_classification", "robustness", "stability"]
    means = mean_terms(terms)
    assert means["loss"].item() == pytest.approx(sum(term.mean().item() for term in terms.values()))
    assert both.needs_clean
    assert not Terms({"a": CrossEntropy()}).needs_clean
    assert Terms({"a": CrossEntropy(), "b": Consistency()}).min_copies == 2


def test_weights_of_images():
    terms = {"one": torch.tensor([1.0, 5.0]), "two": torch.tensor([0.0, 2.0])}
    assert mean_terms(terms, torch.tensor([1.5, 0.5]))["loss"].item() == pytest.approx((1.5 + 3.5) / 2)
    assert mean_terms(terms, torch.zeros(2))["loss"] == 0
    assert set(mean_terms({"one": torch.ones(2)})) == {"loss"}  # the only term is not logged a second time


@pytest.mark.parametrize("make", [lambda: Consistency(weight=-1.0), lambda: Stability(weight=float("nan"))])
def test_bad_weights(make):
    with pytest.raises(ValueError, match=r"`weight` of .* must not be negative"):
        make()


def test_no_terms():
    with pytest.raises(ValueError, match=r"`loss\.terms` must name at least one term"):
        Terms({})
