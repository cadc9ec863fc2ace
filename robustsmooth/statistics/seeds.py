"""What is said about several runs that differ in their seed alone."""

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["mean_and_std"]


def mean_and_std(values: ArrayLike) -> tuple[float, float]:
    """Mean and sample standard deviation over seeds; the latter is NaN for a single run."""
    known = np.asarray(values, float)
    return float(known.mean()), float(known.std(ddof=1)) if known.size > 1 else float("nan")
