"""The terms of SmoothMix and CAT-RS against NumPy twins and finite differences."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from robustsmooth.losses import bottom_cross_entropy, mixing_divergence, worst_divergence


def some(seed=0, copies=3, batch=6, classes=4):
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(copies, batch, classes))
    labels = rng.integers(classes, size=batch)
    logits[:, np.arange(batch // 2), labels[: batch // 2]] += 3  # some are right
    return logits, rng.normal(size=logits.shape), labels, rng.uniform(0, 0.5, size=batch)


def kl(q, p):
    return sum(a * (np.log(a) - np.log(b)) for a, b in zip(q, p, strict=True) if a > 0)


def test_mixing_against_the_twin():
    logits, mixed, labels, shares = some()
    expected = []
    for b in range(len(labels)):
        mean = np.mean([softmax(row) for row in logits[:, b]], axis=0)
        target = (1 - shares[b]) * mean + shares[b] / 4
        item = [kl(target, softmax(row)) for row in mixed[:, b]]
        expected.append(np.mean(item) * (mean.argmax() == labels[b]))
    assert 0 < np.count_nonzero(expected) < len(labels)
    ours = mixing_divergence(*(torch.from_numpy(value) for value in (logits, mixed, labels, shares)))
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-10)


def test_mixing_finite_differences_through_the_targets_too():
    logits, mixed, labels, shares = (torch.from_numpy(value) for value in some(1))
    assert torch.autograd.gradcheck(
        lambda a, b: mixing_divergence(a, b, labels, shares).sum(),
        (logits.requires_grad_(), mixed.requires_grad_()),
    )


def test_mixing_with_no_share_and_a_saturated_softmax():
    logits = torch.tensor([[[300.0, -300.0]]], requires_grad=True)
    mixed = torch.zeros(1, 1, 2, requires_grad=True)
    loss = mixing_divergence(logits, mixed, torch.tensor([0]), torch.zeros(1)).sum()
    loss.backward()
    assert loss.item() == pytest.approx(np.log(2))
    assert logits.grad.isfinite().all()
    assert mixed.grad.isfinite().all()


def test_bottom_cross_entropy_against_the_twin():
    logits, _, labels, _ = some(2)
    kept = np.array([1, 2, 3, 1, 2, 3])
    losses = np.array([[-log_softmax(logits[i, b])[labels[b]] for b in range(6)] for i in range(3)])
    expected = [np.sort(losses[:, b])[: kept[b]].sum() / 3 for b in range(6)]
    tensors = [torch.from_numpy(value) for value in (logits, labels, kept)]
    np.testing.assert_allclose(bottom_cross_entropy(*tensors).numpy(), expected, rtol=1e-10)
    logits = tensors[0].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: bottom_cross_entropy(x, *tensors[1:]).sum(), (logits,))


def test_worst_divergence_against_the_twin():
    logits, other, _, _ = some(3)
    targets = softmax(other[0], axis=1)
    targets[0] = [1, 0, 0, 0]  # votes may be unanimous
    expected = [max(kl(targets[b], softmax(row)) for row in logits[:, b]) for b in range(6)]
    logits, targets = torch.from_numpy(logits), torch.from_numpy(targets)
    np.testing.assert_allclose(worst_divergence(logits, targets).numpy(), expected, rtol=1e-10)
    assert torch.autograd.gradcheck(lambda x: worst_divergence(x, targets).sum(), (logits.requires_grad_(),))
