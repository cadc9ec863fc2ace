"""The term of SmoothMix against a NumPy twin and finite differences."""

import numpy as np
import pytest
import torch
from scipy.special import softmax

from robustsmooth.losses import mixing_divergence
from tests.losses.twins import kl, some_outputs


def test_mixing_against_the_twin():
    logits, mixed, labels, shares = some_outputs()
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
    logits, mixed, labels, shares = (torch.from_numpy(value) for value in some_outputs(1))
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
