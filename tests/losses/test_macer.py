"""MACER's loss against a NumPy reference and finite differences, with its hinge on finite gaps."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import norm

from robustsmooth.losses import MACERLoss, log_average, mean_terms, radius_hinge


def twin(logits, labels, sigma, robust_weight, inverse_temperature, margin):
    """Zhai et al., Algorithm 1, image by image."""
    copies, batch, _ = logits.shape
    total = 0.0
    for i in range(batch):
        total -= np.log(np.mean([softmax(logits[k, i])[labels[i]] for k in range(copies)]))
        p = np.mean([softmax(inverse_temperature * logits[k, i]) for k in range(copies)], axis=0)
        first, second = np.sort(p)[::-1][:2]
        gap = norm.ppf(second) - norm.ppf(first)
        if p.argmax() == labels[i] and np.isfinite(gap) and abs(gap) <= margin:
            total += robust_weight * sigma / 2 * (gap + margin)
    return total / batch


@pytest.mark.parametrize("scale", [0.05, 0.5, 5.0])
def test_against_the_twin(scale):
    rng = np.random.default_rng(0)
    logits, labels = scale * rng.normal(size=(6, 9, 4)), rng.integers(4, size=9)
    logits[:, np.arange(9), labels] += scale
    loss = MACERLoss(robust_weight=12.0, inverse_temperature=4.0, margin=3.0)
    terms = mean_terms(loss(torch.from_numpy(logits), torch.from_numpy(labels), sigma=0.25))
    assert terms["loss"].item() == pytest.approx(twin(logits, labels, 0.25, 12.0, 4.0, 3.0), rel=1e-10)
    torch.testing.assert_close(terms["loss"], terms["classification"] + terms["robustness"])


def test_finite_differences():
    torch.manual_seed(0)
    logits = torch.randn(5, 6, 4, dtype=torch.float64, requires_grad=True)
    labels = logits.mean(0).argmax(1)
    loss = MACERLoss(inverse_temperature=2.0)
    assert loss(logits, labels, sigma=0.5)["robustness"].sum() > 0
    assert torch.autograd.gradcheck(lambda x: mean_terms(loss(x, labels, sigma=0.5))["loss"], (logits,))


def test_hinge_by_hand():
    probabilities = torch.tensor(
        [[0.8, 0.2, 0.0], [0.8, 0.2, 0.0], [1.0, 0.0, 0.0], [0.9999, 0.0001, 0.0]], dtype=torch.float64
    )
    hinge = radius_hinge(probabilities, torch.tensor([0, 1, 0, 0]), margin=4.0)
    gap = 2 * norm.ppf(0.8)
    # counted; wrong class; infinite gap; gap beyond the margin
    np.testing.assert_allclose(hinge.numpy(), [4.0 - gap, 0, 0, 0], rtol=1e-12)


def test_saturated_softmax_gives_finite_gradients():
    logits = torch.tensor([[[200.0, -200.0, 0.0], [1.0, 0.0, 0.0]]]).requires_grad_()
    mean_terms(MACERLoss()(logits, torch.tensor([0, 0]), sigma=0.25))["loss"].backward()
    assert logits.grad.isfinite().all()
    wrong = torch.tensor([[[-200.0, 200.0]]]).requires_grad_()
    terms = mean_terms(MACERLoss()(wrong, torch.tensor([0]), sigma=0.25))
    terms["loss"].backward()
    assert terms["loss"] == 400
    assert wrong.grad.isfinite().all()


def test_log_average_does_not_underflow():
    logits = torch.tensor([[[0.0, -500.0]], [[0.0, -300.0]]])
    torch.testing.assert_close(log_average(logits)[0, 1], torch.tensor(-300.0 - np.log(2.0)).float())


@pytest.mark.parametrize("argument", ["robust_weight", "inverse_temperature", "margin"])
def test_bad_options(argument):
    with pytest.raises(ValueError, match=f"`{argument}` must"):
        MACERLoss(**{argument: -1.0})
