"""What the NumPy references of several losses share."""

import numpy as np

__all__ = ["kl", "some_outputs"]


def some_outputs(seed=0, copies=3, batch=6, classes=4):
    """Logits of copies, other logits, labels, shares below one half."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(copies, batch, classes))
    labels = rng.integers(classes, size=batch)
    logits[:, np.arange(batch // 2), labels[: batch // 2]] += 3  # some copies are classified correctly
    return logits, rng.normal(size=logits.shape), labels, rng.uniform(0, 0.5, size=batch)


def kl(q, p):
    """The divergence KL(q || p)."""
    return sum(a * (np.log(a) - np.log(b)) for a, b in zip(q, p, strict=True) if a > 0)
