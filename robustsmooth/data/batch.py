"""What every loader yields."""

from typing import NamedTuple

from torch import Tensor

__all__ = ["Batch"]


class Batch(NamedTuple):
    """Images with their labels and their place in the data set.

    Attributes:
        images: ``(B, C, H, W)`` float32 in [0, 1] by the time a module or a callback sees them.
        labels: ``(B,)`` int64.
        indices: ``(B,)`` int64, the image's stable index in its split; logs name images by it.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
