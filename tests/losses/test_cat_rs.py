"""The terms of CAT-RS against NumPy twins and finite differences."""

import numpy as np
import torch
from scipy.special import log_softmax, softmax

from robustsmooth.losses import bottom_cross_entropy, worst_divergence
from tests.losses.twins import kl, some_outputs


def test_bottom_cross_entropy_against_the_twin():
    logits, _, labels, _ = some_outputs(2)
    kept = np.array([1, 2, 3, 1, 2, 3])
    losses = np.array([[-log_softmax(logits[i, b])[labels[b]] for b in range(6)] for i in range(3)])
    expected = [np.sort(losses[:, b])[: kept[b]].sum() / 3 for b in range(6)]
    tensors = [torch.from_numpy(value) for value in (logits, labels, kept)]
    np.testing.assert_allclose(bottom_cross_entropy(*tensors).numpy(), expected, rtol=1e-10)
    logits = tensors[0].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: bottom_cross_entropy(x, *tensors[1:]).sum(), (logits,))


def test_worst_divergence_against_the_twin():
    logits, other, _, _ = some_outputs(3)
    targets = softmax(other[0], axis=1)
    targets[0] = [1, 0, 0, 0]  # votes may be unanimous
    expected = [max(kl(targets[b], softmax(row)) for row in logits[:, b]) for b in range(6)]
    logits, targets = torch.from_numpy(logits), torch.from_numpy(targets)
    np.testing.assert_allclose(worst_divergence(logits, targets).numpy(), expected, rtol=1e-10)
    assert torch.autograd.gradcheck(lambda x: worst_divergence(x, targets).sum(), (logits.requires_grad_(),))
