"""SODM: eq. 13 against a NumPy reference, eq. 10-12 against autograd, and properties of the mappings."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import norm
from torch.nn.functional import one_hot

from robustsmooth.losses import DynamicMapping, SODMLoss, SoftmaxMapping


def twin(logits, labels, robust_weight, threshold):
    """Algorithm 1, step 5, image by image, with M = softmax."""
    total = 0.0
    for i, label in enumerate(labels):
        g = np.mean([softmax(copy) for copy in logits[:, i]], axis=0)
        if g.argmax() != label:
            total -= np.log(g[label])
        elif g[label] < threshold:
            total -= robust_weight * norm.ppf(g[label])
    return total / len(labels)


@pytest.mark.parametrize("scale", [0.3, 3.0])
@pytest.mark.parametrize("threshold", [0.6, 0.99])
def test_against_the_twin(scale, threshold):
    rng = np.random.default_rng(3)
    logits, labels = scale * rng.normal(size=(6, 20, 4)), rng.integers(4, size=20)
    logits[:, np.arange(15), labels[:15]] += 2 * scale
    log_scores = SoftmaxMapping()(torch.from_numpy(logits).requires_grad_())
    terms = SODMLoss(threshold=threshold)(log_scores, torch.from_numpy(labels), robust_weight=6.0)
    assert terms["loss"].item() == pytest.approx(twin(logits, labels, 6.0, threshold), rel=1e-10)
    torch.testing.assert_close(terms["loss"], terms["accuracy"] + terms["robustness"])


@pytest.mark.parametrize("mapping", [SoftmaxMapping(), DynamicMapping(4).double()])
def test_finite_differences(mapping):
    torch.manual_seed(0)
    logits = torch.randn(5, 6, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    labels[:3] = logits.mean(0).argmax(1)[:3]

    def objective(x):
        return SODMLoss()(mapping(x), labels, robust_weight=6.0)["loss"]

    assert torch.autograd.gradcheck(objective, (logits,))


def test_gradient_of_the_loss_is_equation_10():
    """d loss / d u = -beta * slope(g) * (mean over the copies of the mapping's gradient)."""
    torch.manual_seed(1)
    logits = torch.randn(7, 1, 3, dtype=torch.float64)
    logits[..., 0] += 1.0
    logits.requires_grad_()
    labels = torch.tensor([0])
    SODMLoss()(SoftmaxMapping()(logits), labels, robust_weight=2.5)["loss"].backward()
    scores = logits.detach().softmax(dim=2)
    smoothed = scores[:, 0, 0].mean()
    one = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    jacobian = scores[:, 0, :1] * (one - scores[:, 0])
    # The derivative of Phi^-1; the paper prints its exponent with another sigma^2 in the denominator.
    slope = math.sqrt(2 * math.pi) * math.exp(norm.ppf(float(smoothed)) ** 2 / 2)
    torch.testing.assert_close(logits.grad[:, 0], -2.5 * slope * jacobian / 7)


def test_beyond_the_threshold_the_gradient_is_zero():
    logits = torch.tensor([[[9.0, 0.0]]], requires_grad=True)
    terms = SODMLoss(threshold=0.99)(SoftmaxMapping()(logits), torch.tensor([0]), robust_weight=6.0)
    terms["loss"].backward()
    assert terms["loss"] == 0
    assert (logits.grad == 0).all()


def test_saturated_scores_give_finite_gradients():
    logits = torch.tensor([[[300.0, -300.0], [-300.0, 300.0]]], requires_grad=True)
    terms = SODMLoss()(SoftmaxMapping()(logits), torch.tensor([0, 0]), robust_weight=6.0)
    terms["loss"].backward()
    assert terms["loss"].item() == pytest.approx(300.0)
    assert logits.grad.isfinite().all()


def test_a_mapping_without_a_gradient_is_refused_in_training():
    logits = torch.tensor([[[2.0, 1.0]], [[0.0, 3.0]], [[5.0, 4.0]]], requires_grad=True)
    log_scores = one_hot(logits.argmax(dim=2), 2).float().log()  # the 0-1 mapping: what certification counts
    with pytest.raises(ValueError, match="`mapping` passes no gradient"):
        SODMLoss()(log_scores, torch.tensor([0]), robust_weight=1.0)
    with torch.no_grad():  # its value is defined: -beta Phi^-1(2/3)
        value = SODMLoss()(log_scores, torch.tensor([0]), robust_weight=1.0)["loss"]
    assert value.item() == pytest.approx(-norm.ppf(2 / 3), rel=1e-5)


def random_mapping(seed):
    torch.manual_seed(seed)
    mapping = DynamicMapping(hidden=8).double()
    for parameter in mapping.parameters():
        torch.nn.init.normal_(parameter, std=2.0)
    return mapping


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12))
def test_dynamic_mapping_keeps_probabilities_and_is_monotone(seed, classes):
    """For any weights it lies in [0, 1], sums to one, increases in its own logit, and keeps the order."""
    mapping = random_mapping(seed)
    logits = 3 * torch.randn(5, classes, dtype=torch.float64)
    scores = mapping(logits).exp()
    assert ((scores >= 0) & (scores <= 1)).all()
    torch.testing.assert_close(scores.sum(1), torch.ones(5, dtype=torch.float64))
    raised = logits.clone()
    raised[:, 0] += 0.3
    assert (mapping(raised)[:, 0] > mapping(logits)[:, 0] - 1e-12).all()
    assert torch.equal(mapping(logits).argmax(1), logits.argmax(1))


def test_dynamic_mapping_starts_near_softmax_and_can_sharpen():
    torch.manual_seed(0)
    mapping, logits = DynamicMapping(), torch.randn(50, 10)
    assert (mapping(logits).exp() - logits.softmax(1)).abs().max() < 0.1
    with torch.no_grad():
        mapping.slope.fill_(50.0)
    assert (mapping(logits).exp().max(1).values).min() > (logits.softmax(1).max(1).values).min()
    shifted = mapping(logits + 7.0)
    torch.testing.assert_close(shifted, mapping(logits), rtol=1e-4, atol=1e-4)


def test_bad_options():
    with pytest.raises(ValueError, match=r"`threshold` must be in \(0, 1\), got 1.0"):
        SODMLoss(threshold=1.0)
    with pytest.raises(ValueError, match="`hidden` must be at least 1, got 0"):
        DynamicMapping(hidden=0)
