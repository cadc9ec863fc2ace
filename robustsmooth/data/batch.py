"""The batches of all loaders."""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Images with their labels and their index in the data set.

    Attributes:
        images: ``(B, C, H, W)`` float32 in [0, 1] when a module or a callback gets them.
        labels: ``(B,)`` int64.
        indices: ``(B,)`` int64, the index of the image in its split, by which logs identify it.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
